"""Distribute parts over workers, and group those that a worker loads at once."""

from __future__ import annotations

import numpy as np

from s2l_ray.data.training_order import balance_by_length


def share_of_parts(parts: list[int], rows_of: dict[int, int], rank: int, num_workers: int) -> list[int]:
    """Return the parts of one rank, balanced by examples, because all workers wait for the slowest."""
    rows = np.array([rows_of[part] for part in parts], dtype=np.int64)
    return [parts[i] for i in sorted(balance_by_length(rows, num_workers)[rank])]


def group_parts(parts: list[int], rows_of: dict[int, int], max_rows: int) -> list[tuple[int, ...]]:
    """Group consecutive parts into groups of at most `max_rows` examples (or one part)."""
    groups: list[tuple[int, ...]] = []
    current: list[int] = []
    rows = 0
    for part in parts:
        if current and rows + rows_of[part] > max_rows:
            groups.append(tuple(current))
            current, rows = [], 0
        current.append(part)
        rows += rows_of[part]
    return [*groups, tuple(current)] if current else groups
