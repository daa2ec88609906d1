"""Snapshots on storage: `snapshot-<k>/<weights>/part-<p>.parquet`, then `snapshot-<k>/manifest.json`.

The middle folder is the fingerprint of the weights: if a restart has different weights (GPU arithmetic need not be
reproducible bit for bit), it starts the snapshot again instead of mixing losses. The folder is TRAINING for losses that
training computed during an epoch; a restart then rewrites everything that its last checkpoint lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.manifest import ManifestError
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ID_TYPE, array_to_ids
from s2l_ray.errors import first_line
from s2l_ray.storage.folder import Storage

_MANIFEST = "manifest.json"
TRAINING = "training"
TREND = "trend_nats"
"""Column of losses computed by training: mean loss of the examples seen at about the same time."""

SCORE_SCHEMA = pa.schema(
    [
        ("example_id", ID_TYPE),
        ("snapshot", pa.int32()),
        ("loss_nats", pa.float32()),
        ("num_response_tokens", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Snapshot:
    """A complete snapshot."""

    snapshot: int
    step: int
    """Optimiser steps done when the snapshot was taken."""
    weights: str
    num_examples: int
    mean_loss_nats: float
    """Mean over the examples."""
    files: list[dict[str, Any]] = field(default_factory=list)
    """{name in the stage's folder, size, digest} of the parts."""
    epoch: int | None = None
    """Epoch in which training computed the losses, counted from 0; None: they were scored."""

    def plain(self) -> dict[str, Any]:
        """Return plain data without the files, of which there may be tens of thousands."""
        return {name: value for name, value in asdict(self).items() if name != "files"}


def snapshot_folder(out: Storage, snapshot: int) -> Storage:
    return out.sub("snapshots", _folder_name(snapshot))


def _folder_name(snapshot: int) -> str:
    return f"snapshot-{snapshot:03d}"


def weights_folder(snapshot: int) -> str:
    """Return the folder of a snapshot's weights, if they were kept, relative to the stage's."""
    return f"snapshots/{_folder_name(snapshot)}/model/"


def target_weights_folder(step: int) -> str:
    """Return the folder of a target's weights after `step` optimiser steps, if kept, relative to the stage's."""
    return f"snapshots/step-{step:08d}/model"


def read_snapshot(out: Storage, snapshot: int) -> Snapshot | None:
    """Read a snapshot's manifest; None while the snapshot is incomplete.

    Raises:
        ManifestError: the file is not a snapshot's manifest.
    """
    folder = snapshot_folder(out, snapshot)
    if not folder.exists(_MANIFEST):
        return None
    try:
        return Snapshot(**folder.read_json(_MANIFEST))
    except (ValueError, TypeError, RecursionError) as error:
        raise ManifestError(
            f"{folder.uri_of(_MANIFEST)} is damaged ({first_line(error)}), so the snapshot's content is unknown; "
            "run the same command again, and the proxy is retrained to score it"
        ) from error


def write_snapshot(out: Storage, snapshot: Snapshot) -> None:
    """Write the manifest, which declares the snapshot complete."""
    snapshot_folder(out, snapshot.snapshot).write_json(_MANIFEST, asdict(snapshot))


def score_name(snapshot: int, weights: str, part: int) -> str:
    """Return the name of a part of scores, relative to the stage's folder."""
    return score_folder(snapshot, weights) + part_name(part)


def score_folder(snapshot: int, weights: str) -> str:
    """Return the folder of the parts of scores, relative to the stage's."""
    return f"snapshots/{_folder_name(snapshot)}/{weights}/"


def missing_parts(out: Storage, snapshot: int, weights: str, parts: list[int]) -> list[int]:
    """Return the parts that have not been scored yet with these weights."""
    done = {entry.name for entry in snapshot_folder(out, snapshot).list(weights)}
    return [p for p in parts if f"{weights}/{part_name(p)}" not in done]


def lost_part(out: Storage, num_snapshots: int, parts: list[int]) -> str:
    """Return a part that a complete snapshot lacks, or a damaged manifest after deleting it; "" if all are complete."""
    for index in range(num_snapshots):
        try:
            snapshot = read_snapshot(out, index)
        except ManifestError:
            snapshot_folder(out, index).delete(_MANIFEST)
            return snapshot_folder(out, index).uri_of(_MANIFEST)
        missing = [] if snapshot is None else missing_parts(out, index, snapshot.weights, parts)
        if snapshot is not None and missing:
            return snapshot_folder(out, index).uri_of(f"{snapshot.weights}/{part_name(missing[0])}")
    return ""


def score_table(
    ids: np.ndarray,
    snapshot: int,
    losses: np.ndarray,
    counts: np.ndarray,
    trend: np.ndarray | None = None,
    signals: Mapping[str, np.ndarray] | None = None,
) -> pa.Table:
    """Return the rows that a worker writes: SCORE_SCHEMA, plus TREND if training computed them, or else the signals.

    Args:
        ids: (n, 2) uint64.
        losses: (n,) float32, nats, and `trend`.
        counts: (n,) int32, response tokens.
        signals: column → (n,) float32, see selection.signals.SCALARS.
    """
    columns = [array_to_ids(ids), pa.array(np.full(len(losses), snapshot, dtype=np.int32)), pa.array(losses)]
    table = pa.table([*columns, pa.array(counts)], schema=SCORE_SCHEMA)
    for name, values in (signals or {}).items():
        table = table.append_column(name, pa.array(values))
    return table if trend is None else table.append_column(TREND, pa.array(trend))
