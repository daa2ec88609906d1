"""How a budget is resolved, and how many examples each group gives."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.selection.quotas import cluster_quotas, resolve_budget
from tests.support.algorithm_1 import algorithm_1, seeds

group_sizes = st.lists(st.integers(0, 40), min_size=1, max_size=25)


def tie_keys(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(num).astype(np.uint64)


def quotas(sizes: list[int], budget: int, seed: int = 0) -> list[int]:
    return cluster_quotas(np.array(sizes), budget, tie_keys(len(sizes), seed)).tolist()


# --- quotas ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)  # a shared machine stalls at times
@given(group_sizes, st.integers(0, 1100), seeds)
def test_budget_is_spent_exactly_and_no_group_gives_more_than_it_has(sizes: list[int], budget: int, seed: int) -> None:
    taken = quotas(sizes, budget, seed % 2**32)
    assert sum(taken) == min(budget, sum(sizes))
    assert all(0 <= t <= s for t, s in zip(taken, sizes, strict=True))


@settings(deadline=None)
@given(group_sizes, st.integers(0, 1100))
def test_quotas_are_algorithm_1(sizes: list[int], budget: int) -> None:
    if budget >= sum(s > 0 for s in sizes):
        assert quotas(sizes, budget) == algorithm_1(sizes, budget)


@settings(deadline=None)
@given(group_sizes, st.integers(0, 1100))
def test_groups_give_the_same_unless_exhausted(sizes: list[int], budget: int) -> None:
    taken = quotas(sizes, budget)
    open_groups = [t for t, s in zip(taken, sizes, strict=True) if t < s]
    exhausted = [t for t, s in zip(taken, sizes, strict=True) if t == s]
    if open_groups:
        level = max(open_groups)
        assert level - min(open_groups) <= 1
        assert max(exhausted, default=0) <= level + 1


@pytest.mark.thorough
@settings(deadline=None)
@given(group_sizes, seeds)
def test_quotas_never_fall_when_the_budget_grows(sizes: list[int], seed: int) -> None:
    previous = [0] * len(sizes)
    for budget in range(sum(sizes) + 1):
        now = quotas(sizes, budget, seed % 2**32)
        assert all(a <= b for a, b in zip(previous, now, strict=True)), budget
        assert sum(now) == budget
        previous = now


def test_quotas_by_hand() -> None:
    assert quotas([10, 2, 5], 9) == [4, 2, 3]  # 9//3=3 → 2 whole; 7//2=3; 4
    assert quotas([10, 2, 5], 17) == [10, 2, 5]
    assert quotas([10, 2, 5], 99) == [10, 2, 5]
    assert quotas([4, 4, 4], 8) == [2, 3, 3]  # ties by index; the remainder goes to the last ones
    assert quotas([0, 6, 0, 1], 4) == [0, 3, 0, 1]
    assert quotas([0, 0], 3) == [0, 0]
    assert quotas([], 3) == []
    assert quotas([1, 2, 100], 100) == [1, 2, 97]


def test_fewer_examples_than_clusters_are_spread_by_seed_not_by_size() -> None:
    sizes = list(range(1, 101))
    hits: Counter[int] = Counter()
    for seed in range(400):
        taken = quotas(sizes, 10, seed)
        assert sorted(taken) == [0] * 90 + [1] * 10
        hits.update(i for i, t in enumerate(taken) if t)
    smallest, largest = sum(hits[i] for i in range(50)), sum(hits[i] for i in range(50, 100))
    assert smallest + largest == 4000
    assert abs(smallest - largest) < 6 * math.sqrt(4000)
    assert min(hits[i] for i in range(100)) > 10


def test_empty_groups_get_nothing_below_the_number_of_groups() -> None:
    for seed in range(20):
        taken = quotas([0, 3, 0, 3, 3], 2, seed)
        assert taken[0] == taken[2] == 0
        assert sum(taken) == 2


def test_quota_input_is_checked() -> None:
    with pytest.raises(ValueError, match="-1 is negative"):
        quotas([3], -1)
    with pytest.raises(ValueError, match="size -2"):
        quotas([3, -2], 1)
    with pytest.raises(ValueError, match="2 groups but 1"):
        cluster_quotas(np.array([1, 2]), 1, tie_keys(1))


# --- budgets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "num", "expected"),
    [
        (1, 10, 1),
        (1.0, 10, 10),
        (10, 10, 10),
        (0.5, 5, 3),  # 2.5, half up
        (0.29, 50, 15),  # 14.5 as written, 14.499… in binary
        (0.05, 10, 1),  # 0.5
        (0.0001, 10, 1),  # at least one
        (0.11, 17_877, 1966),
        (np.int64(7), 10, 7),
        (np.float64(0.2), 10, 2),
    ],
)
def test_budgets_resolve(budget: float, num: int, expected: int) -> None:
    resolved = resolve_budget(budget, num)
    assert resolved == expected
    assert type(resolved) is int


@pytest.mark.parametrize("budget", [True, False, 0, -3, 0.0, -0.1, 1.5, 2.0, math.nan, math.inf, np.bool_(True), "0.1"])
def test_wrong_budgets_are_refused(budget: Any) -> None:
    with pytest.raises(ValueError, match="neither a count"):
        resolve_budget(budget, 10)


def test_budget_past_the_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="budget 11 requests more than the 10 examples"):
        resolve_budget(11, 10)
    with pytest.raises(ValueError, match="empty"):
        resolve_budget(0.5, 0)
