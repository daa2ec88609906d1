"""Renames the targets in a configuration file when the command line changes its selection, or refuses the change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from s2l_ray.config.schema import SelectionConfig

FULL = "full"
_Subsets = dict[str, tuple[str, int]]
"""Name → (selector, number of the budget)."""


def follow_selection(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], list[str]] | None:
    """Names in `target.subsets` after `selection` was changed on the command line.

    Where the file fine-tunes on every budget of some selectors, the new ones take their places, however many. Else a
    target of a selector's first budget becomes one of its new first budget, and so on, if there are as many as before;
    what is chosen as before stays. Which of more or of fewer is meant is not ours to say. `full` stays in any case.

    Args:
        before: the configuration as its file has it.
        after: with the changes.

    Returns:
        (new names, those that cannot follow); None if nothing needs to change.
    """
    names = _at(after, "target", "subsets")
    old, new = _subsets(before), _subsets(after)
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or old is None or new is None:
        return None  # validation will say it
    if (product := _new_product(names, old, new)) is not None:
        return product, []
    if all(n in new or n == FULL for n in names):
        return None
    as_many = {number for _, number in old.values()} == {number for _, number in new.values()}
    by_place = {place: name for name, place in new.items()} if as_many else {}
    followed, lost = [], []
    for name in names:
        if name in new or name == FULL or name not in old:  # of no selection at all: refused by validation
            followed.append(name)
        elif (renamed := by_place.get(old[name])) is not None and renamed not in names:
            followed.append(renamed)
        else:
            lost.append(name)
    return followed, lost


def _new_product(names: list[str], old: _Subsets, new: _Subsets) -> list[str] | None:
    """Every new budget of the selectors of which `names` has every old one; None if it is no such product."""
    subsets = [n for n in names if n != FULL]
    selectors = list(dict.fromkeys(old[n][0] for n in subsets if n in old))
    every = {n for n, (selector, _) in old.items() if selector in selectors}
    if not subsets or set(subsets) != every or not set(selectors) <= {selector for selector, _ in new.values()}:
        return None
    made = [n for chosen in selectors for n, (selector, _) in new.items() if selector == chosen]
    if FULL in names:
        made.insert(0 if names[0] == FULL else len(made), FULL)
    return names if set(made) == set(names) else made


def subset_names(tree: Mapping[str, Any]) -> list[str]:
    """All subsets of a valid section `selection`."""
    return list(_subsets(tree) or {})


def _subsets(tree: Mapping[str, Any]) -> _Subsets | None:
    """None for a section that validation will refuse."""
    try:
        selection = SelectionConfig.model_validate(tree.get("selection") or {})
    except ValidationError:
        return None
    return {
        selection.subset_name(selector, budget): (selector, number)
        for selector in selection.selectors
        for number, budget in enumerate(selection.budgets)
    }


def _at(tree: Mapping[str, Any], *path: str) -> Any:
    node: Any = tree
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node
