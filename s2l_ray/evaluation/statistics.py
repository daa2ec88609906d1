"""Metrics with their uncertainty: intervals for shares and means, comparisons of two targets on the same questions,
groups. numpy only.

Memory: a bootstrap holds at most 32 MB of resampled counts at once, whatever the number of questions and resamples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

SMALL_GROUP = 20
"""Groups with fewer questions are marked, because their intervals say almost nothing."""
_CHUNK_CELLS = 4_000_000

Columns = np.ndarray
"""(N, K) float64: the values of each question that are summed."""


class Estimate(NamedTuple):
    value: float
    low: float
    high: float
    num_questions: int


class Comparison(NamedTuple):
    """Two targets on the same questions; differences are the first's minus the second's."""

    difference: float
    low: float
    high: float
    only_first: int
    """Number of questions that only the first target got right."""
    only_second: int
    p_value: float
    """p-value of the exact two-sided McNemar test."""
    detectable: float
    """The difference that this many questions detect in four of five such comparisons."""


def generator(seed: int, *names: str) -> np.random.Generator:
    """A random generator for one metric, seeded by the run's seed and `names`, whatever the order of computation."""
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=16).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])


def wilson(num_right: int, num_questions: int, level: float = 0.95) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953).

    Raises:
        ValueError: there are no questions.
    """
    if num_questions < 1:
        raise ValueError("a share of no questions is undefined")
    z, n, share = _z(level), num_questions, num_right / num_questions
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if num_right == 0 else max(0.0, centre - half)
    high = 1.0 if num_right == n else min(1.0, centre + half)
    return Estimate(share, low, high, n)


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)


def accuracy(right: np.ndarray, level: float = 0.95) -> Estimate:
    """The share of right answers, from right (N,) bool, with Wilson's interval."""
    return wilson(int(np.count_nonzero(right)), len(right), level)


def averages(
    right: Mapping[str, np.ndarray], rng: np.random.Generator, resamples: int = 10_000, level: float = 0.95
) -> dict[str, Estimate]:
    """The mean over the sets (`macro`, as in the published tables) and over all questions (`micro`).

    The bootstrap is stratified: every set keeps its size. For a set of n questions, k of them right, the number right
    in a resample is binomial, which is drawn at once.

    Args:
        right: set → (N,) bool.
    """
    if not right or any(len(values) == 0 for values in right.values()):
        raise ValueError("an average over no questions is undefined")
    sizes = np.array([len(values) for values in right.values()])
    hits = np.array([np.count_nonzero(values) for values in right.values()])
    drawn = rng.binomial(sizes, hits / sizes, size=(resamples, len(sizes)))  # (R, S)
    total = int(sizes.sum())
    return {
        "macro": _percentiles(float((hits / sizes).mean()), (drawn / sizes).mean(axis=1), total, level),
        "micro": _percentiles(float(hits.sum() / total), drawn.sum(axis=1) / total, total, level),
    }


def _percentiles(value: float, resampled: np.ndarray, num_questions: int, level: float) -> Estimate:
    low, high = np.quantile(resampled, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(value, float(low), float(high), num_questions)


def resampled_sums(columns: Columns, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Sums of the columns over questions drawn with replacement: (N, K) → (resamples, K)."""
    n = len(columns)
    columns = columns.astype(np.float64)
    out = np.empty((resamples, columns.shape[1]))
    rows = max(1, _CHUNK_CELLS // n)
    for begin in range(0, resamples, rows):
        count = min(rows, resamples - begin)
        drawn = rng.integers(0, n, size=(count, n)) + np.arange(count)[:, None] * n
        weights = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)  # how often each was drawn
        out[begin : begin + count] = weights @ columns
    return out


def bootstrap(
    columns: Columns,
    statistic: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Estimate:
    """A metric that is computed from sums over the questions, with its percentile bootstrap interval.

    Args:
        columns: (N, K), summed over the questions.
        statistic: (R, K) sums of resamples of N questions → (R,) figures.
    """
    if len(columns) == 0:
        raise ValueError("a metric of no questions is undefined")
    value = float(statistic(columns.astype(np.float64).sum(axis=0, keepdims=True))[0])
    return _percentiles(value, statistic(resampled_sums(columns, rng, resamples)), len(columns), level)


def mean(values: np.ndarray, rng: np.random.Generator, resamples: int = 10_000, level: float = 0.95) -> Estimate:
    """The mean of (N,) values, one per summary, with its interval."""
    n = len(values)
    return bootstrap(values[:, None], lambda sums: sums[:, 0] / n, rng, resamples, level)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p-value: under the null, either target wins a discordant question with chance ½."""
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    i = np.arange(k, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log((n - i) / (i + 1)))]) - n * math.log(2)  # logs of C(n, i) / 2^n
    return float(min(1.0, 2 * np.exp(logs).sum()))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values for several tests at once (Holm 1979)."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    adjusted, largest = {}, 0.0
    for i, name in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - i) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def compare(
    first: np.ndarray, second: np.ndarray, rng: np.random.Generator, resamples: int = 10_000, level: float = 0.95
) -> Comparison:
    """Two targets on one set: the difference of their accuracies, its paired bootstrap interval, and McNemar's test.

    Args:
        first, second: (N,) bool, of the same questions in the same order.
    """
    _same_length(first, second)
    n = len(first)
    b, c = int(np.count_nonzero(first & ~second)), int(np.count_nonzero(second & ~first))
    drawn = rng.multinomial(n, [b / n, c / n, (n - b - c) / n], size=resamples)  # questions of each kind, by resample
    estimate = _percentiles((b - c) / n, (drawn[:, 0] - drawn[:, 1]) / n, n, level)
    power = NormalDist().inv_cdf(0.8)
    detectable = (_z(level) + power) * math.sqrt(b + c) / n
    return Comparison(estimate.value, estimate.low, estimate.high, b, c, mcnemar(b, c), detectable)


def compare_averages(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    resamples: int = 10_000,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """The difference of two targets' averages over the sets and over all questions, paired and stratified by set."""
    if list(first) != list(second) or not first:
        raise ValueError(f"the targets were judged on different sets: {list(first)} and {list(second)}")
    per_set, sizes, values = [], [], []
    for name in first:
        _same_length(first[name], second[name])
        n = len(first[name])
        b, c = np.count_nonzero(first[name] & ~second[name]), np.count_nonzero(second[name] & ~first[name])
        drawn = rng.multinomial(n, [b / n, c / n, (n - b - c) / n], size=resamples)
        per_set.append(drawn[:, 0] - drawn[:, 1])
        sizes.append(n)
        values.append(b - c)
    drawn, counts, total = np.stack(per_set, axis=1), np.array(sizes), sum(sizes)  # (R, S)
    macro = float((np.array(values) / counts).mean())
    return {
        "macro": _percentiles(macro, (drawn / counts).mean(axis=1), total, level),
        "micro": _percentiles(sum(values) / total, drawn.sum(axis=1) / total, total, level),
    }


def paired_bootstrap(
    first: Columns,
    second: Columns,
    statistic: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Estimate:
    """The difference of a metric of two targets, both computed on the same resampled questions."""
    _same_length(first, second)
    k = first.shape[1]

    def difference(sums: np.ndarray) -> np.ndarray:
        return statistic(sums[:, :k]) - statistic(sums[:, k:])

    return bootstrap(np.concatenate([first, second], axis=1), difference, rng, resamples, level)


def _same_length(first: np.ndarray, second: np.ndarray) -> None:
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(f"the targets answered {len(first):,} and {len(second):,} questions; the same ones are needed")


def shares(labels: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """The share of questions with each label (a verdict's reason or a program's outcome), including zeros."""
    total = max(1, len(labels))
    return {name: sum(label == name for label in labels) / total for name in names}


@dataclass(frozen=True)
class Shares:
    """Shares of all questions that are shown with every accuracy."""

    truncated: float
    no_answer: float
    unreadable: float
    timeout: float
    program_failed: dict[str, float]
    """Shares by program outcome; `no_program` if the completion contained none."""
    fell_back: float
    contaminated: float


def shares_of(
    reasons: Sequence[str],
    outcomes: Sequence[str | None] = (),
    fell_back: Sequence[bool] = (),
    contaminated: Sequence[bool] = (),
) -> Shares:
    """The shares of one set.

    Args:
        reasons: the reason of each question's verdict.
        outcomes: each program's outcome; `ok` is not a failure, None if no program was asked for.
        fell_back: whether a chain of thought was generated after the program.
        contaminated: whether the question occurs in the corpus.
    """
    n = max(1, len(reasons))
    failures = [outcome for outcome in outcomes if outcome not in (None, "ok")]
    return Shares(
        **shares(reasons, ("truncated", "no_answer", "unreadable", "timeout")),
        program_failed={str(name): failures.count(name) / n for name in sorted(map(str, set(failures)))},
        fell_back=sum(fell_back) / n,
        contaminated=sum(contaminated) / n,
    )
