"""Quotas of groups by Algorithm 1 of S2L (https://arxiv.org/abs/2403.07384), and budgets as counts or shares."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np

from s2l_ray.errors import UserError, listed

Array = np.ndarray[Any, np.dtype[Any]]


def cluster_quotas(sizes: Array, budget: int, tie_keys: Array) -> Array:
    """Divide a budget evenly: (K,) group sizes → (K,) int64 quotas that sum to exactly min(budget, sum of the sizes).

    Algorithm 1 visits the groups from the smallest to the largest (ties by index). With b left for k groups, the quota
    is ⌊b/k⌋, and a group of at most this size is taken whole. This is water-filling: all groups give the same number
    unless exhausted, so the same rule serves clusters, strata and sources. The last groups absorb the remainder, and
    always can: a group after one that was cut is at least as large, and its quota is at most one more.

    If the budget is smaller than the number of non-empty groups, ⌊b/k⌋ would be 0 until only the largest groups are
    left. Then `budget` groups give one example each, those with the lowest `tie_keys` (K,) (ties by index), whatever
    their sizes.

    Quotas never fall when the budget grows, so subsets by rank are nested.

    Raises:
        UserError: the budget or a size is negative, or there are not as many tie keys as groups.
    """
    if budget < 0:
        raise UserError(f"budget {budget} is negative; give 0 or more")
    if len(sizes) != len(tie_keys):
        raise UserError(f"{len(sizes)} groups but {len(tie_keys)} tie keys")
    if len(sizes) and np.min(sizes) < 0:
        raise UserError(f"group {int(np.argmin(sizes))} has the size {int(np.min(sizes))}; sizes count examples")
    quotas = np.zeros(len(sizes), dtype=np.int64)
    filled = np.flatnonzero(sizes)  # empty groups neither give nor count
    if budget < len(filled):
        quotas[filled[np.argsort(tie_keys[filled], kind="stable")[:budget]]] = 1
        return quotas
    smallest_first = filled[np.argsort(sizes[filled], kind="stable")]
    left = budget
    for visited, group in enumerate(smallest_first):
        quota = left // (len(smallest_first) - visited)
        quotas[group] = min(int(sizes[group]), quota)
        left -= int(quotas[group])
    return quotas


def check_budgets_fit(where: str, budgets: Sequence[int | float], num_examples: int) -> None:
    """Refuse counts above the number of examples as soon as that is known, before anything is trained.

    Args:
        where: the setting that contains the budgets.

    Raises:
        UserError: a budget is too large; the message names all of these.
    """
    larger = [f"{b:,}" for b in budgets if isinstance(b, Integral) and b > num_examples]
    if larger:
        raise UserError(
            f"{where} requests {', '.join(listed(larger))} examples, but there are only {num_examples:,}, so no subset "
            f"can have that many. Give at most {num_examples:,}, or a share such as 0.1"
        )


def resolve_budget(budget: int | float, num_examples: int) -> int:
    """Convert a budget as the user wrote it to a number of examples.

    An int is a count (1 is one example); a float in (0, 1] is a share (1.0 is everything), rounded half up, at least 1.

    Raises:
        UserError: the budget is neither, or is larger than `num_examples`.
    """
    if num_examples < 1:
        raise UserError(f"a budget of {budget!r} cannot be taken from {num_examples} examples; the corpus is empty")
    is_count = isinstance(budget, Integral) and not isinstance(budget, bool)
    is_share = isinstance(budget, Real) and not isinstance(budget, Integral)
    if is_count and budget > num_examples:
        raise UserError(
            f"budget {budget} requests more than the {num_examples} examples there are, so no subset can have that "
            f"many. Give at most {num_examples}, or a share such as 0.1"
        )
    if is_count and budget >= 1:
        return int(budget)
    if is_share and 0 < budget <= 1:
        # Computed in decimals as written: 0.29 of 50 is 14.5 → 15, while the binary product is 14.499….
        exact = Decimal(repr(float(budget))) * num_examples
        return max(1, int(exact.to_integral_value(ROUND_HALF_UP)))
    raise UserError(
        f"budget {budget!r} is neither a count (whole number, at least 1) nor a share (fraction in (0, 1]), so the "
        "subset's size is unknown; write, for example, 500 or 0.1 for a tenth"
    )
