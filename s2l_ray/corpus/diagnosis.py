"""What a file is, whose rows cannot be read as what its name says: for a message that names the cure."""

from __future__ import annotations

import json
import re
from typing import Any

from s2l_ray.corpus.columns import CONVERSATIONS
from s2l_ray.corpus.discovery import resolve_filesystem
from s2l_ray.corpus.readers import encoding_hint
from s2l_ray.corpus.units import ReadUnit
from s2l_ray.errors import shown

_HEAD_BYTES = 4 * 2**20


def diagnose(unit: ReadUnit) -> str:
    """What the file's beginning shows, and the cure; "" if nothing is recognised."""
    if unit.kind not in ("json", "jsonl"):
        return ""
    filesystem, path = resolve_filesystem(unit.uri)
    with filesystem.open_input_stream(path, compression=unit.compression) as stream:
        head = stream.read(_HEAD_BYTES)
    if hint := encoding_hint(head):
        return hint.removeprefix("; ")
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if text.startswith("[") and unit.kind == "jsonl":
        return "it holds a JSON array, not one object a line; give it the ending .json"
    if re.match(r"\{\s*'", text):
        return "it is Python's notation (single quotes), not JSON; write its rows with json.dumps"
    if not text.startswith("{"):
        return ""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return ""
    return _about_first_object(value, text[:end], text[end:].lstrip(" \t\r"))


def _about_first_object(value: dict[str, Any], text: str, rest: str) -> str:
    if not rest.strip():
        for name, rows in value.items():
            if name not in CONVERSATIONS and isinstance(rows, list) and rows and all(isinstance(r, dict) for r in rows):
                return (
                    f"it holds one object, and the rows lie under its key {shown(name)}; write them one a line: "
                    f"jq -c '.[{json.dumps(name)}][]' FILE > rows.jsonl"
                )
        if value and all(isinstance(column, list) and len(column) > 1 for column in value.values()):
            return (
                "it holds one object with a list for every column; write one object a row: "
                "pandas.DataFrame(json.load(file)).to_json('rows.jsonl', orient='records', lines=True)"
            )
    if "\n" in text:
        return "its objects stretch over several lines; write each on a line of its own: jq -c . FILE > rows.jsonl"
    if rest and not rest.startswith("\n"):
        return "it has several objects on a line; write each on a line of its own: jq -c . FILE > rows.jsonl"
    return ""
