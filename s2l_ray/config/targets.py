"""A file's targets are named after its selection: they follow where the command line changes that, or are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from s2l_ray.config.schema import SelectionConfig, subset_name

FULL = "full"


def follow_selection(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], list[str]] | None:
    """Names in `target.subsets` after `selection` was changed on the command line.

    A target of a selector's first budget becomes one of its new first budget, and so on; `full`, and what is chosen as
    before, stays. Only as many budgets can follow as there were: which of more is meant, or which of fewer, is not ours
    to say.

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


def subset_names(tree: Mapping[str, Any]) -> list[str]:
    """All subsets of a valid section `selection`."""
    return list(_subsets(tree) or {})


def _subsets(tree: Mapping[str, Any]) -> dict[str, tuple[str, int]] | None:
    """Name → (selector, number of the budget); None for a section that validation will refuse."""
    try:
        selection = SelectionConfig.model_validate(tree.get("selection") or {})
    except ValidationError:
        return None
    return {
        subset_name(selector, budget, selection.stratify): (selector, number)
        for selector in selection.selectors
        for number, budget in enumerate(selection.budgets)
    }


def _at(tree: Mapping[str, Any], *path: str) -> Any:
    node: Any = tree
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node
