"""Orders of texts for readers."""

from __future__ import annotations

import re


def by_numbers(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key by which `Level 2` comes before `Level 10`: digits count as numbers, everything else as text."""
    key = []
    for part in re.split("([0-9]+)", text):
        digits = part.lstrip("0") if part.isdigit() else ""  # not int(), which refuses thousands of digits
        key.append((0, len(digits), digits) if part.isdigit() else (1, 0, part))
    return tuple(key)
