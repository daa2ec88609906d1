"""Run a task over the parts of an artifact, some parts a Ray Data task."""

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
    """task(part) → one row of statistics with `part` and `rows`; all of them, by part.

    A task must overwrite what an earlier attempt left: Ray runs it again when its worker dies.

    Args:
        task: picklable.
        parallelism: about how many tasks the cluster runs at once.
        on_rows: told the rows of every finished part.
    """
    import ray.data

    blocks = min(len(parts), 4 * parallelism)
    dataset = ray.data.from_items(parts, override_num_blocks=blocks).map_batches(
        _OverParts(task), batch_size=None, batch_format="numpy"
    )
    stats = []
    with unwrap_task_errors():
        for row in dataset.iter_rows():
            stats.append(row)
            on_rows(row["rows"])
    return sorted(stats, key=lambda s: s["part"])
