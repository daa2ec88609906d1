"""What a selector is. To add one: a class with these attributes, and `register` an instance of it.

One whose order for small budgets depends on `max_budget` has `order_depends_on_budget = True` too: subsets are then
told apart by it.
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
    """As in `selection.selectors`; letters, digits and underscores."""
    summary: str
    """One line for help and docs: how it chooses."""
    label: str
    """Name in figures and tables."""

    @property
    def Options(self) -> type[SelectorOptions]:
        """What can be set in `selection.options.<name>`; an unknown key is refused."""

    def needs(self, options: Any) -> frozenset[str]:
        """What it reads, so that scoring writes that and no more (see `signals`)."""

    def order(self, inputs: SelectionInputs, seed: int, options: Any, max_budget: int) -> Ordering:
        """Group and rank all examples, the same whatever the order of the rows.

        Args:
            inputs: hold what `needs` names; `inputs.eligible` ranks last in each group what the guards dropped.
            options: an instance of `Options`.
            max_budget: ranks past it may be left out.
        """
