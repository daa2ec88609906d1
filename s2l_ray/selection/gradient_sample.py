"""Which examples stand for the corpus in the gradient check: a uniform sample, and more of the clusters it misses.

A function of ids, clusters and seed alone: neither the order of the rows nor their parts have any influence.

Memory for N examples: about 60 N bytes while it is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.data.ranking import rank_within, sampling_keys
from s2l_ray.errors import UserError

NUM_GROUPS = 20
"""Of the jackknife."""
MOST_PER_CLUSTER = 16
"""That a cluster is filled up to, if the sample has room for as many of each."""
LEAST_PER_CLUSTER = 2
"""One alone has no spread."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class GradientSample:
    """m of N examples, in the order of their ids. Within each cluster they are a simple random sample."""

    rows: Array
    """(m,) int64, rows among the N."""
    is_uniform: Array
    """(m,) bool: of the uniform sample of the whole corpus."""
    clusters: Array
    """(m,) int64, cluster numbers."""
    cluster_sizes: Array
    """(K,) int64, examples of the corpus."""
    uniform_groups: Array
    """(m,) int64: group of the jackknife in the uniform sample."""
    cluster_groups: Array
    """(m,) int64: group of the jackknife in all m; −1: its whole cluster is in the sample, which is then no chance."""


def draw_sample(example_ids: Array, clusters: Array, num_examples: int, seed: int) -> GradientSample:
    """Draw `num_examples` uniformly, and fill up clusters that have few of them.

    Args:
        example_ids: (N, 2) uint64.
        clusters: (N,) integers from 0.

    Raises:
        UserError: they are less than two for each cluster.
    """
    sizes = np.bincount(clusters).astype(np.int64)
    num_clusters = int((sizes > 0).sum())
    if num_examples < min(LEAST_PER_CLUSTER * num_clusters, len(clusters)):
        raise UserError(
            f"gradients.num_examples={num_examples:,} is less than two for each of {num_clusters:,} clusters, and what "
            f"differs within a cluster could not be told; raise it to {LEAST_PER_CLUSTER * num_clusters:,} or more"
        )
    keys = sampling_keys(example_ids, seed, "gradients")
    overall = rank_within(np.zeros(len(keys), dtype=np.int64), keys, example_ids)
    within = rank_within(clusters, keys, example_ids)
    filled = max(LEAST_PER_CLUSTER, min(MOST_PER_CLUSTER, num_examples // num_clusters))
    rows = np.flatnonzero((overall < num_examples) | (within < filled))
    rows = rows[np.lexsort((example_ids[rows, 1], example_ids[rows, 0]))]
    labels = clusters[rows].astype(np.int64)
    counts = np.bincount(labels, minlength=len(sizes))
    groups = (within[rows] + labels) % NUM_GROUPS  # + labels: small clusters fill all groups, not the first ones
    return GradientSample(
        rows,
        overall[rows] < num_examples,
        labels,
        sizes,
        overall[rows] % NUM_GROUPS,
        np.where(counts[labels] == sizes[labels], -1, groups),
    )
