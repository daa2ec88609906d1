"""Streams token parts to a worker through Ray Data: tasks read and decode ahead while the worker computes.

Each worker runs its own Ray Data pipeline over the units that the plan assigns to it. `streaming_split` is not used:
its assignment depends on the number of workers and on timing, and with equal shares it drops rows. A plan is the same
for one worker and for a hundred, and a restart reads only what is still needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.token_parts import to_examples
from s2l_ray.errors import InternalError
from s2l_ray.execution.failures import unwrap_task_errors
from s2l_ray.storage.folder import Storage

_COLUMNS = ["example_id", "input_ids", "response_mask"]
_TASK_CPUS = 0.5


class LoadUnit:
    """Ray Data's map function: unit number → the rows of its parts, one block."""

    def __init__(self, tokens: Storage, units: list[tuple[int, ...]]) -> None:
        self.tokens, self.units = tokens, units

    def table(self, unit: int) -> pa.Table:
        return pa.concat_tables(self.tokens.read_table(part_name(p), columns=_COLUMNS) for p in self.units[unit])

    def __call__(self, batch: dict[str, Any]) -> Iterator[pa.Table]:
        for unit in batch["id"]:
            yield self.table(int(unit))


def stream_units(tokens: Storage, units: list[tuple[int, ...]]) -> Iterator[Examples]:
    """The examples of each unit (part numbers), in order. Without Ray, they are read here, one unit after another.

    Memory: about three units, in the object store and the worker together.
    """
    import ray

    load = LoadUnit(tokens, units)
    if not units:
        return
    if not ray.is_initialized() or len(units) == 1:
        for unit in range(len(units)):
            yield to_examples(load.table(unit))
        return
    import ray.data

    dataset = ray.data.range(len(units), override_num_blocks=len(units)).map_batches(
        load, batch_size=1, num_cpus=_TASK_CPUS, batch_format="numpy"
    )
    batches = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
    count = 0
    with unwrap_task_errors():
        for table in batches:
            yield to_examples(table)
            count += 1
    if count != len(units):
        raise InternalError(f"{len(units)} units of token parts were requested, but {count} arrived")
