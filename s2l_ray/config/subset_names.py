"""Names of subsets, such as `s2l-0.11`: a selector and a budget, spelled the same everywhere."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import NamedTuple

_NAME = re.compile(r"(?P<selector>[a-z][a-z0-9_]*)(?P<mark>-stratified)?-(?P<budget>[0-9][0-9.]*(?:e-[0-9]+)?%?)")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,3})?")
_PERCENT = re.compile(r"(?:[0-9]{1,18}(?:\.[0-9]{1,30})?|\.[0-9]{1,30})%")


class SubsetName(NamedTuple):
    """What the name of a subset says."""

    selector: str
    budget: int | float
    stratified: bool


def parse_budget(text: str) -> int | float:
    """A count (`20000`) as int, a share (`0.3`, `30%`) as float.

    Raises:
        ValueError: it is neither. Whether the number makes sense is checked with the configuration.
    """
    text = text.strip()
    if _PERCENT.fullmatch(text):
        return float(Decimal(text[:-1]) / 100)  # 11 / 100 as people write it: 0.11
    if not _NUMBER.fullmatch(text):  # Python's own numbers may have underscores, and digits of any script
        raise ValueError(text)
    budget = int(text) if text.lstrip("-+").isdigit() else float(text)
    if not math.isfinite(budget):
        raise ValueError(text)
    return budget


def canonical(name: str) -> str:
    """The name of a subset as runs write it: `s2l-0.3` for `s2l-30%` and `s2l-0.30`; other texts stay as they are."""
    named = parse_subset_name(name)
    if named is None:
        return name
    return f"{named.selector}{'-stratified' if named.stratified else ''}-{named.budget!r}"


def parse_subset_name(name: str) -> SubsetName | None:
    """The inverse of `SelectionConfig.subset_name`; None if the text is not a subset's name.

    `s2l-30%` is `s2l-0.3`, and a name of a folder (`s2l-0.3-1a2b3c4d`) is none.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        budget = parse_budget(match["budget"])
    except ValueError:
        return None
    return SubsetName(match["selector"], budget, match["mark"] is not None)
