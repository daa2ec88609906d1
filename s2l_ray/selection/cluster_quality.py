"""Quality of clusters: whether they are stable, and whether they agree with known categories of the examples.

These are pure functions of labels and counts, so that clusters of trajectories and of embeddings are measured in the
same way. Memory: about 20 bytes per example, and one number for each pair of labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2l_ray.errors import UserError
from s2l_ray.selection.inputs import Array

DEFAULT_DRAWS = 20


@dataclass(frozen=True)
class Purity:
    """Share of examples in the most common category of their cluster, compared with random clusters."""

    observed: float
    """Share of examples that belong to the most common category of their cluster."""
    random_mean: float
    """The same for random clusters of the same sizes: mean over the draws."""
    random_sd: float
    excess: float | None
    """(observed − random) / (1 − random): 0 is chance, 1 is pure; None if random clusters are already pure."""
    values: list[float]
    """Share of the most common category in each non-empty cluster."""
    random_values: list[float]
    """The same for random clusters, one draw."""


def purity(counts: Array, seed: int = 0, num_draws: int = DEFAULT_DRAWS) -> Purity:
    """Measure the purity of clusters by categories, compared with random clusters of the same sizes.

    Purity alone says little: it grows with the number of clusters and with the share of the most common category.

    Args:
        counts: (K, V) examples of each category in each cluster.
        seed: seed of the random clusters.

    Raises:
        UserError: there are no examples, or fewer than two draws.
    """
    if num_draws < 2:
        raise UserError(f"num_draws={num_draws} is too few to measure a spread; give at least 2")
    if counts.ndim != 2 or not counts.sum():
        raise UserError(f"counts must be (K, V) with at least one example, not {counts.shape} with {counts.sum()}")
    counts = counts[counts.sum(axis=1) > 0]
    sizes, totals = counts.sum(axis=1), counts.sum(axis=0)
    own = commonest_shares(counts)
    draws = [random_shares(sizes, totals, seed + draw) for draw in range(num_draws)]
    observed, *means = (float(np.average(shares, weights=sizes)) for shares in (own, *draws))
    mean = float(np.mean(means))
    excess = None if mean >= 1 else (observed - mean) / (1 - mean)
    values, random_values = ([float(share) for share in shares] for shares in (own, draws[0]))
    return Purity(observed, mean, float(np.std(means, ddof=1)), excess, values, random_values)


def commonest_shares(counts: Array) -> Array:
    """Return the share of the most common category in each cluster, (K,), nan if empty; `counts` is (K, V)."""
    sizes = counts.sum(axis=1)
    return np.where(sizes > 0, counts.max(axis=1, initial=0) / np.maximum(sizes, 1), np.nan)


def random_shares(sizes: Array, totals: Array, seed: int = 0) -> Array:
    """Return the share of the most common category, (K,), in clusters filled at random without replacement.

    Args:
        sizes: (K,) examples of each cluster.
        totals: (V,) examples of each category, with the same sum as `sizes`.
    """
    rng = np.random.default_rng(seed)
    left = totals.astype(np.int64).copy()
    shares = np.full(len(sizes), np.nan)
    for k in rng.permutation(len(sizes)):
        if sizes[k]:
            drawn = rng.multivariate_hypergeometric(left, int(sizes[k]), method="marginals")
            left -= drawn
            shares[k] = drawn.max() / sizes[k]
    return shares


def count_pairs(clusters: Array, categories: Array, num_clusters: int, num_categories: int) -> Array:
    """Count the examples with each pair of labels: (N,) clusters and (N,) categories → (K, V) int64."""
    flat = clusters.astype(np.int64) * num_categories + categories
    return np.bincount(flat, minlength=num_clusters * num_categories).reshape(num_clusters, num_categories)


def adjusted_rand(one: Array, other: Array) -> float:
    """Compute the adjusted Rand index (Hubert and Arabie 1985) of two labellings (N,): 1 is identical, 0 is chance.

    Raises:
        UserError: the labels are not two equally long arrays of integers from 0.
    """
    _check_labels(one, other)
    cells = _pairs(_cell_counts(one, other))
    rows, columns = _pairs(np.bincount(one)), _pairs(np.bincount(other))
    expected = rows * columns / _pairs(np.array([len(one)])) if len(one) > 1 else 0.0
    highest = (rows + columns) / 2
    # Both are one cluster, or both are all singletons: the clusters are identical.
    return 1.0 if highest == expected else (cells - expected) / (highest - expected)


def _cell_counts(one: Array, other: Array) -> Array:
    """Count each pair of labels that occurs (and some zeros)."""
    width = int(other.max()) + 1
    codes = one.astype(np.int64) * width + other
    if (int(one.max()) + 1) * width <= max(4 * len(one), 1 << 20):
        return np.bincount(codes)
    return np.unique(codes, return_counts=True)[1]


def _pairs(counts: Array) -> float:
    """Compute Σ n (n − 1) / 2 in float64, because the product of two such sums overflows 64-bit integers."""
    wide = counts.astype(np.float64)
    return float((wide * (wide - 1)).sum() / 2)


def _check_labels(one: Array, other: Array) -> None:
    if one.shape != other.shape or one.ndim != 1 or not len(one):
        raise UserError(f"labels must be two arrays (N,) with N ≥ 1, not {one.shape} and {other.shape}")
    for labels in (one, other):
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise UserError(f"labels must be integers from 0, not {labels.dtype} from {labels.min()}")
