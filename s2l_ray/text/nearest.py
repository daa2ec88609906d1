"""The nearest of the known names, for messages about a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 100
"""Of a longer name only the beginning is compared, which takes time proportional to both lengths."""


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the known name that is most like this one, whatever the case of its letters; None: none is like it.

    Args:
        likeness: how alike they must be, as in `difflib.get_close_matches`.
    """
    by_lower = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name[:_LONGEST].lower(), by_lower, n=1, cutoff=likeness)
    return by_lower[found[0]] if found else None
