"""Weights that undo unequal sampling: a cluster's examples stand for the whole cluster.

With N_k examples in a group and n_k of them chosen at random, the weight N_k / n_k makes the subset's weighted mean
gradient an unbiased estimate of the corpus's (https://en.wikipedia.org/wiki/Horvitz-Thompson_estimator). Weights are
scaled to mean 1, so that the effective step is unchanged on average, and capped, so that no example dominates a batch.
"""

from __future__ import annotations

import numpy as np

from s2l_ray.errors import UserError
from s2l_ray.selection.ordering import Array, Ordering, Selection

DEFAULT_CAP = 10.0


def cluster_weights(ordering: Ordering, selection: Selection, cap: float = DEFAULT_CAP) -> Array:
    """Return weights of the chosen rows, (n,) float32, with mean 1 and none above `cap` × the median.

    Eligible and ineligible examples of a group are weighted separately, so that examples dropped by a guard are not
    compensated for.

    Raises:
        UserError: the selector does not sample its groups at random, so there is nothing to undo.
    """
    if not ordering.random_within_groups:
        raise UserError(
            "weights=cluster compensates for random sampling within clusters, but this selector chooses by score, so "
            "weights would be meaningless. Set weights=none, or use a selector that samples (s2l, s2l_robust, "
            "random_per_source …)"
        )
    if not cap >= 1:
        raise UserError(f"weights_cap={cap} would cap even the median; give at least 1")
    stratum = 2 * ordering.groups.astype(np.int64)
    if ordering.eligible is not None:
        stratum += ~ordering.eligible
    sizes = np.bincount(stratum)
    chosen = stratum[selection.rows]  # (n,)
    weights = sizes[chosen] / np.bincount(chosen, minlength=len(sizes))[chosen]
    weights = np.minimum(weights, cap * np.median(weights))
    return (weights / weights.mean()).astype(np.float32)
