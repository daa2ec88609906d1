"""Ray glue of the trajectories stage: a task per group of parts joins and writes them.

Memory: a task holds one part of all snapshots; the driver one row of statistics per part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from s2l_ray.corpus.build import part_name
from s2l_ray.corpus.example_id import ids_to_array
from s2l_ray.proxy.snapshots import Snapshot, snapshot_folder
from s2l_ray.run_folder.storage import Storage
from s2l_ray.trajectories.join import JoinError, join_part


@dataclass(frozen=True)
class TrajectoryParts:
    num_examples: int
    num_snapshots: int
    fingerprint: str
    parts: list[dict[str, Any]]
    """[{part, rows, fingerprint}] in order."""


class JoinTask:
    def __init__(self, tokens: Storage, proxy: Storage, snapshots: list[Snapshot], out: Storage) -> None:
        self.tokens, self.proxy, self.snapshots, self.out = tokens, proxy, snapshots, out

    def __call__(self, batch: dict[str, Any]) -> Iterator[pa.Table]:
        for part in batch["item"]:
            yield pa.Table.from_pylist([self.one(int(part))])

    def one(self, part: int) -> dict[str, Any]:
        name = part_name(part)
        expected = self.tokens.read_table(name, columns=["example_id", "source"])
        tables = [snapshot_folder(self.proxy, s.snapshot).sub(s.weights).read_table(name) for s in self.snapshots]
        joined = join_part(name, ids_to_array(expected["example_id"]), expected["source"], tables)
        self.out.write_table(name, joined, compression="zstd")
        digest = hashlib.blake2b(digest_size=16)
        digest.update(ids_to_array(joined["example_id"]).tobytes())
        digest.update(joined["loss_nats"].combine_chunks().flatten().to_numpy().tobytes())
        return {"part": part, "rows": joined.num_rows, "fingerprint": digest.hexdigest()}


def build_trajectories(
    tokens: Storage,
    token_parts: list[tuple[int, int]],
    proxy: Storage,
    snapshots: list[Snapshot],
    out: Storage,
    parallelism: int,
) -> TrajectoryParts:
    """Join all parts.

    Args:
        token_parts: (part, rows) as the tokens stage counted them.
        snapshots: complete ones, in the order of time.

    Raises:
        JoinError: ids missing, doubled, foreign, or losses not finite.
    """
    import ray.data

    out.delete_dir()
    parts = [p for p, _ in token_parts]
    try:
        stats = (
            ray.data.from_items(parts, override_num_blocks=min(len(parts), 4 * parallelism))
            .map_batches(JoinTask(tokens, proxy, snapshots, out), batch_size=None, batch_format="numpy")
            .take_all()
        )
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, JoinError):
            raise error.cause from None
        raise
    rows = {s["part"]: s["rows"] for s in stats}
    if rows != dict(token_parts):
        raise JoinError(f"{sum(rows.values())} trajectories were joined, {sum(r for _, r in token_parts)} expected")
    ordered = sorted(stats, key=lambda s: s["part"])
    digest = hashlib.blake2b("".join(s["fingerprint"] for s in ordered).encode(), digest_size=16)
    return TrajectoryParts(sum(rows.values()), len(snapshots), digest.hexdigest(), ordered)
