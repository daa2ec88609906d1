"""A snapshot on storage: `snapshot-<k>/<weights>/part-<p>.parquet`, then `snapshot-<k>/manifest.json`.

The folder's middle name is the fingerprint of the weights: a restart that arrives with other weights (GPU arithmetic
need not repeat bit for bit) starts that snapshot anew instead of mixing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.manifest import ManifestError
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ID_TYPE, array_to_ids
from s2l_ray.data.token_examples import Examples
from s2l_ray.errors import UserError, first_line
from s2l_ray.storage.folder import Storage

_MANIFEST = "manifest.json"

SCORE_SCHEMA = pa.schema(
    [
        ("example_id", ID_TYPE),
        ("snapshot", pa.int32()),
        ("loss_nats", pa.float32()),
        ("num_response_tokens", pa.int32()),
    ]
)


class PlanError(UserError):
    """The schedule asked for does not exist; says the numbers."""


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

    def plain(self) -> dict[str, Any]:
        """Without the files, of which there may be tens of thousands."""
        return {name: value for name, value in asdict(self).items() if name != "files"}


def snapshot_folder(out: Storage, snapshot: int) -> Storage:
    return out.sub("snapshots", _folder_name(snapshot))


def _folder_name(snapshot: int) -> str:
    return f"snapshot-{snapshot:03d}"


def read_snapshot(out: Storage, snapshot: int) -> Snapshot | None:
    """The manifest; None while the snapshot is incomplete.

    Raises:
        ManifestError: it is no snapshot's manifest.
    """
    folder = snapshot_folder(out, snapshot)
    if not folder.exists(_MANIFEST):
        return None
    try:
        return Snapshot(**folder.read_json(_MANIFEST))
    except (ValueError, TypeError, RecursionError) as error:
        raise ManifestError(
            f"{folder.uri}/{_MANIFEST} is damaged ({first_line(error)}), so what this snapshot holds is not known; "
            "run the same command again, and the proxy is trained anew to score it"
        ) from error


def write_snapshot(out: Storage, snapshot: Snapshot) -> None:
    """Declare it complete."""
    snapshot_folder(out, snapshot.snapshot).write_json(_MANIFEST, asdict(snapshot))


def score_name(snapshot: int, weights: str, part: int) -> str:
    """Of a part of scores, in the stage's folder."""
    return f"snapshots/{_folder_name(snapshot)}/{weights}/{part_name(part)}"


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


def score_table(examples: Examples, snapshot: int, losses: np.ndarray, counts: np.ndarray) -> pa.Table:
    """The rows that a worker writes, SCORE_SCHEMA."""
    columns = [
        array_to_ids(examples.ids),
        pa.array(np.full(len(losses), snapshot, dtype=np.int32)),
        pa.array(losses),
        pa.array(counts),
    ]
    return pa.table(columns, schema=SCORE_SCHEMA)


def snapshot_steps(total_steps: int, num_snapshots: int, include_step_zero: bool) -> list[int]:
    """After how many optimiser steps the examples are scored: evenly spaced, first and last included; once: the last.

    Raises:
        PlanError: fewer steps than snapshots.
    """
    first = 0 if include_step_zero else 1
    if total_steps - first + 1 < num_snapshots:
        raise PlanError(
            f"trajectories.num_snapshots={num_snapshots} cannot be spread over {total_steps} optimiser steps; "
            "take fewer snapshots, more epochs (proxy.epochs) or a smaller proxy.global_batch_size"
        )
    if num_snapshots == 1:
        return [total_steps]
    return [int(s) for s in np.linspace(first, total_steps, num_snapshots).round()]
