"""A snapshot on storage: `snapshot-<k>/<weights>/part-<p>.parquet`, then `snapshot-<k>/manifest.json`.

The folder's middle name is the fingerprint of the weights: a restart that arrives with other weights (GPU arithmetic
need not repeat bit for bit) starts that snapshot anew instead of mixing. It is TRAINING where the losses are those that
the training computed in the course of an epoch; a restart then writes again all that its last checkpoint lacks.
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
"""Column of such losses: what training as a whole had come to when it met the example."""

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
    """Optimiser steps done when it was taken."""
    weights: str
    num_examples: int
    mean_loss_nats: float
    """Mean over the examples."""
    files: list[dict[str, Any]] = field(default_factory=list)
    """{name in the stage's folder, size, digest} of its parts."""
    epoch: int | None = None
    """In which training computed the losses, counted from 0; None: they were scored."""

    def plain(self) -> dict[str, Any]:
        """Without the files, of which there may be tens of thousands."""
        return {name: value for name, value in asdict(self).items() if name != "files"}


def snapshot_folder(out: Storage, snapshot: int) -> Storage:
    return out.sub("snapshots", _folder_name(snapshot))


def _folder_name(snapshot: int) -> str:
    return f"snapshot-{snapshot:03d}"


def weights_folder(snapshot: int) -> str:
    """Of a snapshot's weights, where they were kept, in the stage's folder."""
    return f"snapshots/{_folder_name(snapshot)}/model/"


def target_weights_folder(step: int) -> str:
    """Of a target's weights after so many optimiser steps, where they were kept, in the stage's folder."""
    return f"snapshots/step-{step:08d}/model"


def read_snapshot(out: Storage, snapshot: int) -> Snapshot | None:
    """The manifest; None while the snapshot is incomplete.

    Raises:
        ManifestError: it is not a snapshot's manifest.
    """
    folder = snapshot_folder(out, snapshot)
    if not folder.exists(_MANIFEST):
        return None
    try:
        return Snapshot(**folder.read_json(_MANIFEST))
    except (ValueError, TypeError, RecursionError) as error:
        raise ManifestError(
            f"{folder.uri}/{_MANIFEST} is damaged ({first_line(error)}), so what this snapshot holds is not known; "
            "run the same command again, and the proxy is retrained to score it"
        ) from error


def write_snapshot(out: Storage, snapshot: Snapshot) -> None:
    """Declare it complete."""
    snapshot_folder(out, snapshot.snapshot).write_json(_MANIFEST, asdict(snapshot))


def score_name(snapshot: int, weights: str, part: int) -> str:
    """Of a part of scores, in the stage's folder."""
    return score_folder(snapshot, weights) + part_name(part)


def score_folder(snapshot: int, weights: str) -> str:
    """Of the parts of scores, in the stage's folder."""
    return f"snapshots/{_folder_name(snapshot)}/{weights}/"


def missing_parts(out: Storage, snapshot: int, weights: str, parts: list[int]) -> list[int]:
    """Parts that these weights have not scored yet."""
    done = {entry.name for entry in snapshot_folder(out, snapshot).list(weights)}
    return [p for p in parts if f"{weights}/{part_name(p)}" not in done]


def lost_part(out: Storage, num_snapshots: int, parts: list[int]) -> str:
    """A part that a complete snapshot no longer has, or a damaged manifest, which it deletes; "" if all are there."""
    for index in range(num_snapshots):
        try:
            snapshot = read_snapshot(out, index)
        except ManifestError:
            snapshot_folder(out, index).delete(_MANIFEST)
            return f"{snapshot_folder(out, index).uri}/{_MANIFEST}"
        missing = [] if snapshot is None else missing_parts(out, index, snapshot.weights, parts)
        if snapshot is not None and missing:
            return f"{snapshot_folder(out, index).uri}/{snapshot.weights}/{part_name(missing[0])}"
    return ""


def score_table(
    ids: np.ndarray,
    snapshot: int,
    losses: np.ndarray,
    counts: np.ndarray,
    trend: np.ndarray | None = None,
    signals: Mapping[str, np.ndarray] | None = None,
) -> pa.Table:
    """The rows that a worker writes, SCORE_SCHEMA; with the column TREND where training computed them, else with
    signals beside the loss.

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
