"""JSON form of rows, in which they are stored from the user's files to `subset.jsonl`."""

from __future__ import annotations

import datetime
import decimal
import json
from typing import Any

from s2l_ray.data.units import OutOfRange, UnusableRow, clip
from s2l_ray.errors import shown

MAX_DEPTH = 200
"""Levels of nesting that a row may have; Python's JSON encoder can write far more at any call depth."""


def row_to_json(row: dict[str, Any]) -> str:
    """Encode a row as JSON, with dates in ISO format and decimals as text.

    Raises:
        UnusableRow: a value cannot be represented in JSON (bytes, NaN), is not valid Unicode, or is nested too deeply.
    """
    try:
        text = encode_json(row)
        text.encode()  # a single \\ud800 in JSON is half a character
    except (TypeError, ValueError, RecursionError):
        raise UnusableRow(_why_it_cannot_travel(row)) from None
    if text.count("{") + text.count("[") > MAX_DEPTH and depth_of(row) > MAX_DEPTH:
        raise UnusableRow(_why_it_cannot_travel(row))
    return text


def _why_it_cannot_travel(row: dict[str, Any]) -> str:
    """Describe the first column that cannot be encoded, and what is wrong with it."""
    for name, value in row.items():
        why = ""
        if depth_of(value) >= MAX_DEPTH:
            why = f"is nested deeper than {MAX_DEPTH} levels"
        else:
            try:
                encode_json({name: value}).encode()
            except UnicodeEncodeError:
                why = "is not valid Unicode (half of a surrogate pair)"
            except (TypeError, ValueError) as error:
                why = f"holds {error}" if isinstance(error, TypeError) else f"holds NaN or Infinity ({error})"
        if why:
            return f"cannot be stored: column {shown(name)} {clip(why)}; correct it, or name it in corpus.drop_columns"
    return "cannot travel"


def depth_of(value: Any) -> int:
    """Return the levels of nested lists and objects, without recursion, so that it works for any depth."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list | tuple)]:
        depth += 1
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return depth


def _as_text(value: Any) -> str:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, OutOfRange):
        raise TypeError(value.reason)
    raise TypeError(f"a value of type {type(value).__name__}")


encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_as_text).encode
