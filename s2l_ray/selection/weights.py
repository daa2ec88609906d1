"""Weights that undo unequal sampling: a cluster's examples stand for the whole cluster.

With N_k examples in a group and n_k of them chosen at random, the weight N_k / n_k makes the subset's weighted mean
gradient an unbiased estimate of the corpus's (https://en.wikipedia.org/wiki/Horvitz-Thompson_estimator). Scaled to mean
1, they leave the effective step alone on average; capped, one example cannot rule a batch.
"""

from __future__ import annotations

import numpy as np

from s2l_ray.errors import UserError
from s2l_ray.selection.ordering import Array, Ordering, Selection

DEFAULT_CAP = 10.0


def cluster_weights(ordering: Ordering, selection: Selection, cap: float = DEFAULT_CAP) -> Array:
    """(n,) float32 weights of the chosen rows, mean 1 and none above `cap` × the median.

    Eligible and ineligible examples of a group stand for themselves: what a guard dropped is not made up for.

    Raises:
        UserError: the selector does not sample its groups at random, so nothing is to be undone.
    """
    if not ordering.random_within_groups:
        raise UserError(
            "weights=cluster undoes random sampling within clusters, and this selector chooses by score; weights would "
            "say nothing there. Set weights=none, or use a selector that samples (s2l, s2l_robust, random_per_source …)"
        )
    if not cap >= 1:
        raise UserError(f"weights_cap={cap} would cut the median itself; give at least 1")
    stratum = 2 * ordering.groups.astype(np.int64)
    if ordering.eligible is not None:
        stratum += ~ordering.eligible
    sizes = np.bincount(stratum)
    chosen = stratum[selection.rows]  # (n,)
    weights = sizes[chosen] / np.bincount(chosen, minlength=len(sizes))[chosen]
    weights = np.minimum(weights, cap * np.median(weights))
    return (weights / weights.mean()).astype(np.float32)
