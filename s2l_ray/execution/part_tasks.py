"""Runs a function over the parts of an artifact, several parts per Ray Data task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from s2l_ray.execution.failures import unwrap_task_errors

Statistics = dict[str, Any]


class _OverParts:
    def __init__(self, task: Callable[[int], Statistics]) -> None:
        self.task = task

    def __call__(self, batch: dict[str, Any]) -> Iterator[pa.Table]:
        for part in batch["item"]:
            yield pa.Table.from_pylist([self.task(int(part))])


def map_parts(
    parts: list[int], task: Callable[[int], Statistics], parallelism: int, on_rows: Callable[[int], None]
) -> list[Statistics]:
    """Run `task(part)` → one row of statistics with `part` and `rows` for every part, sorted by part.

    A task must overwrite what an earlier attempt left behind: Ray runs it again if its worker dies.

    Args:
        task: picklable.
        parallelism: about how many tasks the cluster runs at once.
        on_rows: called with the number of rows of every finished part.
    """
    return sorted(each_part(parts, task, parallelism, on_rows), key=lambda s: s["part"])


def each_part(
    parts: list[int], task: Callable[[int], Statistics], parallelism: int, on_rows: Callable[[int], None]
) -> Iterator[Statistics]:
    """Like `map_parts`, but yields each row as soon as it is available: for rows too large to hold all together."""
    import ray.data

    blocks = min(len(parts), 4 * parallelism)
    dataset = ray.data.from_items(parts, override_num_blocks=blocks).map_batches(
        _OverParts(task), batch_size=None, batch_format="numpy"
    )
    with unwrap_task_errors():
        for row in dataset.iter_rows():
            on_rows(row["rows"])
            yield row
