"""Foreign text on its way to a person: names, rows, values and errors that are not ours to trust.

What is shown is what stands there: control characters and all that is invisible appear as their codes, so that nobody's
text can move a cursor, hide or reverse its neighbours, or pass for a line of ours. Stored data never comes here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from rich.cells import cell_len

from s2l_ray.text.redact import redact_text

MAX_VALUE = 200
"""Longest excerpt of one value (characters)."""

# Invisible although Python holds them to be printable: fillers, joiners, variation selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def printable(text: str, keep: str = "") -> str:
    r"""The text in one line, with codes (`\n`, `\x1b`, `\u202e`) for all that has no glyph of its own.

    Args:
        keep: characters to leave as they are, such as a newline.
    """
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(c if c in keep or _has_glyph(c) else c.encode("unicode_escape").decode() for c in text)


def _has_glyph(character: str) -> bool:
    if character.isprintable():
        return not _INVISIBLE.match(character)
    return unicodedata.category(character) == "Zs"  # spaces of all widths, for example between Chinese characters


def one_line(text: str, limit: int = MAX_VALUE) -> str:
    """Foreign text for a place within a line of ours: without credentials, printable, not too long."""
    return shorten(printable(shorten(redact_text(text), limit)), limit)


def shorten(text: str, limit: int) -> str:
    """Cut in the middle: the beginning says what is wrong, the end what would do."""
    if len(text) <= limit:
        return text
    gap = f" … [{len(text) - limit:,} characters more] … "
    room = max(0, limit - len(gap))
    head = room * 2 // 3
    return text[:head] + gap + (text[-(room - head) :] if room > head else "")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines: printable, the first column to the left, the others to the right.

    Chinese, Japanese and Korean characters take two columns of a terminal.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(cell_len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for row in cells:
        padding = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        lines.append(
            "  ".join(p + cell if i else cell + p for i, (cell, p) in enumerate(zip(row, padding, strict=True)))
        )
    return lines
