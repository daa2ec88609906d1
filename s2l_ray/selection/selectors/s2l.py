"""SmallToLarge (https://arxiv.org/abs/2403.07384, Algorithm 1): evenly over clusters of similar loss trajectories."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.allocation import AllocationRule, GroupLabel
from s2l_ray.selection.grouping import order_sample, sorted_strata
from s2l_ray.selection.inputs import Array, SelectionInputs
from s2l_ray.selection.options import ClusterOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.signals import CLUSTERS


class S2L:
    name = "s2l"
    summary = "evenly over clusters of similar loss trajectories"
    label = "S2L"
    Options = ClusterOptions

    def needs(self, options: ClusterOptions) -> frozenset[str]:
        return options.strata_needs() | {CLUSTERS}

    def order(self, inputs: SelectionInputs, seed: int, options: ClusterOptions, max_budget: int) -> Ordering:
        inputs.require(f"the selector {self.name}", [CLUSTERS])
        assert inputs.clusters is not None
        return sample_clusters(inputs, seed, inputs.clusters, options)


def sample_clusters(inputs: SelectionInputs, seed: int, clusters: Array, options: ClusterOptions) -> Ordering:
    """Sample `clusters` (N,) by the allocation rule of the options, globally or within each stratum.

    The paper's Algorithm 1 is global; the authors' code balances sources first, and then the clusters of each source.
    """
    clusters = clusters.astype(np.int64)
    num_clusters = int(clusters.max(initial=0)) + 1
    if not options.stratify:
        rule = AllocationRule(options.allocation_exponent)
        return order_sample(inputs, seed, clusters, lambda code: GroupLabel(cluster=code), rule)
    strata, names = sorted_strata(inputs, options.stratify, f"stratify={options.stratify}")
    return order_sample(
        inputs,
        seed,
        strata * num_clusters + clusters,
        lambda code: GroupLabel(names[code // num_clusters], code % num_clusters),
        AllocationRule(options.allocation_exponent, split_strata=True),
    )
