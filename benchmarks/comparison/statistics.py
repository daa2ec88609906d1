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
    """Half the width of the 95 % interval; None for a single pair."""
    num_seeds: int


def paired_difference(pairs: Sequence[tuple[float, float]]) -> Difference:
    """Return the difference of two arms, first minus second, paired by seed.

    Arms with the same seed share corpus, proxy, data order and initial weights. The interval treats the seeds'
    differences as a sample from a normal distribution (Student 1908), so with only three seeds it is wide, as it should
    be.
    """
    differences = [first - second for first, second in pairs]
    num = len(differences)
    if num < 2:
        return Difference(differences[0], None, num)
    assert num - 1 <= len(_T95), f"{num} seeds; extend the table of quantiles"
    half = _T95[num - 2] * statistics.stdev(differences) / math.sqrt(num)
    return Difference(statistics.mean(differences), half, num)


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """Format a mean as `0.123 ± 0.004`; without the deviation if there is only one value."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def signed(found: Difference, digits: int) -> str:
    """Format a difference as `+0.05 [+0.01, +0.09]`, in bold if the interval excludes zero."""
    if found.half_width is None:
        return f"{found.mean:+.{digits}f}"
    low, high = found.mean - found.half_width, found.mean + found.half_width
    text = f"{found.mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"**{text}**" if low > 0 or high < 0 else text
