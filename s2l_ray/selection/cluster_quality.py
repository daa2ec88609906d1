"""Quality of clusters: are they stable, how large are they, and do they say anything about what is known of examples?

Pure functions over labels, so that clusters of trajectories and of embeddings are measured alike. Memory: about 20
bytes an example, and one number for each pair of labels that occurs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.errors import UserError
from s2l_ray.selection.inputs import Array, Facet
from s2l_ray.selection.kmeans import KMeansResult

DEFAULT_DRAWS = 20


@dataclass(frozen=True)
class Purity:
    """How much of a cluster has its commonest category in common, beside clusters drawn at random."""

    observed: float
    """Share of examples that belong to the commonest category of their cluster."""
    random_mean: float
    """The same for random clusters of the same sizes, mean over the draws."""
    random_sd: float
    excess: float | None
    """(observed − random) / (1 − random): 0 is chance, 1 pure; None where random clusters are pure already."""


@dataclass(frozen=True)
class ClusterQuality:
    num_clusters: int
    inertia: float
    """Sum of squared distances to the own centroid."""
    smallest: int
    median: float
    largest: int
    """Sizes."""
    adjusted_rand: float | None
    """Agreement with the clusters of another seed; None: not computed."""
    purity: dict[str, Purity]
    """source, facet … → purity."""


def cluster_quality(
    result: KMeansResult,
    facets: Mapping[str, Facet],
    other_seed: KMeansResult | None = None,
    seed: int = 0,
    num_draws: int = DEFAULT_DRAWS,
) -> ClusterQuality:
    """Everything about one clustering.

    Args:
        other_seed: the same data clustered with another seed, for stability.
        seed: of the random clusters.
    """
    stability = None if other_seed is None else adjusted_rand(result.assignment, other_seed.assignment)
    return ClusterQuality(
        num_clusters=len(result.sizes),
        inertia=result.inertia,
        smallest=int(result.sizes.min()),
        median=float(np.median(result.sizes)),
        largest=int(result.sizes.max()),
        adjusted_rand=stability,
        purity={name: purity(result.assignment, facet.codes, seed, num_draws) for name, facet in facets.items()},
    )


def adjusted_rand(one: Array, other: Array) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985) of two labellings (N,): 1 is the same clusters, 0 chance."""
    _check_labels(one, other)
    cells = _pairs(_cell_counts(one, other)[2])
    rows, columns = _pairs(np.bincount(one)), _pairs(np.bincount(other))
    expected = rows * columns / _pairs(np.array([len(one)])) if len(one) > 1 else 0.0
    highest = (rows + columns) / 2
    # Both one cluster, or both all singletons: the same clusters.
    return 1.0 if highest == expected else (cells - expected) / (highest - expected)


def purity(clusters: Array, categories: Array, seed: int = 0, num_draws: int = DEFAULT_DRAWS) -> Purity:
    """Purity of `clusters` (N,) by `categories` (N,), beside random clusters of the same sizes.

    The number alone says little: it grows with the number of clusters and with the commonest category's share.
    """
    _check_labels(clusters, categories)
    if num_draws < 2:
        raise UserError(f"num_draws={num_draws} gives no spread; give at least 2")
    observed = _purity(clusters, categories)
    rng = np.random.default_rng(seed)
    shuffled = categories.copy()
    draws = np.empty(num_draws)
    for draw in range(num_draws):
        rng.shuffle(shuffled)
        draws[draw] = _purity(clusters, shuffled)
    mean = float(draws.mean())
    excess = None if mean >= 1 else (observed - mean) / (1 - mean)
    return Purity(observed, mean, float(draws.std(ddof=1)), excess)


def _purity(clusters: Array, categories: Array) -> float:
    in_cluster, _, counts = _cell_counts(clusters, categories)
    commonest = np.zeros(int(clusters.max()) + 1, dtype=np.int64)
    np.maximum.at(commonest, in_cluster, counts)
    return float(commonest.sum() / len(clusters))


def _cell_counts(one: Array, other: Array) -> tuple[Array, Array, Array]:
    """The pairs of labels that occur, and how often each does."""
    width = int(other.max()) + 1
    codes = one.astype(np.int64) * width + other
    if (int(one.max()) + 1) * width <= max(4 * len(one), 1 << 20):
        counts = np.bincount(codes)
        cells = np.flatnonzero(counts)
        return cells // width, cells % width, counts[cells]
    cells, counts = np.unique(codes, return_counts=True)
    return cells // width, cells % width, counts


def _pairs(counts: Array) -> float:
    """Σ n (n − 1) / 2, in float64: the product of two such sums overflows 64 bits."""
    wide = counts.astype(np.float64)
    return float((wide * (wide - 1)).sum() / 2)


def _check_labels(one: Array, other: Array) -> None:
    if one.shape != other.shape or one.ndim != 1 or not len(one):
        raise UserError(f"labels must be two arrays (N,) with N ≥ 1, not {one.shape} and {other.shape}")
    for labels in (one, other):
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise UserError(f"labels must be integers from 0, not {labels.dtype} from {labels.min()}")


def as_json(quality: ClusterQuality) -> dict[str, Any]:
    """Plain data for a manifest or a report."""
    return vars(quality) | {"purity": {name: vars(one) for name, one in quality.purity.items()}}
