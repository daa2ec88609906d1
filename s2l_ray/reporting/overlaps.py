"""Overlap of subsets within a run, and across runs with other seeds, proxies or settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from s2l_ray.artifacts.run import Run
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.reporting.facts_contents import Overlap
from s2l_ray.reporting.rows import Rows

Array = np.ndarray[Any, np.dtype[Any]]

MAX_SUBSETS = 12


def overlaps_of(rows: Rows, compared: Sequence[tuple[str, Run]]) -> Overlap | None:
    """Jaccard similarity of all pairs of subsets; None for fewer than two.

    Args:
        compared: name and run whose subsets are to be compared with this run's.
    """
    labels = [subset.label for subset in rows.subsets]
    ids = [np.concatenate([*subset.by_part.values(), np.zeros((0, 2), np.uint64)]) for subset in rows.subsets]
    for name, run in compared:
        for label, stage in run.subsets.items():
            labels.append(f"{name}: {label}")
            ids.append(ids_to_array(stage.storage.read_table("ids.parquet", columns=["example_id"])["example_id"]))
    labels, ids = labels[:MAX_SUBSETS], ids[:MAX_SUBSETS]
    if len(ids) < 2:
        return None
    matrix = np.eye(len(ids))
    for i in range(len(ids)):
        for j in range(i):
            common = num_common(ids[i], ids[j])
            matrix[i, j] = matrix[j, i] = common / max(1, len(ids[i]) + len(ids[j]) - common)
    return Overlap(labels, [[float(x) for x in line] for line in matrix])


def num_common(a: Array, b: Array) -> int:
    """Number of ids (n, 2) that are in both; ids are unique within each."""
    both = np.concatenate([a, b])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    return int((both[1:] == both[:-1]).all(axis=1).sum())
