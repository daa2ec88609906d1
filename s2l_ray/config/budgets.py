"""Sizes of subsets: whole numbers are counts of examples, fractions shares of the corpus."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from s2l_ray.config.section import refuse_repeated
from s2l_ray.errors import listed, shown

MAX_EXAMPLES = 10**12
"""Upper limit for a count, more examples than any corpus has."""


def plain_budgets(budgets: Any) -> Any:
    """Convert budgets to Python's int and float, before pydantic turns numpy's 7 into 7.0, a share.

    This keeps counts and shares apart, and their names the same wherever they come from.
    """
    if not isinstance(budgets, list):
        return budgets
    for budget in budgets:
        if isinstance(budget, str) and budget.strip().endswith("%"):
            raise ValueError(f"{shown(budget)} is text; write a share as a fraction (0.3 for 30 %)")
    return [_plain(b) if isinstance(b, Real) and not isinstance(b, bool) else b for b in budgets]


def _plain(budget: Real) -> int | float:
    return int(budget) if isinstance(budget, Integral) else float(budget)


def check_budgets(where: str, budgets: list[int | float]) -> list[int | float]:
    """Raises ValueError, naming every budget that is neither a count nor a share, or is listed twice."""
    wrong = [shown(b) for b in budgets if not is_budget(b)]
    if wrong:
        what = "budget" if len(wrong) == 1 else "budgets"
        verb = "is" if len(wrong) == 1 else "are"
        raise ValueError(
            f"{what} {', '.join(listed(wrong))} {verb} neither a count (whole number from 1 to {MAX_EXAMPLES:,}) nor a "
            "share (fraction in (0, 1])"
        )
    refuse_repeated(where, budgets)
    return budgets


def is_budget(budget: int | float) -> bool:
    """Whether the number is a count of examples (int) or a share of them (float)."""
    if isinstance(budget, float):
        return math.isfinite(budget) and 0 < budget <= 1
    return 0 < budget <= MAX_EXAMPLES
