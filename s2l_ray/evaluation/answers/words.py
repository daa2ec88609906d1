"""Which letters beside a number are a unit or a word, and which are unknowns: 24 km and 18 men are numbers, 24x and
3 ab are terms."""

from __future__ import annotations

import re

_SHORT = re.compile(
    "[cmk]m|[mdc]l|[km]g|gm|lbs?|oz|ft|in|yds?|mi|sq|cu|gal|hrs?|yrs?|mo|wks?|am|pm|[mk]ph|kmh|rpm|bpm|fps|kwh|pts|pcs|cts?"
    "|qts|tsp|pkg|dz|ea|gbp|(?-i:k[WVJ]|[MG]W|Hz|k?Pa|[kKMGT]B|US|UK|Rs|TV|CD|PC)"
    "|of|to|on|at|by|or|is|it|as|an|we|he|so|if|up|my|no|do|be|go|me",
    re.IGNORECASE,
)
_LETTERS = "mgshlLNJWVCFI"
"""Units of one letter, and the pronoun. Not k (kilo, thousand or a variable), nor any other that names an unknown."""


def is_word(letters: str) -> bool:
    """Whether some letters are a unit or a word; a run of the alphabet, as in `3 ab` and `24 xyz`, is neither."""
    if len(letters) == 1:
        return letters in _LETTERS
    if _SHORT.fullmatch(letters):
        return True
    lower = letters.lower()
    if len(letters) == 2 or lower in "abcdefghijklmnopqrstuvwxyz":
        return False
    return len(letters) > 3 or bool(re.search(r"[aeiouy]", lower)) or lower != letters
