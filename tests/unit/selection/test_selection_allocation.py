"""Quotas between equal and proportional, and the weights that undo them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.errors import UserError
from s2l_ray.selection import SelectionInputs, cluster_weights, order_examples, power_quotas
from s2l_ray.selection.quotas import cluster_quotas
from tests.support.selection_data import ascending_ids, options_of, random_ids, synthetic

group_sizes = st.lists(st.integers(0, 60), min_size=1, max_size=15)
exponents = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1)


def tie_keys(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(num).astype(np.uint64)


def quotas(sizes: list[int], budget: int, exponent: float, seed: int = 0) -> list[int]:
    return power_quotas(np.array(sizes), budget, exponent, tie_keys(len(sizes), seed)).tolist()


@pytest.mark.parametrize(
    ("sizes", "budget", "by_exponent"),
    [
        ([100, 25, 4], 30, {0.0: [13, 13, 4], 0.5: [18, 9, 3], 1.0: [23, 6, 1]}),
        ([900, 90, 10], 100, {0.0: [45, 45, 10], 0.5: [71, 22, 7], 1.0: [90, 9, 1]}),
        ([6, 6, 2], 10, {1.0: [5, 4, 1]}),
        ([6, 6, 2], 11, {1.0: [5, 5, 1]}),
    ],
)
def test_quotas_by_hand(sizes: list[int], budget: int, by_exponent: dict[float, list[int]]) -> None:
    for exponent, expected in by_exponent.items():
        for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
            found = power_quotas(np.array(sizes)[order], budget, exponent, np.array([1, 2, 3], np.uint64)[order])
            assert found.tolist() == [expected[i] for i in order]


def dealt(sizes: list[int], budget: int, exponent: float, keys: list[int]) -> list[int]:
    """Place by place, by the definition."""
    taken = [0] * len(sizes)
    for _ in range(min(budget, sum(sizes))):
        free = [i for i in range(len(sizes)) if taken[i] < sizes[i]]
        claims = {i: (float(np.float64(sizes[i]) ** exponent) / (taken[i] + 0.5), sizes[i], -keys[i], -i) for i in free}
        taken[max(free, key=claims.__getitem__)] += 1
    return taken


@settings(max_examples=60)
@given(group_sizes, st.integers(0, 1000), exponents.filter(lambda e: e > 0), st.integers(0, 99))
def test_quotas_are_sainte_lague_divisors(sizes: list[int], budget: int, exponent: float, seed: int) -> None:
    keys = tie_keys(len(sizes), seed).tolist()
    assert quotas(sizes, budget, exponent, seed) == dealt(sizes, budget, exponent, keys)


@pytest.mark.thorough
@settings(max_examples=25)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=9), exponents, st.integers(0, 99))
def test_no_quota_falls_when_the_budget_grows(sizes: list[int], exponent: float, seed: int) -> None:
    table = [quotas(sizes, budget, exponent, seed) for budget in range(sum(sizes) + 1)]
    assert [sum(row) for row in table] == list(range(sum(sizes) + 1))
    for smaller, larger in pairwise(table):
        assert all(a <= b for a, b in zip(smaller, larger, strict=True))
        assert all(q <= size for q, size in zip(larger, sizes, strict=True))


@settings(max_examples=100)
@given(group_sizes, st.integers(0, 1000))
def test_exponent_0_is_algorithm_1(sizes: list[int], budget: int) -> None:
    expected = cluster_quotas(np.array(sizes), budget, tie_keys(len(sizes)))
    assert quotas(sizes, budget, 0.0) == expected.tolist()


def test_exponent_1_is_proportional_within_a_place_for_large_numbers() -> None:
    sizes = np.random.default_rng(0).integers(1, 10**6, 500)
    budget = int(sizes.sum()) // 3
    found = power_quotas(sizes, budget, 1.0, tie_keys(500))
    assert found.sum() == budget
    shares = [Fraction(int(size) * budget, int(sizes.sum())) for size in sizes]
    assert max(abs(q - share) for q, share in zip(found.tolist(), shares, strict=True)) < 1.5


def test_equal_groups_get_places_by_key() -> None:
    keys = np.array([7, 3, 9, 1], dtype=np.uint64)
    table = [power_quotas(np.array([5, 5, 5, 5]), budget, 0.5, keys).tolist() for budget in (1, 2, 3, 4, 5)]
    assert table == [[0, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 2]]


def test_thousands_of_equal_groups_are_dealt_by_key() -> None:
    sizes, keys = np.full(5000, 7), tie_keys(5000)
    found = power_quotas(sizes, 12_345, 0.5, keys)
    assert np.array_equal(found, 2 + (keys < 12_345 - 10_000))


@pytest.mark.parametrize("exponent", [-0.1, 1.1, float("nan")])
def test_exponents_out_of_range_are_refused(exponent: float) -> None:
    with pytest.raises(UserError, match=r"Use 0 for equal quotas, 1 for proportional ones"):
        power_quotas(np.array([3]), 1, exponent, tie_keys(1))


def test_impossible_input_is_refused_for_every_exponent() -> None:
    for exponent in (0.0, 0.5):
        with pytest.raises(UserError, match="-1 is negative"):
            quotas([3], -1, exponent)
        with pytest.raises(UserError, match="size -2"):
            quotas([3, -2], 1, exponent)
        assert quotas([], 3, exponent) == []
        assert quotas([0, 0], 3, exponent) == [0, 0]


# --- through the selectors ------------------------------------------------------------------------------------------


def clustered(sizes: list[int]) -> SelectionInputs:
    clusters = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return SelectionInputs(random_ids(len(clusters)), clusters)


def test_s2l_takes_the_exponent() -> None:
    ordering = order_examples("s2l", clustered([900, 90, 10]), 0, options_of("s2l", allocation_exponent=0.5))
    assert [group["taken"] for group in ordering.take(100).groups] == [71, 22, 7]


def test_sources_are_balanced_before_the_exponent_counts() -> None:
    inputs = synthetic(3000, 6, 3)
    assert inputs.sources is not None
    options = options_of("s2l", allocation_exponent=1.0, stratify=True)
    selection = order_examples("s2l", inputs, 0, options).take(600)
    assert np.bincount(inputs.sources[selection.rows]).tolist() == [200, 200, 200]
    for name in inputs.source_names:
        lines = [group for group in selection.groups if group["stratum"] == name]
        size = sum(group["size"] for group in lines)
        assert all(abs(group["taken"] - 200 * group["size"] / size) < 1.5 for group in lines)


def test_values_of_a_facet_are_balanced_like_sources() -> None:
    inputs = synthetic(2000, 6, 3)
    facet = inputs.facets["skill"]
    by_facet = order_examples("s2l", inputs, 5, options_of("s2l", stratify="skill")).take(301)
    as_sources = replace(inputs, sources=facet.codes, source_names=facet.names)
    by_source = order_examples("s2l", as_sources, 5, options_of("s2l", stratify=True)).take(301)
    assert np.array_equal(by_facet.rows, by_source.rows)
    assert by_facet.groups == by_source.groups
    assert {group["stratum"] for group in by_facet.groups} == {"add", "sort", "copy", "count"}


# --- weights --------------------------------------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    inputs = clustered([900, 90, 10])
    ordering = order_examples("s2l", inputs, 0)
    selection = ordering.take(100)
    assert inputs.clusters is not None
    weights = cluster_weights(ordering, selection)
    of_cluster = [np.unique(weights[inputs.clusters[selection.rows] == k]) for k in range(3)]
    assert all(len(one) == 1 for one in of_cluster)
    raw = np.array([20, 2, 1]) / 10  # mean of 20 × 45, 2 × 45, 1 × 10
    assert np.concatenate(of_cluster) == pytest.approx(raw, rel=1e-6)
    assert weights.mean() == pytest.approx(1)


def test_weighted_means_are_those_of_the_corpus() -> None:
    """A value that is constant in each cluster: its weighted mean over the subset is exactly that of the corpus."""
    inputs = synthetic(4000, 10, 3)
    assert inputs.clusters is not None
    ordering = order_examples("s2l", inputs, 1)
    selection = ordering.take(500)
    weights = cluster_weights(ordering, selection, cap=1e9)
    value = np.cos(inputs.clusters)
    assert np.average(value[selection.rows], weights=weights) == pytest.approx(value.mean(), abs=1e-6)
    assert abs(value[selection.rows].mean() - value.mean()) > 0.05


def test_weights_are_capped_at_a_multiple_of_the_median() -> None:
    ordering = order_examples("s2l", clustered([100_000, 60, 60, 60]), 0)
    weights = cluster_weights(ordering, ordering.take(200))
    assert weights.max() == pytest.approx(10 * np.median(weights), rel=1e-6)
    assert weights.mean() == pytest.approx(1)


def test_what_a_guard_dropped_is_not_made_up_for() -> None:
    eligible = np.ones(1000, dtype=bool)
    eligible[100:900] = False  # most of the large cluster
    clusters = np.repeat(np.arange(2, dtype=np.int32), [900, 100])
    inputs = SelectionInputs(ascending_ids(1000), clusters, eligible=eligible)
    ordering = order_examples("s2l", inputs, 0)
    assert np.unique(cluster_weights(ordering, ordering.take(100))).tolist() == [1.0]  # 100 eligible in each


def test_weights_are_refused_where_they_mean_nothing() -> None:
    inputs = synthetic(50)
    ordering = order_examples("least_confidence", inputs, 0)
    with pytest.raises(UserError, match="chooses by score"):
        cluster_weights(ordering, ordering.take(5))
    sampled = order_examples("s2l", inputs, 0)
    for cap in (0.5, float("nan")):
        with pytest.raises(UserError, match="would cap even the median"):
            cluster_weights(sampled, sampled.take(5), cap)
