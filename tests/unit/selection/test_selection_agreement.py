"""Quality of clusters and agreement of gradients, by hand and against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.errors import DataError, UserError
from s2l_ray.selection.cluster_quality import adjusted_rand, commonest_shares, count_pairs, purity, random_shares
from s2l_ray.selection.gradient_agreement import (
    agreement,
    error_of_rows,
    explained_share,
    gradient_gap,
    mean_cosines,
    subset_error,
)

labellings = st.integers(2, 40).flatmap(
    lambda num: st.tuples(*[st.lists(st.integers(0, 5), min_size=num, max_size=num) for _ in range(2)])
)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


# --- clusters -------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(labellings)
def test_adjusted_rand_is_the_definition(labels: tuple[list[int], list[int]]) -> None:
    one, other = labels
    pairs = list(combinations(range(len(one)), 2))
    both = sum(one[i] == one[j] and other[i] == other[j] for i, j in pairs)
    first = sum(one[i] == one[j] for i, j in pairs)
    second = sum(other[i] == other[j] for i, j in pairs)
    expected = first * second / len(pairs)
    highest = (first + second) / 2
    value = 1.0 if highest == expected else (both - expected) / (highest - expected)
    assert adjusted_rand(np.array(one), np.array(other)) == pytest.approx(value)


def test_adjusted_rand_by_hand() -> None:
    assert adjusted_rand(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])) == 1
    assert adjusted_rand(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(-0.5)
    assert adjusted_rand(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1])) == pytest.approx(0.5714, abs=1e-4)
    assert adjusted_rand(np.array([3]), np.array([0])) == 1
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 9, 20_000), rng.integers(0, 9, 20_000)
    assert abs(adjusted_rand(one, other)) < 0.002
    sparse = adjusted_rand(one * 1_000_000, other * 999_983)  # too many pairs of labels for a table
    assert sparse == pytest.approx(adjusted_rand(one, other))


def of_labels(clusters: np.ndarray, categories: np.ndarray) -> np.ndarray:
    return count_pairs(clusters, categories, int(clusters.max()) + 1, int(categories.max()) + 1)


def test_purity_beside_random_clusters() -> None:
    clusters = np.repeat(np.arange(4), 250)
    same = purity(of_labels(clusters, clusters % 2))
    assert same.observed == 1
    assert 0.5 < same.random_mean < 0.56
    assert same.excess == 1
    assert same.values == [1, 1, 1, 1]
    unrelated = purity(of_labels(clusters, np.arange(1000) % 2))
    assert unrelated.observed == 0.5
    assert unrelated.excess is not None
    assert abs(unrelated.excess) < 0.1
    singletons = purity(of_labels(np.arange(50), np.arange(50) % 3))
    assert (singletons.observed, singletons.random_mean, singletons.excess) == (1, 1, None)
    assert purity(of_labels(clusters, clusters % 2), seed=3) == purity(of_labels(clusters, clusters % 2), seed=3)


def test_empty_clusters_have_no_purity() -> None:
    counts = np.array([[3, 1], [0, 0], [0, 6]])
    assert purity(counts).values == [0.75, 1]
    assert purity(counts).observed == pytest.approx(0.9)


def test_random_clusters_use_up_every_category() -> None:
    shares = random_shares(np.array([3, 0, 5, 2]), np.array([4, 6]))
    assert np.isnan(shares).tolist() == [False, True, False, False]
    assert commonest_shares(np.array([[3, 1], [0, 0]]))[0] == 0.75


def test_labels_are_checked() -> None:
    with pytest.raises(UserError, match=r"\(3,\) and \(2,\)"):
        adjusted_rand(np.zeros(3, int), np.zeros(2, int))
    with pytest.raises(UserError, match="integers from 0"):
        adjusted_rand(np.array([-1, 0]), np.zeros(2, int))
    with pytest.raises(UserError, match="num_draws=1 is too few"):
        purity(np.ones((2, 2), int), num_draws=1)
    with pytest.raises(UserError, match="with at least one example"):
        purity(np.zeros((2, 2), int))


# --- gradients ------------------------------------------------------------------------------------------------------


def test_cosines_by_hand() -> None:
    gradients = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]])
    found = mean_cosines(3 * gradients, np.array([0, 0, 1, 1]))
    assert found.within == pytest.approx(0.3)
    assert found.across == pytest.approx(-0.2)
    assert found.num_zero == 0


@settings(max_examples=40)
@given(st.integers(2, 25), st.integers(1, 6), st.integers(0, 10**6))
def test_cosines_are_means_over_pairs(num: int, num_clusters: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gradients, labels = rng.standard_normal((num, 3)), rng.integers(0, num_clusters, num)
    gradients[rng.random(num) < 0.2] = 0
    norms = np.linalg.norm(gradients, axis=1)
    cosine = {(i, j): gradients[i] @ gradients[j] / (norms[i] * norms[j])
              for i, j in combinations(range(num), 2) if norms[i] and norms[j]}  # fmt: skip
    within = [value for (i, j), value in cosine.items() if labels[i] == labels[j]]
    across = [value for (i, j), value in cosine.items() if labels[i] != labels[j]]
    found = mean_cosines(gradients, labels)
    assert found.num_zero == int((norms == 0).sum())
    for mean, values in ((found.within, within), (found.across, across)):
        assert mean == (pytest.approx(np.mean(values), abs=1e-9) if values else None)


def test_errors_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    found = subset_error(column(1, 1, 1, 1, -1, -1), labels, np.array([1, 1]))
    assert found.bias == pytest.approx(1.0)
    assert found.weighted_rms == pytest.approx(0)
    assert found.random_rms == pytest.approx(1.789, abs=1e-3)
    assert explained_share(column(1, 1, 1, 1, -1, -1), labels) == pytest.approx(1)
    labels = np.array([0, 0, 0, 1, 1])
    found = subset_error(column(1, 3, 2, -1, 1), labels, np.array([1, 1]))
    assert found.bias == pytest.approx(0.1667, abs=1e-4)
    assert [found.rms, found.weighted_rms, found.random_rms] == pytest.approx([0.5631, 0.5270, 0.6770], abs=1e-4)
    assert explained_share(column(1, 3, 2, -1, 1), labels) == pytest.approx(0.5455, abs=1e-4)


def test_equal_gradients_have_no_error_and_no_share() -> None:
    equal, labels = np.full((6, 3), 0.7, np.float32), np.array([0, 0, 0, 1, 1, 1])
    found = subset_error(equal, labels, np.array([2, 1]))
    assert [found.bias, found.rms, found.weighted_rms, found.random_rms] == pytest.approx([0, 0, 0, 0], abs=1e-7)
    assert explained_share(equal, labels) is None
    assert agreement(equal, labels).null_explained is None


@pytest.mark.thorough
def test_closed_form_is_the_mean_over_draws() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 60, p=[0.5, 0.3, 0.15, 0.05])
    gradients = rng.standard_normal((60, 5)) + labels[:, None]
    taken = np.minimum(np.bincount(labels), 4)
    found = subset_error(gradients, labels, taken)
    members = [np.flatnonzero(labels == k) for k in range(4)]
    plain, weighted, random = [], [], []
    weights = np.repeat(np.bincount(labels) / taken, taken)
    for _ in range(4000):
        rows = np.concatenate([rng.choice(m, n, replace=False) for m, n in zip(members, taken, strict=True)])
        plain.append(error_of_rows(gradients, rows) ** 2)
        weighted.append(error_of_rows(gradients, rows, weights) ** 2)
        random.append(error_of_rows(gradients, rng.choice(60, taken.sum(), replace=False)) ** 2)
    for draws, expected in ((plain, found.rms), (weighted, found.weighted_rms), (random, found.random_rms)):
        assert np.sqrt(np.mean(draws)) == pytest.approx(expected, rel=0.05)
    assert found.bias < found.rms


def test_a_cluster_that_gives_nothing_cannot_be_made_up_for() -> None:
    found = subset_error(column(1, 2, 3, 4), np.array([0, 0, 1, 1]), np.array([2, 0]))
    assert found.weighted_rms is None
    assert found.bias == found.rms == pytest.approx(0.4)
    everything = subset_error(column(1, 2, 3, 4), np.array([0, 0, 1, 1]), np.array([2, 2]))
    assert [everything.rms, everything.weighted_rms, everything.random_rms] == [0, 0, 0]


def test_permuted_labels_are_the_yardstick() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 500)
    centers = rng.standard_normal((5, 8))
    found = agreement(centers[labels] + 0.5 * rng.standard_normal((500, 8)), labels)
    assert found.explained is not None
    assert found.explained > 0.6
    assert found.null_explained == pytest.approx(4 / 499, abs=0.004)
    assert found.cosine.within is not None
    assert found.null_within is not None
    assert found.cosine.within > found.null_within + 0.4
    assert found.null_within == pytest.approx(found.null_across, abs=0.02)
    unrelated = agreement(rng.standard_normal((500, 8)), labels)
    assert unrelated.explained == pytest.approx(unrelated.null_explained, abs=0.01)


def test_the_theorems_gap() -> None:
    gradients = np.array([[0, 0], [0, 1], [10, 0], [10, 1]])
    labels = np.array([0, 0, 1, 1])
    assert gradient_gap(gradients, labels) == pytest.approx(1 / np.quantile([10, 10, 101**0.5, 101**0.5], 0.95))
    assert gradient_gap(gradients, np.arange(4)) is None
    assert gradient_gap(gradients, np.zeros(4, int)) is None
    assert gradient_gap(np.ones((4, 2)), labels) is None
    far = gradients + 1e6  # a common part must not swallow the differences
    assert gradient_gap(far, labels) == pytest.approx(gradient_gap(gradients, labels), rel=1e-6)


def test_gradients_are_checked() -> None:
    with pytest.raises(DataError, match=r"1 of 3 gradients are not finite, the first in row 1"):
        mean_cosines(column(1, np.nan, 3), np.zeros(3, int))
    with pytest.raises(UserError, match=r"labels must be \(3,\) integers from 0"):
        explained_share(column(1, 2, 3), np.zeros(2, int))
    with pytest.raises(UserError, match="cluster 1 gives 3 of 2"):
        subset_error(column(1, 2, 3), np.array([0, 1, 1]), np.array([1, 3]))
    with pytest.raises(UserError, match="for each of 2 clusters"):
        subset_error(column(1, 2, 3), np.array([0, 1, 1]), np.array([1]))
    with pytest.raises(DataError, match="the mean gradient of all examples is zero"):
        subset_error(column(1, -1), np.array([0, 1]), np.array([1, 0]))
    with pytest.raises(UserError, match="rows is empty"):
        error_of_rows(column(1, 2), np.zeros(0, int))
    assert mean_cosines(np.zeros((3, 2)), np.zeros(3, int)).within is None
