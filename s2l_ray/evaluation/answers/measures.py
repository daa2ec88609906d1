"""Units that contain smaller ones, and answers that state one value twice: `5/8, or 62.5%`, `1 hour, or 60 minutes`."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from s2l_ray.evaluation.answers import numbers, numerals
from s2l_ray.evaluation.answers.numbers import Number

_UNITS = (
    (r"dollars?|euros?|\$", "cents?", 100), ("hours?|hrs?|h", "minutes?|mins?|m", 60),
    ("minutes?|mins?", "seconds?|secs?|s", 60), ("days?", "hours?|hrs?|h", 24), ("weeks?", "days?", 7),
    ("years?", "months?", 12), ("feet|foot|ft", "inch(?:es)?|in", 12), ("yards?|yds?", "feet|foot|ft", 3),
    ("pounds?|lbs?", "ounces?|oz", 16), ("gallons?", "quarts?", 4), ("kilomet(?:er|re)s?|km", "met(?:er|re)s?|m", 1000),
    ("met(?:er|re)s?|m", "centimet(?:er|re)s?|cm", 100), ("kilograms?|kg", "grams?|g", 1000),
)  # fmt: skip
"""(unit, smaller unit, number of smaller units in the unit)."""
_SMALLER = [
    (re.compile(rf" ?(?:{large})\.?,?(?: and)? ([0-9]{{1,3}}(?:\.[0-9]+)?) ?(?:{small})\b(?! ?[²³^/])"), count)
    for large, small, count in _UNITS
]
_TWICE = re.compile(
    r"\\text\s*\{\s*,?\s*or\s*\}|,? \(?or(?: about| roughly| approximately)?,? |=|≈|\\approx(?![A-Za-z])"
)
_MAX_CHARACTERS = 200


def compound(first: Number, rest: str) -> Number | None:
    """A number combined with an amount in a smaller unit after it: 5 dollars and 20 cents are 5.20."""
    for pattern, count in _SMALLER:
        if smaller := pattern.match(rest):
            value = first.value + Fraction(smaller[1]) / count
            return Number(value, 2 if count == 100 else None, False, first.start, first.end)
    return None


class _Amount(NamedTuple):
    value: Fraction
    decimals: int
    unit: str


def forms(text: str) -> list[str]:
    """The parts of an answer that states one value in several forms; the answer itself if they are not equal."""
    parts = _TWICE.split(text) if len(text) <= _MAX_CHARACTERS else [text]
    amounts = [_amount(part) for part in parts]
    first = amounts[0]
    if first is None or not all(other is not None and _agree(first, other) for other in amounts[1:]):
        return [text]
    return parts


def _amount(part: str) -> _Amount | None:
    text = numbers.plain(numerals.in_digits(part))
    found = list(numbers.find(text))
    if len(found) != 1 or found[0].is_part:
        return None
    words = re.match(r"[\s-]*([A-Za-z]*)", text[found[0].end :])
    unit = "%" if re.search(r"%|\bpercent\b", part) else "$" if part.count("$") % 2 else words[1] if words else ""
    return _Amount(found[0].value, found[0].decimals or 0, unit)


def _agree(one: _Amount, other: _Amount) -> bool:
    if "%" in (one.unit, other.unit) and one.unit != other.unit:
        one, other = (
            a._replace(value=a.value / 100, decimals=a.decimals + 2) if a.unit == "%" else a for a in (one, other)
        )
    elif one.unit and other.unit and one.unit != other.unit:
        return any(
            re.fullmatch(large, a.unit) and re.fullmatch(small, b.unit) and a.value * count == b.value
            for a, b in ((one, other), (other, one))
            for large, small, count in _UNITS
        )
    places = max(one.decimals, other.decimals)
    slack = Fraction(1, 2 * 10**places) if places > 1 else 0
    return abs(one.value - other.value) <= slack
