"""Weights and stages of a subset's examples, by id.

Memory: 16 bytes per example, plus 4 for a weight and 1 for a stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from s2l_ray.data.columns import STAGE, WEIGHT
from s2l_ray.data.example_id import array_to_hex, ids_to_array
from s2l_ray.data.token_examples import Examples
from s2l_ray.errors import DataError
from s2l_ray.storage.folder import Storage

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class SubsetMarks:
    ids: Array
    """(n, 2) uint64, ascending."""
    weights: Array | None
    """(n,) float32."""
    stages: Array | None
    """(n,) int8."""

    @classmethod
    def read(cls, subset: Storage, weighted: bool, staged: bool) -> SubsetMarks:
        """Read the marks from a subset's folder."""
        names = [WEIGHT] * weighted + [STAGE] * staged
        table = subset.read_table("ids.parquet", columns=["example_id", *names])
        ids = ids_to_array(table["example_id"])
        order = np.lexsort((ids[:, 1], ids[:, 0]))
        columns = [table[name].to_numpy()[order] if name in names else None for name in (WEIGHT, STAGE)]
        return cls(ids[order], *columns)

    def attach(self, loaded: Iterable[Examples]) -> Iterator[Examples]:
        """Yield the same examples with their weights and stages.

        Raises:
            DataError: an example is not in the subset.
        """
        for examples in loaded:
            rows = self.rows_of(examples.ids)
            marks = [None if mark is None else mark[rows] for mark in (self.weights, self.stages)]
            yield replace(examples, weights=marks[0], stages=marks[1])

    def rows_of(self, ids: Array) -> Array:
        """Return the rows of ids (M, 2) in the subset, (M,) int64.

        Raises:
            DataError: an id is not in the subset.
        """
        rows = np.searchsorted(self.ids[:, 0], ids[:, 0])
        last = len(self.ids) - 1
        while True:  # ids are hashes: equal high halves are rare, and then adjacent
            here = np.minimum(rows, last)
            later = (self.ids[here, 0] == ids[:, 0]) & (self.ids[here, 1] < ids[:, 1]) & (rows < last)
            if not later.any():
                break
            rows = rows + later
        absent = np.flatnonzero((self.ids[here] != ids).any(axis=1))
        if len(absent):
            raise DataError(
                f"{len(absent)} examples are not in the subset ({', '.join(array_to_hex(ids[absent[:3]]))}), so they "
                "have neither weight nor stage; delete the folder of its tokens and run again"
            )
        return here
