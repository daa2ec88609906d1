"""Sample of the corpus for the gradient check: a uniform sample, topped up in clusters that have too few examples.

It is a function of ids, clusters and seed only: neither the order of the rows nor their parts have any influence.

Memory for N examples: about 60 N bytes while the sample is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.data.ranking import rank_within, sampling_keys
from s2l_ray.errors import UserError

NUM_GROUPS = 20
"""Number of groups of the jackknife."""
MOST_PER_CLUSTER = 16
"""Number of examples to which clusters are topped up, if the sample's size allows as many for each."""
LEAST_PER_CLUSTER = 2
"""Lowest number of examples per cluster, because a single one has no spread."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class GradientSample:
    """Sample of m of N examples, in the order of their ids; within each cluster it is a simple random sample."""

    rows: Array
    """(m,) int64, rows among the N."""
    is_uniform: Array
    """(m,) bool: whether the example belongs to the uniform sample of the whole corpus."""
    clusters: Array
    """(m,) int64, cluster numbers."""
    cluster_sizes: Array
    """(K,) int64, examples of each cluster in the corpus."""
    uniform_groups: Array
    """(m,) int64: group of the jackknife over the uniform sample."""
    cluster_groups: Array
    """(m,) int64: group of the jackknife over all m; −1 if the whole cluster is in the sample, which is not chance."""


def draw_sample(example_ids: Array, clusters: Array, num_examples: int, seed: int) -> GradientSample:
    """Draw `num_examples` uniformly, and top up clusters that have few of them.

    Args:
        example_ids: (N, 2) uint64.
        clusters: (N,) integers from 0.

    Raises:
        UserError: `num_examples` is less than two per cluster.
    """
    sizes = np.bincount(clusters).astype(np.int64)
    num_clusters = int((sizes > 0).sum())
    if num_examples < min(LEAST_PER_CLUSTER * num_clusters, len(clusters)):
        raise UserError(
            f"gradients.num_examples={num_examples:,} is less than two for each of {num_clusters:,} clusters, so "
            f"differences within clusters could not be measured; raise it to {LEAST_PER_CLUSTER * num_clusters:,} or "
            "more"
        )
    keys = sampling_keys(example_ids, seed, "gradients")
    overall = rank_within(np.zeros(len(keys), dtype=np.int64), keys, example_ids)
    within = rank_within(clusters, keys, example_ids)
    filled = max(LEAST_PER_CLUSTER, min(MOST_PER_CLUSTER, num_examples // num_clusters))
    rows = np.flatnonzero((overall < num_examples) | (within < filled))
    rows = rows[np.lexsort((example_ids[rows, 1], example_ids[rows, 0]))]
    labels = clusters[rows].astype(np.int64)
    counts = np.bincount(labels, minlength=len(sizes))
    groups = (within[rows] + labels) % NUM_GROUPS  # + labels: spreads small clusters over all groups
    return GradientSample(
        rows,
        overall[rows] < num_examples,
        labels,
        sizes,
        overall[rows] % NUM_GROUPS,
        np.where(counts[labels] == sizes[labels], -1, groups),
    )
