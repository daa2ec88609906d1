"""Display of untrusted text: names, rows, values and errors that come from data, models or services.

Control characters and invisible characters are shown as their codes, so that the text cannot move the cursor, hide or
reverse the text next to it, or pass for a line of the program's own. Stored data is never changed in this way.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from rich.cells import cell_len

from s2l_ray.text.redact import redact_text

MAX_VALUE = 200
"""Longest excerpt of one value (characters)."""

# Invisible, although Python considers them printable: fillers, joiners, variation selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def printable(text: str, keep: str = "") -> str:
    r"""Return the text with codes (`\n`, `\x1b`, `\u202e`) in place of characters that have no glyph of their own.

    Args:
        keep: characters to leave unchanged, such as a newline. Without it the result is a single line.
    """
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(c if c in keep or _has_glyph(c) else c.encode("unicode_escape").decode() for c in text)


def _has_glyph(character: str) -> bool:
    if character.isprintable():
        return not _INVISIBLE.match(character)
    return unicodedata.category(character) == "Zs"  # spaces of all widths, for example between Chinese characters


def one_line(text: str, limit: int = MAX_VALUE) -> str:
    """Return untrusted text for use within a line: credentials redacted, printable, cut to `limit` characters."""
    return shorten(printable(shorten(redact_text(text), limit)), limit)


def shorten(text: str, limit: int) -> str:
    """Cut the middle out of long text: the beginning of an error says what is wrong, the end how to fix it."""
    if len(text) <= limit:
        return text
    gap = f" … [{len(text) - limit:,} characters more] … "
    room = max(0, limit - len(gap))
    head = room * 2 // 3
    return text[:head] + gap + (text[-(room - head) :] if room > head else "")


def capitalised(text: str) -> str:
    """Begin a sentence with this text: its first letter as a capital, the rest as it is."""
    return text[:1].upper() + text[1:]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as printable lines, with the first column left-aligned and the others right-aligned.

    Chinese, Japanese and Korean characters are two terminal columns wide.
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
