"""Means over seeds, and paired differences with Student's t intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# Two-sided 95 % quantiles of Student's t, by degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Difference(NamedTuple):
    mean: float
    half_width: float | None
    """Of the 95 % interval; None for a single pair."""
    num_seeds: int


def paired_difference(pairs: Sequence[tuple[float, float]]) -> Difference:
    """Difference of two arms, first minus second, that share seeds: corpus, proxy, data order and initial weights.

    The interval takes the seeds for a sample of normal differences (Student 1908): with three of them it is wide, as it
    must be.
    """
    differences = [first - second for first, second in pairs]
    num = len(differences)
    if num < 2:
        return Difference(differences[0], None, num)
    assert num - 1 <= len(_T95), f"{num} seeds; extend the table of quantiles"
    half = _T95[num - 2] * statistics.stdev(differences) / math.sqrt(num)
    return Difference(statistics.mean(differences), half, num)


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """`0.123 ± 0.004`; of one value no deviation."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def signed(found: Difference, digits: int) -> str:
    """`+0.05 [+0.01, +0.09]`, bold where the interval leaves zero out."""
    if found.half_width is None:
        return f"{found.mean:+.{digits}f}"
    low, high = found.mean - found.half_width, found.mean + found.half_width
    text = f"{found.mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"**{text}**" if low > 0 or high < 0 else text
