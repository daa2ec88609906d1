"""A model's text → the programs that it may mean, best first."""

from __future__ import annotations

import re

_HEADING = re.compile(r"^[ \t]*#{2,}[ \t]*(instruction|input|response|question|user|assistant)\b", re.M | re.I)
_TURN = re.compile(r"^(user|human|assistant)[ \t]*:", re.M | re.I)
_FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.M | re.S)


def program_readings(text: str) -> list[str]:
    """The text itself, cut where the model begins a new instruction; then what stands in its first fence.

    The first that compiles is the program. A new turn (`USER:`) could be an annotation in Python, so that cutting there
    comes last.
    """
    cut = _cut(text, _HEADING)
    turn = _cut(cut, _TURN)
    readings = [cut, *_fenced(cut), turn, *_fenced(turn)]
    return list(dict.fromkeys(readings))


def _cut(text: str, mark: re.Pattern[str]) -> str:
    """Before the first mark that something stands before."""
    for match in mark.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()]
    return text


def _fenced(text: str) -> list[str]:
    match = _FENCED.search(text)
    return [match[1]] if match else []
