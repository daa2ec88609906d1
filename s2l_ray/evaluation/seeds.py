"""Figures of several training seeds of one target: the bootstrap draws seeds, then questions. numpy only.

With two or three seeds such an interval is too narrow, as every bootstrap of so few is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from s2l_ray.evaluation.statistics import resampled_sums

Sets = Mapping[str, np.ndarray]
"""Set → (S, N) a figure of each question, a row a seed; or (S, N, K), what of each question is summed."""
Statistic = Callable[[np.ndarray], np.ndarray]
"""(R, K) sums over the questions of a resample → (R,) figures."""


class SeedsEstimate(NamedTuple):
    mean: float
    deviation: float | None
    """Standard deviation over the seeds; None for one seed."""
    low: float | None
    high: float | None
    num_seeds: int


class SeedsComparison(NamedTuple):
    """Two targets on the same questions with the same seeds; differences are the first's minus the second's."""

    difference: float
    deviation: float
    """Standard deviation over the seeds."""
    low: float
    high: float
    p_value: float
    """Two-sided, of the bootstrap: twice the share of resamples on the other side of zero."""
    num_seeds: int


def average_over_seeds(
    values: Sets,
    rng: np.random.Generator,
    resamples: int = 10_000,
    level: float = 0.95,
    statistic: Statistic | None = None,
) -> SeedsEstimate:
    """The mean over one or several sets, with deviation over the seeds and interval; of one seed there are none.

    A resample has the same seeds in all sets, and each set keeps its size.

    Args:
        values: the same seeds in the same order in each set.
        statistic: what is made of the sums; None: the mean over the questions, K being 1.
    """
    [num_seeds] = {len(one) for one in values.values()}
    drawn = resampled(values, rng, resamples, statistic) if num_seeds > 1 else np.empty(0)
    return _estimate([(columns_of(one), figures_of(one, statistic)) for one in values.values()], drawn, level)


def compare_over_seeds(
    first: Sets,
    second: Sets,
    rng: np.random.Generator,
    resamples: int = 10_000,
    level: float = 0.95,
    statistic: Statistic | None = None,
) -> SeedsComparison:
    """The difference of two targets' figures, or of their means over several sets, paired by seed and question.

    Args:
        first, second: the same seeds and questions in the same order.
        statistic: as of `average_over_seeds`.

    Raises:
        ValueError: other sets, seeds or questions; or one seed alone, of which `statistics.compare` tells more.
    """
    if list(first) != list(second) or any(first[name].shape != second[name].shape for name in first):
        raise ValueError("the targets differ in their sets, seeds or questions, so nothing can be paired")
    if any(len(one) < 2 for one in first.values()):
        raise ValueError("a comparison over seeds needs two of them")
    both = {name: np.concatenate([columns_of(first[name]), columns_of(second[name])], axis=2) for name in first}
    paired = [(columns, _minus(figures_of(columns, statistic))) for columns in both.values()]
    drawn = _resampled(paired, rng, resamples)
    told = _estimate(paired, drawn, level)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    beyond = min(float(np.mean(drawn <= 0)), float(np.mean(drawn >= 0)))
    p_value = min(1.0, 2 * max(beyond, 1 / resamples))
    return SeedsComparison(told.mean, told.deviation or 0.0, float(low), float(high), p_value, told.num_seeds)


def resampled(values: Sets, rng: np.random.Generator, resamples: int, statistic: Statistic | None = None) -> np.ndarray:
    """(R,) resamples of the mean over the sets. Of targets on the same questions, generators of the same state draw the
    same questions, and where they have equally many seeds the same seeds: what is computed of both is paired.
    """
    return _resampled([(columns_of(one), figures_of(one, statistic)) for one in values.values()], rng, resamples)


def columns_of(values: np.ndarray) -> np.ndarray:
    """(S, N, K) float64."""
    return (values[:, :, None] if values.ndim == 2 else values).astype(np.float64)


def figures_of(values: np.ndarray, statistic: Statistic | None) -> Statistic:
    num_questions = values.shape[1]
    return statistic or (lambda sums: sums[:, 0] / num_questions)


def _minus(statistic: Statistic) -> Statistic:
    """Of columns of which the first half is one target's, the second the other's."""

    def difference(sums: np.ndarray) -> np.ndarray:
        half = sums.shape[1] // 2
        return statistic(sums[:, :half]) - statistic(sums[:, half:])

    return difference


def _estimate(sets: list[tuple[np.ndarray, Statistic]], drawn: np.ndarray, level: float) -> SeedsEstimate:
    means = np.mean([statistic(columns.sum(axis=1)) for columns, statistic in sets], axis=0)  # (S,)
    if len(means) == 1:
        return SeedsEstimate(float(means[0]), None, None, None, 1)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return SeedsEstimate(float(means.mean()), float(means.std(ddof=1)), float(low), float(high), len(means))


def _resampled(sets: list[tuple[np.ndarray, Statistic]], rng: np.random.Generator, resamples: int) -> np.ndarray:
    [num_seeds] = {len(columns) for columns, _ in sets}
    per_seed = np.zeros((resamples, num_seeds))
    for columns, statistic in sets:  # the same questions for all seeds of a resample
        num_columns = columns.shape[2]
        flat = columns.transpose(1, 0, 2).reshape(columns.shape[1], num_seeds * num_columns)
        sums = resampled_sums(flat, rng, resamples).reshape(resamples * num_seeds, num_columns)
        per_seed += statistic(sums).reshape(resamples, num_seeds) / len(sets)
    # How often each seed is drawn; after the questions, whose draws then do not depend on the number of seeds.
    times = rng.multinomial(num_seeds, [1 / num_seeds] * num_seeds, size=resamples)  # (R, S)
    drawn: np.ndarray = (times * per_seed).sum(axis=1) / num_seeds
    return drawn
