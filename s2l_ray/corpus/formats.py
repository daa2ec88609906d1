"""A row of the user's → a conversation, and the JSON that travels.

What cannot be used raises UnusableRow with the reason; nothing is repaired.
"""

from __future__ import annotations

import datetime
import decimal
import json
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from s2l_ray.config.schema import CorpusConfig
from s2l_ray.corpus.example_id import Messages
from s2l_ray.corpus.units import OutOfRange, clip, clip_names
from s2l_ray.errors import DataError, UserError, shown

MAX_DEPTH = 200
"""Levels of nesting that a row may have: far below what Python's own JSON can write from wherever it is called."""


class UnusableRow(DataError):
    """The row goes to the quarantine table with this reason."""


class UnknownFormat(UserError):
    """No format fits the columns; the run cannot start."""


_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_CHAT_ROLES = {"system", "developer", "user", "assistant", "tool"}


def detect_format(columns: Iterable[str]) -> str:
    """The first format whose columns are all there.

    Raises:
        UnknownFormat: none fits.
    """
    names = set(columns)
    if "messages" in names:
        return "messages"
    if "conversations" in names:
        return "sharegpt"
    if {"instruction", "output"} <= names:
        return "instruction"
    if {"prompt", "completion"} <= names:
        return "prompt_completion"
    raise UnknownFormat(
        f"the columns {clip_names(sorted(names))} fit no known format (messages; conversations; instruction, output; "
        "prompt, completion), so prompt and response are unknown. Say which columns they are, for example "
        "corpus.template.prompt='{question}' corpus.template.response='{answer}'"
    )


def resolve_format(config: CorpusConfig, columns: Iterable[str]) -> str:
    """The configured format, or the one that the columns tell."""
    if config.template is not None:
        return "template"
    return detect_format(columns) if config.format == "auto" else config.format


def format_of_rows(config: CorpusConfig, rows: list[dict[str, Any]]) -> str:
    """The configured format, or the one that the columns of most rows tell: one odd row must not decide for all."""
    counts = Counter(name for row in rows for name in row)
    try:
        return resolve_format(config, [name for name, count in counts.items() if count * 2 >= len(rows)])
    except UnknownFormat:
        return resolve_format(config, counts)


def to_messages(row: Mapping[str, Any], format: str, config: CorpusConfig) -> Messages:
    """One conversation with at least one non-empty assistant turn.

    Raises:
        UnusableRow: a column is missing, a text is not text, a role is unknown, or there is no response.
    """
    if format == "messages":
        messages = _chat(row, "messages", "role", "content", {r: r for r in _CHAT_ROLES})
    elif format == "sharegpt":
        messages = _chat(row, "conversations", "from", "value", _SHAREGPT_ROLES)
    else:
        prompt, response = _prompt_and_response(row, format, config)
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    if not any(m["role"] == "assistant" and m["content"].strip() for m in messages):
        raise UnusableRow("empty response")
    for m in messages:
        try:
            m["content"].encode()
        except UnicodeEncodeError:
            raise UnusableRow("the text is not valid Unicode (half of a surrogate pair)") from None
    return messages


def _prompt_and_response(row: Mapping[str, Any], format: str, config: CorpusConfig) -> tuple[str, str]:
    if format == "instruction":
        prompt = _text(row, "instruction")
        if row.get("input") not in (None, ""):
            prompt = f"{prompt}\n\n{_text(row, 'input')}"
        return prompt, _text(row, "output")
    if format == "prompt_completion":
        return _text(row, "prompt"), _text(row, "completion")
    assert config.template is not None
    return _fill(config.template.prompt, row), _fill(config.template.response, row)


def _text(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise UnusableRow(f"missing column {shown(column)}")
    value = row[column]
    if value is None:
        raise UnusableRow(f"column {column!r} is null")
    if not isinstance(value, str):
        raise UnusableRow(f"column {column!r} holds {_kind_of(value)}, not text")
    return value


def _kind_of(value: Any) -> str:
    return value.reason if isinstance(value, OutOfRange) else type(value).__name__


def template_columns(template: str) -> list[str]:
    """Columns that a template names."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def _fill(template: str, row: Mapping[str, Any]) -> str:
    values: dict[str, Any] = {}
    for name in template_columns(template):
        if name not in row:
            raise UnusableRow(f"missing column {name!r}")
        if row[name] is None:
            raise UnusableRow(f"column {name!r} is null")
        if not isinstance(row[name], str | int | float | decimal.Decimal | datetime.date | datetime.time):
            raise UnusableRow(f"column {name!r} holds {_kind_of(row[name])}, not text or a number")
        values[name] = row[name]
    # Not str.format_map on the row itself: `{a.b}` or `{a[0]}` must not reach into objects.
    return "".join(
        literal + ("" if name is None else str(values[name]))
        for literal, name, _, _ in string.Formatter().parse(template)
    )


def _chat(row: Mapping[str, Any], column: str, role_key: str, text_key: str, roles: Mapping[str, str]) -> Messages:
    if column not in row:
        raise UnusableRow(f"missing column {shown(column)}")
    turns = row[column]
    if not isinstance(turns, list) or not turns:
        raise UnusableRow(f"column {column!r} is not a non-empty list of turns")
    messages = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, Mapping) or role_key not in turn or text_key not in turn:
            raise UnusableRow(f"{column}[{i}] lacks {role_key!r} or {text_key!r}")
        said = turn[role_key]
        role = roles.get(said) if isinstance(said, str) else None
        if role is None:
            raise UnusableRow(f"{column}[{i}] has the unknown role {shown(said)}")
        messages.append({"role": role, "content": _turn_text(turn[text_key], f"{column}[{i}]")})
    return messages


def _turn_text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):  # OpenAI's list of parts; only text can be trained on here
        if all(isinstance(p, Mapping) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in content):
            return "".join(p["text"] for p in content)
        raise UnusableRow(f"{where} holds parts that are not text")
    raise UnusableRow(
        f"{where} has no text (tool calls cannot be trained on)" if content is None else f"{where} is not text"
    )


def row_to_json(row: dict[str, Any]) -> str:
    """The row as it travels. Dates and decimals travel as ISO text.

    Raises:
        UnusableRow: a value that JSON cannot hold (bytes, NaN), text that is no text, or too deep nesting.
    """
    try:
        text = _encode(row)
        text.encode()  # JSON's \\ud800 alone stands for half a character
    except (TypeError, ValueError, RecursionError):
        raise UnusableRow(_why_it_cannot_travel(row)) from None
    if text.count("{") + text.count("[") > MAX_DEPTH and depth_of(row) > MAX_DEPTH:
        raise UnusableRow(_why_it_cannot_travel(row))
    return text


def _why_it_cannot_travel(row: dict[str, Any]) -> str:
    """The first column that cannot, and what is wrong with it."""
    for name, value in row.items():
        why = ""
        if depth_of(value) >= MAX_DEPTH:
            why = f"is nested deeper than {MAX_DEPTH} levels"
        else:
            try:
                _encode({name: value}).encode()
            except UnicodeEncodeError:
                why = "is not valid Unicode (half of a surrogate pair)"
            except (TypeError, ValueError) as error:
                why = f"holds {error}" if isinstance(error, TypeError) else f"holds NaN or Infinity ({error})"
        if why:
            return f"cannot travel: column {shown(name)} {clip(why)}; mend it, or name it in corpus.drop_columns"
    return "cannot travel"


def depth_of(value: Any) -> int:
    """Levels of lists and objects within one another; does not recurse, so no depth is too deep for it."""
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


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_as_text).encode
