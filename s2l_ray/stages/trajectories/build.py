"""Runs the trajectories stage on Ray: each task joins and writes a group of parts.

Memory: a task holds one part of all snapshots, the driver one row of statistics per part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from s2l_ray.artifacts.snapshots import Snapshot, snapshot_folder
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.execution.part_tasks import map_parts
from s2l_ray.selection.signals import SCALARS
from s2l_ray.stages.trajectories.join import JoinError, join_part, without_trend
from s2l_ray.storage.digests import columns_digest
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage


@dataclass(frozen=True)
class TrajectoryParts:
    num_examples: int
    num_snapshots: int
    fingerprint: str
    """Fingerprint of ids and losses."""
    signals: str | None
    """Fingerprint of the scores other than the loss; None if an earlier version did the scoring, without them."""
    parts: list[dict[str, Any]]
    """[{part, rows, fingerprint}] in order."""


class JoinTask:
    def __init__(self, tokens: Storage, proxy: Storage, snapshots: list[Snapshot], out: Storage) -> None:
        self.tokens, self.proxy, self.snapshots, self.out = tokens, proxy, snapshots, out

    def __call__(self, part: int) -> dict[str, Any]:
        name = part_name(part)
        expected = self.tokens.read_table(name, columns=["example_id", "source"])
        tables = [self._losses(snapshot, name) for snapshot in self.snapshots]
        joined = join_part(name, ids_to_array(expected["example_id"]), expected["source"], tables)
        self.out.write_table(name, joined, compression="zstd")
        digest = hashlib.blake2b(digest_size=16)
        digest.update(ids_to_array(joined["example_id"]).tobytes())
        digest.update(joined["loss_nats"].combine_chunks().flatten().to_numpy().tobytes())
        signals = [name for name in SCALARS if name in joined.column_names]
        return {
            "part": part,
            "rows": joined.num_rows,
            "sequences": expected.num_rows,
            "fingerprint": digest.hexdigest(),
            "signals": columns_digest(joined, signals) if signals else "",
            "written": self.out.take_written(),
        }

    def _losses(self, snapshot: Snapshot, name: str) -> pa.Table:
        table = snapshot_folder(self.proxy, snapshot.snapshot).sub(snapshot.weights).read_table(name)
        return table if snapshot.epoch is None else without_trend(table, snapshot.mean_loss_nats)


def build_trajectories(
    tokens: Storage,
    token_parts: list[tuple[int, int]],
    proxy: Storage,
    snapshots: list[Snapshot],
    out: Storage,
    parallelism: int,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> TrajectoryParts:
    """Join all parts.

    Args:
        token_parts: (part, sequences) as counted by the tokens stage.
        snapshots: complete snapshots, in chronological order.

    Raises:
        JoinError: ids are missing, duplicate or foreign, or losses are not finite.
    """
    out.delete_dir()
    parts = [p for p, _ in token_parts]
    stats = map_parts(parts, JoinTask(tokens, proxy, snapshots, out), parallelism, on_rows)
    for row in stats:
        out.note_written(row.pop("written"))
    joined = {s["part"]: s["sequences"] for s in stats}
    if joined != dict(token_parts):
        raise JoinError(f"{sum(joined.values())} sequences were joined, {sum(r for _, r in token_parts)} expected")
    digest = hashlib.blake2b("".join(s["fingerprint"] for s in stats).encode(), digest_size=16)
    of_signals = [s.pop("signals") for s in stats]
    signals = fingerprint(of_signals) if all(of_signals) else None
    return TrajectoryParts(sum(s["rows"] for s in stats), len(snapshots), digest.hexdigest(), signals, stats)
