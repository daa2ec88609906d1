"""A snapshot on storage: `snapshot-<k>/<weights>/part-<p>.parquet`, then `snapshot-<k>/manifest.json`.

The folder's middle name is the fingerprint of the weights: a restart that arrives with other weights (GPU arithmetic
need not repeat bit for bit) starts that snapshot anew instead of mixing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from s2l_ray.corpus.build import part_name
from s2l_ray.run_folder.storage import Storage


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


def snapshot_folder(out: Storage, snapshot: int) -> Storage:
    return out.sub("snapshots", f"snapshot-{snapshot:03d}")


def read_snapshot(out: Storage, snapshot: int) -> Snapshot | None:
    """The manifest; None while the snapshot is incomplete."""
    folder = snapshot_folder(out, snapshot)
    return Snapshot(**folder.read_json("manifest.json")) if folder.exists("manifest.json") else None


def write_snapshot(out: Storage, snapshot: Snapshot) -> None:
    """Declare it complete."""
    snapshot_folder(out, snapshot.snapshot).write_json("manifest.json", asdict(snapshot))


def missing_parts(out: Storage, snapshot: int, weights: str, parts: list[int]) -> list[int]:
    """Parts that these weights have not scored yet."""
    done = {entry.name for entry in snapshot_folder(out, snapshot).list(weights)}
    return [p for p in parts if f"{weights}/{part_name(p)}" not in done]
