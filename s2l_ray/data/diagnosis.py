"""Diagnose files whose rows cannot be read as their names suggest, so that the message can name the remedy."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

import pyarrow as pa

from s2l_ray.data.columns import CONVERSATIONS
from s2l_ray.data.discovery import resolve_filesystem
from s2l_ray.data.formats import tells_format
from s2l_ray.data.readers import encoding_hint
from s2l_ray.data.units import ReadUnit
from s2l_ray.errors import shown

_HEAD_BYTES = 4 * 2**20
_PACKED = {
    b"\x1f\x8b": ("gzip", ".gz"),
    b"\x28\xb5\x2f\xfd": ("zstd", ".zst"),
    b"BZh": ("bz2", ".bz2"),
}
_SIGNATURES = {
    b"PK\x03\x04": "it is a ZIP archive; unpack it",
    b"\xfd7zXZ": "it is packed with xz; unpack it with xz -d, or pack it with gzip or zstd",
    b"version https://git-lfs": "it is a pointer of Git LFS, not the data; get the data with git lfs pull",
}
_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)
_ONE_A_LINE = "write each on a line of its own: jq -c . FILE > rows.jsonl"
_ARRAY = "it holds a JSON array, not one object per line; give it the ending .json"
_RECORDS = "write one object per row: pandas.read_json(file).to_json('rows.jsonl', orient='records', lines=True)"
_TURN_KEYS = frozenset(("role", "from", "is_human", "speaker"))
_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars"}


def diagnose(unit: ReadUnit) -> str:
    """Return what the beginning of the file shows, with the remedy; "" if nothing is recognised."""
    try:
        filesystem, path = resolve_filesystem(unit.uri)
        with filesystem.open_input_stream(path, compression=None) as stream:
            if hint := _about_bytes(stream.read(1024), unit, unit.compression):
                return hint
        if unit.kind in ("parquet", "arrow"):
            return ""
        with filesystem.open_input_stream(path, compression=unit.compression) as stream:
            head = stream.read(_HEAD_BYTES)
    except (OSError, pa.ArrowException):  # damaged further on, which the reader has reported
        return ""
    return _about_bytes(head, unit, None) or _about_text(head, unit.kind)


def _about_bytes(head: bytes, unit: ReadUnit, packed: str | None) -> str:
    """Diagnose raw bytes; `packed` is the compression that the file's name announces."""
    for signature, said in _SIGNATURES.items():
        if head.startswith(signature):
            return said
    if _PAGE.match(head.removeprefix(codecs.BOM_UTF8)):
        return "it is a web page or a server's answer, not data; download it again, and check what you receive"
    for signature, (name, ending) in _PACKED.items():
        if head.startswith(signature):
            return "" if packed == name else f"it is packed with {name}; give it the ending {ending}"
    if head.startswith(b"ARROW1"):
        return "" if unit.kind == "arrow" and not packed else "it is an Arrow file; give it the ending .arrow"
    if head.startswith(b"PAR1"):
        return "" if unit.kind == "parquet" and not packed else "it is a Parquet file; give it the ending .parquet"
    if packed:
        return f"it is not packed with {packed}, as its ending says; remove the ending, or download it again"
    return ""


def _about_text(head: bytes, kind: str) -> str:
    if hint := encoding_hint(head):
        return hint.removeprefix("; ")
    if b"\0" in head:
        return "it is a binary file, not text"
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head).lstrip(" \t\r\n")
    except UnicodeDecodeError:
        return "it is not UTF-8 text: convert it, for example with iconv -f ISO-8859-1 -t UTF-8"
    if kind == "csv":
        header = text.partition("\n")[0]
        separator = next((s for s in _SEPARATORS if s in header and "," not in header), "")
        return _separated_by(separator) if separator else ""
    if re.match(r"\[?\s*\{\s*'", text):
        return "it is Python's notation (single quotes), not JSON; write its rows with json.dumps"
    if kind == "jsonl" and "\r" in text.rstrip() and "\n" not in text:
        return "its lines end with carriage returns alone; convert it: tr '\\r' '\\n' < FILE > rows.jsonl"
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return _ARRAY if text.startswith("[") and kind == "jsonl" else ""
    return _about_first_value(value, text[:end], text[end:].lstrip(" \t\r"), kind)


def _separated_by(separator: str) -> str:
    return (
        f"its fields are separated by {_SEPARATORS[separator]}, not by commas; convert it: "
        f"pandas.read_csv(file, sep={separator!r}).to_csv('rows.csv', index=False)"
    )


def _about_first_value(value: Any, text: str, rest: str, kind: str) -> str:
    if isinstance(value, list):
        if rest.strip() and value and isinstance(value[0], dict):
            return "it holds several JSON arrays; write their rows one per line: jq -c '.[]' FILE > rows.jsonl"
        if rest.strip() or (value and isinstance(value[0], list)):
            return "its rows are lists, not objects, so their columns have no names; write objects"
        return _ARRAY if kind == "jsonl" else ""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return "its objects are packed into strings (JSON within JSON); unpack them: jq -c fromjson FILE > rows.jsonl"
    if not isinstance(value, dict):
        return ""
    if not rest.strip() and (hint := _about_only_object(value)):
        return hint
    if rest.lstrip().startswith(","):
        return "its objects are separated by commas; put it into brackets, [ … ], and give it the ending .json"
    if "\n" in text:
        return f"its objects stretch over several lines; {_ONE_A_LINE}"
    return f"it has several objects on a line; {_ONE_A_LINE}" if rest and not rest.startswith("\n") else ""


def _about_only_object(value: dict[str, Any]) -> str:
    """Return where the rows are in a file that contains only one object."""
    if not tells_format(value) and (place := _place_of_rows(value)):
        keys = "".join(f"[{json.dumps(name)}]" for name in place)
        where = f"key {shown(place[0])}" if len(place) == 1 else f"keys {' → '.join(map(shown, place))}"
        return (
            f"it holds one object, with the rows under its {where}; write them one per line: "
            f"jq -c '.{keys}[]' FILE > rows.jsonl"
        )
    inner = list(value.values())
    if inner and all(isinstance(column, list) and len(column) > 1 and not _are_turns(column) for column in inner):
        return f"it holds one object with a list for every column; {_RECORDS}"
    if len(inner) > 1 and all(isinstance(v, dict) and v for v in inner) and len({tuple(v) for v in inner}) == 1:
        if all(name.isdecimal() for name in inner[0]):
            return f"it holds one object with an object for every column (pandas' own form); {_RECORDS}"
        return "it holds one object whose values are the rows; write them one per line: jq -c '.[]' FILE > rows.jsonl"
    return ""


def _are_turns(values: list[Any]) -> bool:
    """Whether the values are the turns of a chat, which is part of a row, rather than rows."""
    return all(isinstance(v, dict) and not _TURN_KEYS.isdisjoint(v) for v in values)


def _place_of_rows(value: dict[str, Any], depth: int = 0) -> list[str]:
    """Return the keys that lead to the first list of objects."""
    for name, rows in value.items():
        if name in CONVERSATIONS or not isinstance(rows, list) or not rows or _are_turns(rows):
            continue
        if all(isinstance(row, dict) for row in rows):
            return [name]
    for name, inner in value.items():
        if isinstance(inner, dict) and depth < 2 and (place := _place_of_rows(inner, depth + 1)):
            return [name, *place]
    return []
