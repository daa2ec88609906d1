"""The shuffle: blocks of rows → parts, by Ray Data's sort with boundaries that are known in advance.

Memory: parts are equal ranges of a hash, so boundaries need no sample of the rows, and a partition is a run of parts of
about `_PARTITION_BYTES`. A task that splits rows holds `_MAP_BYTES` about twice, one that assembles a partition holds
it about three times, whatever the corpus's size. What does grow is the number of pieces (partitions × splitting tasks):
each is an object in Ray, for which the driver keeps about 3 kB. So a large corpus is exchanged in rounds of some of the
parts each: every round reads all rows again, and sends only those of its parts.

Rows of 1 kB take 2 kB here. 10⁷ rows take one round of 150 × 600 pieces; 10⁸ rows take 5 rounds of 300 × 610.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.data.corpus_parts import HoldOut, add_part_column, write_part
from s2l_ray.storage.folder import Storage

_PARTITION_BYTES = 32 * 2**20
_MAP_BYTES = 128 * 2**20
_MAX_PIECES = 200_000
_FEW_BLOCKS = 64
"""Up to this many blocks are exchanged directly by plain tasks, in a third of the time that Ray Data's default shuffle
needs to start; that one is made for more blocks, which would be exchanged as thousands of tiny pieces."""


@dataclass(frozen=True)
class Round:
    """Parts [`first`, `end`) that are exchanged together; `starts` are the first parts of all partitions but the
    first."""

    first: int
    end: int
    starts: list[int]


def plan_rounds(num_parts: int, num_bytes: int, parallelism: int) -> list[Round]:
    """Plan partitions by size, with at least a few for every task that runs at once, and rounds that bound the number
    of pieces."""
    num_partitions = min(num_parts, max(2 * parallelism, -(-num_bytes // _PARTITION_BYTES)))
    pieces = num_partitions * -(-num_bytes // _MAP_BYTES)
    num_rounds = min(num_partitions, max(1, math.ceil(math.sqrt(pieces / _MAX_PIECES))))  # each round has fewer of both
    starts = [i * num_parts // num_partitions for i in range(num_partitions)] + [num_parts]
    cuts = [i * num_partitions // num_rounds for i in range(num_rounds + 1)]
    return [Round(starts[begin], starts[end], starts[begin + 1 : end]) for begin, end in itertools.pairwise(cuts)]


def write_in_parts(
    rows: Any,
    num_parts: int,
    duplicates: str,
    out: Storage,
    hold_out: HoldOut,
    parallelism: int,
    facets: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Write the rows of a materialized dataset as files of parts → each part's statistics, in any order."""
    from ray.data.context import ShuffleStrategy

    stats: list[dict[str, Any]] = []
    for part_range in plan_rounds(num_parts, rows.size_bytes(), parallelism):
        bucketed = rows.map_batches(
            rows_of_parts,
            fn_kwargs={"num_parts": num_parts, "first": part_range.first, "end": part_range.end},
            batch_format="pyarrow",
            batch_size=None,
        )
        if rows.num_blocks() <= _FEW_BLOCKS:
            bucketed.context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
        bucketed.context.shuffle_input_batch_bytes = _MAP_BYTES
        bucketed.context.target_max_block_size = None  # a part split over two blocks would be written twice
        boundaries: list[int | float] = [*part_range.starts] or [part_range.end]
        written = bucketed.sort("part", boundaries=boundaries).map_batches(
            write_parts,
            fn_kwargs={"duplicates": duplicates, "out": out, "hold_out": hold_out, "facets": facets},
            batch_format="pyarrow",
            batch_size=None,
        )
        stats += written.take_all()
    return stats


def rows_of_parts(table: pa.Table, num_parts: int, first: int, end: int) -> pa.Table:
    """The rows of parts [`first`, `end`), with a column for the part."""
    table = add_part_column(table, num_parts)
    if (first, end) == (0, num_parts):
        return table
    part = table["part"].to_numpy()
    return table.filter(pa.array((part >= first) & (part < end)))


def write_parts(
    table: pa.Table, duplicates: str, out: Storage, hold_out: HoldOut, facets: Sequence[str] = ()
) -> Iterator[pa.Table]:
    """Write a partition, whose rows are sorted by part, one part after the other."""
    if not table.num_rows:
        return
    part = table["part"].to_numpy()
    bounds = np.flatnonzero(np.diff(part, prepend=-1, append=-1))
    for start, end in itertools.pairwise(bounds):
        yield write_part(table.slice(start, end - start), duplicates, out, hold_out, facets)
