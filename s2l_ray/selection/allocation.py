"""Divide a budget among groups: evenly, in proportion to size, or in between.

The exponent α weighs a group by size^α: 0 is Algorithm 1 of S2L (equal quotas, https://arxiv.org/abs/2403.07384), 1 is
proportional. In between, places are assigned one by one with the Sainte-Laguë divisors
(https://en.wikipedia.org/wiki/Sainte-Lagu%C3%AB_method), capped by size: the next place goes to the group with the
largest size^α / (q + ½), where q is its quota so far. Unlike the method of largest remainders, this never takes a place
back when the budget grows, so subsets stay nested.

Memory for K groups: about 60 K bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.data.ranking import priority_keys
from s2l_ray.errors import UserError
from s2l_ray.selection.quotas import cluster_quotas

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class GroupLabel:
    """Identity of a group among the groups of an ordering."""

    stratum: str | None = None
    """Source (or value of a facet), if these are balanced."""
    cluster: int | None = None
    stage: int | None = None
    """Stage of a curriculum."""

    @property
    def key(self) -> str:
        """Name that breaks ties; part of the stored format, because a change would change users' subsets."""
        plain = (self.stratum, self.cluster)
        return repr(plain if self.stage is None else (*plain, self.stage))


@dataclass(frozen=True)
class AllocationRule:
    """Rule that divides a budget among groups."""

    exponent: float = 0.0
    """α: 0 gives every group the same number unless it is exhausted, 1 gives numbers in proportion to size."""
    split_strata: bool = False
    """Whether to split the budget evenly over the strata first, and then over the groups of each."""

    def quotas(self, sizes: Array, budget: int, labels: list[GroupLabel], seed: int) -> Array:
        """Divide the budget: (G,) sizes → (G,) int64 quotas, with the sum min(budget, sum of the sizes).

        No quota falls when the budget grows.
        """
        keys = priority_keys([label.key for label in labels], seed)  # (G,)
        if not self.split_strata:
            return power_quotas(sizes, budget, self.exponent, keys)
        strata, stratum_of = np.unique([str(label.stratum) for label in labels], return_inverse=True)
        stratum_sizes = np.bincount(stratum_of, weights=sizes).astype(np.int64)  # (S,)
        shares = cluster_quotas(stratum_sizes, budget, priority_keys(strata.tolist(), seed))  # (S,)
        taken = np.zeros(len(sizes), dtype=np.int64)
        for stratum, share in enumerate(shares):
            members = stratum_of == stratum
            taken[members] = power_quotas(sizes[members], int(share), self.exponent, keys[members])
        return taken


EVENLY = AllocationRule()


def power_quotas(sizes: Array, budget: int, exponent: float, tie_keys: Array) -> Array:
    """Divide a budget by size^α: (K,) group sizes → (K,) int64 quotas that sum to min(budget, sum of the sizes).

    Equal claims go to the larger group, then to the lower of `tie_keys` (K,), then to the lower index.

    Args:
        exponent: α in [0, 1]; 0 is `cluster_quotas`.

    Raises:
        UserError: the exponent is not in [0, 1], or the sizes or the budget are impossible.
    """
    if not 0 <= exponent <= 1:
        raise UserError(
            f"allocation exponent {exponent} is not in [0, 1]: below 0, large groups would give less than small ones; "
            "above 1, small groups would give nothing. Use 0 for equal quotas, 1 for proportional ones, or 0.5"
        )
    if exponent == 0 or budget < 0 or len(sizes) != len(tie_keys) or not len(sizes) or np.min(sizes) < 0:
        return cluster_quotas(sizes, budget, tie_keys)  # which refuses impossible arguments
    sizes = sizes.astype(np.int64)
    if budget >= sizes.sum():
        return sizes
    weights = np.where(sizes > 0, sizes.astype(np.float64) ** exponent, 0.0)  # (K,)
    # Assigning places one by one would take as many steps as the budget. Instead, find the claim at which the budget
    # runs out, between two neighbouring floats; claims above it are met, and equal ones by the tie rule.
    low = _bits(weights[weights > 0].min() / (2.0 * sizes.max() + 2.0))  # below every claim
    high = _bits(2.0 * weights.max())  # no claim is above this
    while high - low > 1:
        middle = (low + high) // 2
        if _claims_above(_number(middle), sizes, weights).sum() <= budget:
            high = middle
        else:
            low = middle
    quotas = _claims_above(_number(high), sizes, weights)
    equal = np.flatnonzero(_claims_above(_number(low), sizes, weights) > quotas)
    order = equal[np.lexsort((equal, tie_keys[equal], -sizes[equal]))]
    quotas[order[: budget - int(quotas.sum())]] += 1
    return quotas


def _claims_above(threshold: float, sizes: Array, weights: Array) -> Array:
    """Return the number of q in [0, size) with weight / (q + ½) > threshold, for each group (K,)."""
    count = np.clip(np.ceil(weights / threshold - 0.5), 0, sizes).astype(np.int64)
    count -= (count > 0) & ~(weights / (count - 0.5) > threshold)  # rounding is off by at most one
    count += (count < sizes) & (weights / (count + 0.5) > threshold)
    return count


def _bits(number: float) -> int:
    """Map a positive float to an integer so that order is kept and neighbouring floats are neighbouring integers."""
    return int(np.float64(number).view(np.uint64))


def _number(bits: int) -> float:
    return float(np.uint64(bits).view(np.float64))
