"""Order of examples within groups, independent of the budget: cutting it at any budgets gives nested subsets.

Memory for N examples: 12 N bytes, 1 or 2 N more with guards or stages, and about 60 N while it is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from s2l_ray.errors import UserError
from s2l_ray.selection.allocation import EVENLY, AllocationRule, GroupLabel

if TYPE_CHECKING:
    from s2l_ray.selection.guards import GuardReport

Array = np.ndarray[Any, np.dtype[Any]]


class GroupQuota(TypedDict):
    """One row of the table stored with a subset; a plain dict, ready for JSON."""

    stratum: str | None
    """Source or facet value, if the selector balances these."""
    cluster: int | None
    """Cluster number, if the selector samples clusters."""
    stage: int | None
    """Stage, if the selector is a curriculum."""
    size: int
    """Number of examples in the group."""
    eligible: int
    """Number of these that no guard dropped."""
    taken: int
    """Number of examples chosen from the group."""


@dataclass(frozen=True)
class Selection:
    """A subset: the chosen rows and their groups."""

    rows: Array
    """(n,) int64, chosen rows, ascending."""
    rank: Array
    """(n,) int64, each chosen row's 0-based rank within its group."""
    groups: list[GroupQuota]
    """One row for each non-empty group, by stratum, then cluster or stage."""
    group_of: Array
    """(n,) int32, index into `groups` of each chosen row."""
    num_ineligible: int = 0
    """Number of examples chosen despite a guard or the selector's own rule, because the budget exceeds the others."""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ordering:
    """All examples, grouped and ranked; `take` cuts it at any budget."""

    groups: Array
    """(N,) int32, codes of the G non-empty groups."""
    rank: Array
    """(N,) int64, rank within the group, eligible examples first."""
    group_labels: list[GroupLabel]
    """Labels of the G groups."""
    seed: int
    allocation: AllocationRule = EVENLY
    eligible: Array | None = None
    """(N,) bool; None: all are."""
    stage: Array | None = None
    """(N,) int8, the stage of a curriculum in which the target sees the example; None: no curriculum."""
    random_within_groups: bool = False
    """Whether the order within groups is uniformly random, so that weights by group make sense."""
    max_budget: int | None = None
    """Largest budget up to which ranks exist; None: all exist."""
    guard: GuardReport | None = None
    """Report of what the guards dropped."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Decisions of the selector itself, for the manifest; plain data."""
    warnings: list[str] = field(default_factory=list)
    """Warnings for the user."""

    def take(self, budget: int) -> Selection:
        """Return the subset of exactly `budget` examples, 1 ≤ budget ≤ N (or `max_budget`).

        Raises:
            UserError: the budget is not within these bounds.
        """
        self._check_budget(budget)
        num_groups = len(self.group_labels)
        sizes = np.bincount(self.groups, minlength=num_groups)  # (G,)
        eligible = sizes if self.eligible is None else np.bincount(self.groups[self.eligible], minlength=num_groups)
        taken = self.allocation.quotas(eligible, budget, self.group_labels, self.seed)  # (G,)
        lacking = max(0, budget - int(eligible.sum()))
        if lacking:
            taken = taken + self.allocation.quotas(sizes - eligible, lacking, self.group_labels, self.seed)
        rows = np.flatnonzero(self.rank < taken[self.groups])  # (n,)
        table = [
            GroupQuota(
                stratum=label.stratum, cluster=label.cluster, stage=label.stage, size=int(size), eligible=int(good),
                taken=int(quota),
            )
            for label, size, good, quota in zip(self.group_labels, sizes, eligible, taken, strict=True)
        ]  # fmt: skip
        warnings = [self._past_eligible(budget, lacking)] if lacking else []
        return Selection(rows, self.rank[rows], table, self.groups[rows], lacking, warnings)

    def _check_budget(self, budget: int) -> None:
        num_examples = len(self.groups)
        if not 1 <= budget <= num_examples:
            raise UserError(
                f"budget {budget} cannot be taken from {num_examples} examples; give 1 to {num_examples} "
                "(resolve_budget turns shares into counts)"
            )
        if self.max_budget is not None and budget > self.max_budget:
            raise UserError(
                f"budget {budget} is larger than {self.max_budget}, the largest for which this selector ranked "
                "examples; run the selection again with this budget in selection.budgets"
            )

    def _past_eligible(self, budget: int, lacking: int) -> str:
        return (
            f"the budget {budget:,} exceeds the {budget - lacking:,} eligible examples, so {lacking:,} that a guard or "
            "the selector's own rule excludes were added last; lower the budget or relax the rule"
        )
