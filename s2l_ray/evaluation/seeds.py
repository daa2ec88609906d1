"""Metrics over several training seeds of a target: the bootstrap draws seeds, then questions. numpy only.

With only two or three seeds, such an interval is too narrow, like any bootstrap of so few values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from s2l_ray.evaluation.statistics import resampled_sums

_MAX_PATTERNS = 256
"""If at most this many different rows of values occur, as for answers that are right or wrong, the number of each in a
resample is drawn directly: 10,000 resamples then take no longer than one that draws individual questions."""

Sets = Mapping[str, np.ndarray]
"""Set → (S, N) one value per question, one row per seed; or (S, N, K) values per question that are summed."""
Statistic = Callable[[np.ndarray], np.ndarray]
"""(R, K) sums over the questions of a resample → (R,) metrics."""


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
    """Two-sided bootstrap p-value: twice the share of resamples on the other side of zero."""
    num_seeds: int


def average_over_seeds(
    values: Sets,
    rng: np.random.Generator,
    resamples: int = 10_000,
    level: float = 0.95,
    statistic: Statistic | None = None,
) -> SeedsEstimate:
    """The mean over one or several sets, with the deviation over seeds and an interval; one seed has neither.

    A resample has the same seeds in all sets, and each set keeps its size.

    Args:
        values: the same seeds in the same order in each set.
        statistic: computes the metric from the sums; None: the mean over the questions, with K = 1.
    """
    [num_seeds] = {len(one) for one in values.values()}
    sets = [(columns_of(one), figures_of(one, statistic)) for one in values.values()]
    return _estimate(sets, _resampled(sets, rng, resamples) if num_seeds > 1 else np.empty(0), level)


def compare_over_seeds(
    first: Sets,
    second: Sets,
    rng: np.random.Generator,
    resamples: int = 10_000,
    level: float = 0.95,
    statistic: Statistic | None = None,
) -> SeedsComparison:
    """The difference of two targets' metrics, or of their means over several sets, paired by seed and question.

    Args:
        first, second: the same seeds and questions in the same order.
        statistic: as for `average_over_seeds`.

    Raises:
        ValueError: sets, seeds or questions differ, or there is only one seed (use `statistics.compare`).
    """
    if list(first) != list(second) or any(first[name].shape != second[name].shape for name in first):
        raise ValueError("the targets differ in their sets, seeds or questions, so nothing can be paired")
    if any(len(one) < 2 for one in first.values()):
        raise ValueError("a comparison over seeds needs at least two seeds")
    both = {name: np.concatenate([columns_of(first[name]), columns_of(second[name])], axis=2) for name in first}
    paired = [(columns, _minus(figures_of(columns, statistic))) for columns in both.values()]
    drawn = _resampled(paired, rng, resamples)
    told = _estimate(paired, drawn, level)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    beyond = min(float(np.mean(drawn <= 0)), float(np.mean(drawn >= 0)))
    p_value = min(1.0, 2 * max(beyond, 1 / resamples))
    return SeedsComparison(told.mean, told.deviation or 0.0, float(low), float(high), p_value, told.num_seeds)


def resampled_each(
    targets: Mapping[str, np.ndarray], rng: np.random.Generator, resamples: int, statistic: Statistic | None = None
) -> dict[str, np.ndarray]:
    """Target → (R,) resamples of its metric on one set. A resample has the same questions for all targets, and the same
    seeds for targets with equally many, so that comparisons are paired.

    Args:
        targets: for each (S, N) or (S, N, K) values, as in `Sets`.
    """
    flat = {name: _a_row_a_question(columns_of(one)) for name, one in targets.items()}
    sums = _resampled_sums(np.concatenate([*flat.values()], axis=1), rng, resamples)
    out, begin = {}, 0
    for name, one in targets.items():
        mine, begin = sums[:, begin : begin + flat[name].shape[1]], begin + flat[name].shape[1]
        per_seed = _per_seed(mine, len(one), figures_of(one, statistic))
        out[name] = _over_drawn_seeds(per_seed, copy.deepcopy(rng))
    return out


def columns_of(values: np.ndarray) -> np.ndarray:
    """The values as (S, N, K) float64."""
    return (values[:, :, None] if values.ndim == 2 else values).astype(np.float64)


def figures_of(values: np.ndarray, statistic: Statistic | None) -> Statistic:
    num_questions = values.shape[1]
    return statistic or (lambda sums: sums[:, 0] / num_questions)


def _minus(statistic: Statistic) -> Statistic:
    """The statistic's difference for columns whose first half belongs to one target and the second half to the
    other."""

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
        sums = _resampled_sums(_a_row_a_question(columns), rng, resamples)
        per_seed += _per_seed(sums, num_seeds, statistic) / len(sets)
    return _over_drawn_seeds(per_seed, rng)


def _a_row_a_question(columns: np.ndarray) -> np.ndarray:
    """Rearrange (S, N, K) to one row per question, (N, S · K)."""
    num_seeds, num_questions, num_columns = columns.shape
    return columns.transpose(1, 0, 2).reshape(num_questions, num_seeds * num_columns)


def _resampled_sums(rows: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Sums (R, K) of (N, K) values over questions drawn with replacement."""
    patterns, counts = np.unique(rows, axis=0, return_counts=True)
    if len(patterns) > _MAX_PATTERNS:
        return resampled_sums(rows, rng, resamples)
    drawn = rng.multinomial(len(rows), counts / len(rows), size=resamples)  # (R, patterns)
    sums: np.ndarray = drawn @ patterns
    return sums


def _per_seed(sums: np.ndarray, num_seeds: int, statistic: Statistic) -> np.ndarray:
    """Metrics (R, S) from sums (R, S · K)."""
    return statistic(sums.reshape(len(sums) * num_seeds, -1)).reshape(len(sums), num_seeds)


def _over_drawn_seeds(per_seed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means (R,) of (R, S) values over seeds drawn with replacement."""
    num_seeds = per_seed.shape[1]
    times = rng.multinomial(num_seeds, [1 / num_seeds] * num_seeds, size=len(per_seed))
    drawn: np.ndarray = (times * per_seed).sum(axis=1) / num_seeds
    return drawn
