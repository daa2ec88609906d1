"""Sizes of subsets: whole numbers are counts of examples, fractions shares of the corpus."""

from __future__ import annotations

import math
from typing import Any

from s2l_ray.errors import listed, shown

MAX_EXAMPLES = 10**12
"""More than any corpus has."""


def check_budgets(budgets: list[int | float]) -> list[int | float]:
    """Raises ValueError, naming every budget that is neither a count nor a share."""
    wrong = [shown(b) for b in budgets if not _is_budget(b)]
    if wrong:
        what = "budget" if len(wrong) == 1 else "budgets"
        verb = "is" if len(wrong) == 1 else "are"
        raise ValueError(
            f"{what} {', '.join(listed(wrong))} {verb} neither a count (whole number from 1 to {MAX_EXAMPLES:,}) nor a "
            "share (fraction in (0, 1])"
        )
    return budgets


def _is_budget(budget: Any) -> bool:
    if isinstance(budget, float):
        return math.isfinite(budget) and 0 < budget <= 1
    return 0 < budget <= MAX_EXAMPLES
