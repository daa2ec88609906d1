"""Intervals, tests and bootstraps: closed forms, hand-computed values, and their coverage on simulated data."""

import math

import numpy as np
import pytest

from s2l_ray.evaluation import statistics as stats


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def coin(share: float, n: int, seed: int) -> np.ndarray:
    return rng(seed).random(n) < share


def test_wilson_by_hand():
    """Worked out from the formula; 8 of 10 is the textbook's example."""
    assert stats.wilson(8, 10) == pytest.approx((0.8, 0.490162, 0.943318, 10), abs=1e-6)
    assert stats.wilson(0, 20)[1:3] == pytest.approx((0.0, 0.161125), abs=1e-6)
    assert stats.wilson(20, 20)[1:3] == pytest.approx((0.838875, 1.0), abs=1e-6)
    with pytest.raises(ValueError, match="no questions"):
        stats.wilson(0, 0)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (0, 6, 2 / 64), (10, 2, 2 * (1 + 12 + 66) / 4096), (5, 5, 1.0), (8, 1, 2 * 10 / 512)],
)
def test_mcnemar_by_hand(b, c, p):
    assert stats.mcnemar(b, c) == pytest.approx(p, rel=1e-12)
    assert stats.mcnemar(c, b) == stats.mcnemar(b, c)


def test_mcnemar_of_many_pairs_is_exact():
    exact = 2 * sum(math.comb(3000, i) for i in range(1401)) / 2**3000
    assert stats.mcnemar(1400, 1600) == pytest.approx(exact, rel=1e-9)
    assert 0 < stats.mcnemar(400_000, 402_000) < 0.05


def test_holm_by_hand():
    assert stats.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert stats.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert stats.holm({}) == {}


def test_averages_weigh_sets_or_questions():
    right = {"a": np.array([True] * 10), "b": np.array([False] * 30)}
    made = stats.averages(right, rng())
    assert made["macro"] == (0.5, 0.5, 0.5, 40)
    assert made["micro"] == (0.25, 0.25, 0.25, 40)
    with pytest.raises(ValueError, match="no questions"):
        stats.averages({"a": np.zeros(0, bool)}, rng())


def test_resampled_sums_have_the_sizes_and_means_of_a_bootstrap():
    values = rng(1).normal(size=50)
    sums = stats.resampled_sums(np.stack([values, np.ones(50)], axis=1), rng(2), 20_000)
    assert (sums[:, 1] == 50).all()
    assert sums[:, 0].mean() == pytest.approx(values.sum(), abs=0.2)
    assert sums[:, 0].std() == pytest.approx(values.std() * math.sqrt(50), rel=0.03)


def test_chunks_change_nothing_but_memory(monkeypatch):
    columns = rng(3).random((40, 3))
    whole = stats.resampled_sums(columns, rng(4), 100)
    monkeypatch.setattr(stats, "_CHUNK_CELLS", 400)
    assert stats.resampled_sums(columns, rng(4), 100) == pytest.approx(whole)


def test_compare_tells_who_was_right_where():
    first, second = np.array([1, 1, 1, 0, 0, 1], bool), np.array([1, 0, 0, 1, 0, 0], bool)
    made = stats.compare(first, second, rng())
    assert (made.difference, made.only_first, made.only_second) == (pytest.approx(2 / 6), 3, 1)
    assert made.p_value == pytest.approx(2 * (1 + 4) / 16)
    same = stats.compare(first, first, rng())
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="the same ones"):
        stats.compare(first, second[:3], rng())


def test_pairing_narrows_the_interval():
    """Two targets that agree on most questions: the paired interval is that of the disagreements alone."""
    first = coin(0.5, 1000, 1)
    second = first.copy()
    second[:20] = ~second[:20]
    made = stats.compare(first, second, rng())
    assert made.high - made.low < 0.02
    assert stats.accuracy(first).high - stats.accuracy(first).low > 0.06


def test_random_numbers_are_of_seed_and_name():
    assert stats.generator(1, "math").random() == stats.generator(1, "math").random()
    others = [stats.generator(2, "math"), stats.generator(1, "svamp"), stats.generator(1, "ma", "th")]
    assert stats.generator(1, "math").random() not in {other.random() for other in others}


def test_shares():
    made = stats.shares_of(
        ["right", "truncated", "no_answer", "program_failed"],
        ["ok", None, "timeout", "timeout"],
        [False, False, True, True],
        [True, False, False, False],
    )
    assert (made.truncated, made.no_answer, made.unreadable, made.fell_back, made.contaminated) == (
        0.25, 0.25, 0, 0.5, 0.25,
    )  # fmt: skip
    assert made.program_failed == {"timeout": 0.5}


def coverage(trial, truth: float, trials: int = 2000) -> float:
    intervals = [trial(seed) for seed in range(trials)]
    return sum(low <= truth <= high for low, high in intervals) / trials


def test_coverage_of_wilson():
    """Over many true shares, since for one share the counts' steps show."""
    draws = rng(5)
    hits = 0
    for _ in range(3000):
        share, n = draws.uniform(0.05, 0.95), int(draws.integers(50, 500))
        made = stats.wilson(int(draws.binomial(n, share)), n)
        hits += made.low <= share <= made.high
    assert 0.93 <= hits / 3000 <= 0.97


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["macro", "micro"])
def test_coverage_of_averages(kind):
    shares, sizes = [0.3, 0.6, 0.8], [200, 350, 500]
    truth = float(np.mean(shares)) if kind == "macro" else float(np.dot(shares, sizes) / sum(sizes))

    def trial(seed: int) -> tuple[float, float]:
        draws = rng(seed)
        right = {str(i): draws.random(n) < p for i, (p, n) in enumerate(zip(shares, sizes, strict=True))}
        made = stats.averages(right, draws, 500)[kind]
        return made.low, made.high

    assert 0.93 <= coverage(trial, truth) <= 0.97


@pytest.mark.thorough
def test_coverage_of_paired_differences():
    def trial(seed: int) -> tuple[float, float]:
        draws = rng(seed)
        kind = draws.choice(4, size=500, p=[0.15, 0.1, 0.4, 0.35])  # only first, only second, both, neither
        made = stats.compare((kind == 0) | (kind == 2), (kind == 1) | (kind == 2), draws, 500)
        return made.low, made.high

    assert 0.93 <= coverage(trial, 0.05) <= 0.97


@pytest.mark.thorough
def test_coverage_of_means():
    def trial(seed: int) -> tuple[float, float]:
        draws = rng(seed)
        made = stats.mean(draws.beta(2, 5, size=200), draws, 300)
        return made.low, made.high

    assert 0.93 <= coverage(trial, 2 / 7) <= 0.97


def test_mcnemar_keeps_its_level():
    rejected = 0
    for seed in range(500):
        draws = rng(seed)
        b = int(draws.binomial(100, 0.5))
        rejected += stats.mcnemar(b, 100 - b) < 0.05
    assert rejected / 500 <= 0.07
