"""Bootstrap intervals over held-out examples and seeds, paired differences, and their verdicts. numpy only.

The examples are resampled once for all models, so that differences between models are paired by example
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13: percentile intervals of a cluster
bootstrap, where an example's sequences stay together).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.evaluation.statistics import resampled_sums

Array = np.ndarray[Any, np.dtype[Any]]

NUM_RESAMPLES = 500
MIN_EXAMPLES = 20
"""With fewer examples, a percentile interval is far too narrow, so none is given and no difference is claimed."""
BETTER, WORSE, UNDECIDED = "better", "worse", "not told apart"


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval, without bounds if there are too few examples."""

    value: float
    low: float | None = None
    high: float | None = None


def resampled_means(sums: Array, counts: Array, seed: int = 0, num: int = NUM_RESAMPLES) -> Array:
    """Bootstrap means of M models on the same N examples.

    Args:
        sums: (N, M) sum of a figure over the sequences of an example.
        counts: (N,) sequences of each example.

    Returns:
        (num, M): mean over the sequences of resampled examples, the same examples for all models. Examples without
        sequences do not count; NaN if there are no others.
    """
    sums, counts = sums[counts > 0], counts[counts > 0]
    if not len(counts):
        return np.full((num, sums.shape[1]), np.nan)
    totals = resampled_sums(np.column_stack([sums, counts]), np.random.default_rng(seed), num)  # (num, M + 1)
    return totals[:, :-1] / totals[:, -1:]


def stratified_resamples(strata: Array, seed: int = 0, num: int = NUM_RESAMPLES) -> Iterator[Array]:
    """Yield `num` times the (N,) rows of resampled examples, keeping the size of each stratum; strata (N,) are ints."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    for _ in range(num):
        yield np.concatenate([rows[rng.integers(0, len(rows), len(rows))] for rows in members])


def means_over_seeds(means: Array, groups: list[list[int]], seed: int = 0) -> Array:
    """Means over resampled seeds.

    Args:
        means: (R, M) as of `resampled_means`.
        groups: columns of one subset each, a column a seed; groups of equal size are resampled alike (paired).

    Returns:
        (R, len(groups)).
    """
    out = np.empty((len(means), len(groups)))
    for i, columns in enumerate(groups):
        rng = np.random.default_rng([seed, len(columns)])
        picks = rng.integers(0, len(columns), (len(means), len(columns)))
        out[:, i] = np.take_along_axis(means[:, columns], picks, axis=1).mean(axis=1)
    return out


def estimate(value: float, resampled: Array, num_examples: int) -> Estimate:
    """The value with the interval from the 2.5th to the 97.5th percentile of its resamples."""
    if num_examples < MIN_EXAMPLES:
        return Estimate(float(value))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def verdict(difference: Estimate, more_is_better: bool) -> str:
    """The verdict on a paired difference: `better` or `worse` only if its interval excludes zero."""
    low, high = difference.low, difference.high
    if low is None or high is None or low <= 0 <= high:
        return UNDECIDED
    return BETTER if (low > 0) == more_is_better else WORSE
