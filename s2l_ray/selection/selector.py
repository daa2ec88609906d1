"""Interface of a selector. To add one, write a class with these attributes and `register` an instance.

If its order for small budgets depends on `max_budget`, also set `order_depends_on_budget = True`, so that subsets are
distinguished by it.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from s2l_ray.selection.inputs import SelectionInputs
from s2l_ray.selection.options import SelectorOptions
from s2l_ray.selection.ordering import Ordering


@runtime_checkable
class Selector(Protocol):
    """A rule that orders all examples once, for every budget."""

    name: str
    """Name in `selection.selectors`; lower-case letters, digits and underscores."""
    summary: str
    """One line for help and docs: how it selects."""
    label: str
    """Name in figures and tables."""

    @property
    def Options(self) -> type[SelectorOptions]:
        """Options that can be set in `selection.options.<name>`; unknown keys are rejected."""

    def needs(self, options: Any) -> frozenset[str]:
        """Return the inputs that the selector reads, so that scoring writes only those (see `signals`)."""

    def order(self, inputs: SelectionInputs, seed: int, options: Any, max_budget: int) -> Ordering:
        """Group and rank all examples, independently of the order of the rows.

        Args:
            inputs: contains everything listed by `needs`; examples flagged by guards (`inputs.eligible` is false) rank
                last in each group.
            seed: seed of the selection.
            options: an instance of `Options`.
            max_budget: ranks beyond it may be omitted.
        """
