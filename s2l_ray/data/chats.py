"""Convert lists of turns, as various programs write them, into turns as chat templates expect them.

Keys may be role and content (OpenAI) or from and value (ShareGPT), roles may come from either vocabulary in any
capitalisation, and the list itself may be JSON text. Anything ambiguous raises UnusableRow with the turn and the
remedy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from s2l_ray.data.example_id import Messages
from s2l_ray.data.row_json import encode_json
from s2l_ray.data.units import OutOfRange, UnusableRow, clip
from s2l_ray.errors import shown

FUNCTION_CALL = "function_call"
ROLES = {
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "chatbot", "model", "bot", "bard", "bing", "ai"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "tool_response", "ipython"), "tool"),
    **dict.fromkeys((FUNCTION_CALL, "tool_call"), FUNCTION_CALL),
}
_TEMPLATE_ROLES = frozenset(("system", "developer", "user", "assistant", "tool"))
KNOWN_ROLES = "system, developer, user (human), assistant (gpt, model), tool (observation, function), function_call"
ROLE_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value")
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
_WEIGHTS = ("weight", "train", "training", "trainable", "loss", "loss_mask")
_NOT_READ = (
    "images", "image", "videos", "video", "audios", "audio", "refusal", "train_detail", "training_detail", "mask",
    "masked", "channel", "reasoning_details", "thinking_blocks",
)  # fmt: skip
"""Keys that change what a turn means, and are not supported."""
_CALLS = ("tool_calls", FUNCTION_CALL)
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)


def is_empty(value: Any) -> bool:
    """Whether a value is empty: null, blank text, an empty list or object, or one of these as JSON text."""
    if isinstance(value, str):
        return not value or value.strip() in ("", "[]", "{}", "null")
    return value is None or (isinstance(value, list | dict) and not value)


def parse_turns(value: Any, column: str, ignored: Collection[str] = ()) -> Messages:
    """Parse the turns of one column into the form that `Conversation` describes.

    Args:
        column: name of the column, for messages.
        ignored: keys of turns to ignore.

    Raises:
        UnusableRow: the value is not a list of turns; the reason names the turn and the remedy.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _from_json(value, f"column {column!r}")
    if isinstance(value, dict):
        value = _turns_of_lists(value)
    if not isinstance(value, list) or not value:
        raise UnusableRow(f"column {column!r} is not a non-empty list of turns")
    return [_plain_turn(turn) or _turn(turn, f"{column}[{i}]", ignored) for i, turn in enumerate(value)]


def _turns_of_lists(value: dict[str, Any]) -> Any:
    """Convert turns given as one list per key, the form of a `Sequence` in Hugging Face's datasets."""
    lists = list(value.values())
    has_turns = any(key in value for key in ROLE_KEYS) and any(key in value for key in TEXT_KEYS)
    if not has_turns or not all(isinstance(one, list) and len(one) == len(lists[0]) for one in lists):
        return value
    return [dict(zip(value, turn, strict=True)) for turn in zip(*lists, strict=True)]


def without_table_nulls(row: Mapping[str, Any], tools: Collection[str]) -> Mapping[str, Any]:
    """Remove keys that are null from the tools and tool calls of a table's row.

    In a table, all objects of a column have the same keys. If these were kept, each tool's schema would list the
    parameters of all other tools, and each call their arguments.

    Args:
        tools: names of the columns with tools.
    """
    changed: dict[str, Any] = {}
    for name, value in row.items():
        if name in tools and not isinstance(value, str):
            changed[name] = _without_nulls(value)
        elif isinstance(value, list) and any(isinstance(turn, dict) and any(map(turn.get, _CALLS)) for turn in value):
            changed[name] = [
                {key: _without_nulls(item) if key in _CALLS else item for key, item in turn.items()}
                if isinstance(turn, dict)
                else turn
                for turn in value
            ]
    return {**row, **changed} if changed else row


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _plain_turn(turn: Any) -> dict[str, Any] | None:
    """Return a turn that already has the form that templates expect, as most do; None: it needs conversion."""
    if type(turn) is not dict or len(turn) != 2:
        return None
    role, content = turn.get("role"), turn.get("content")
    if type(content) is not str or type(role) is not str or role not in _TEMPLATE_ROLES:
        return None
    try:
        content.encode()
    except UnicodeEncodeError:
        return None
    return {"role": role, "content": content}


def _turn(turn: Any, at: str, ignored: Collection[str]) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise UnusableRow(f"{at} is {kind_of(turn)}, not an object with role and content (or from and value)")
    if ignored:
        turn = {key: value for key, value in turn.items() if key not in ignored}
    role = _role(turn, at)
    unread = [key for key in _NOT_READ if not is_empty(turn.get(key))]
    if unread:
        raise UnusableRow(
            f"{at} has {unread[0]!r}, which is not supported; to ignore it, set corpus.ignore_columns=[{unread[0]}]"
        )
    thoughts = _thoughts(turn, at)
    calls = _tool_calls(turn, at)
    content = _one_of(turn, TEXT_KEYS, at)
    if content is None and not (calls or thoughts):
        lacks = "has no text" if any(key in turn for key in TEXT_KEYS) else "lacks 'content' (or 'value')"
        raise UnusableRow(f"{at} ({role}) {lacks}" + (" and no tool call" if role == "assistant" else ""))
    text, more = ("", "") if content is None else _text(content, at)
    if role == FUNCTION_CALL:
        role, text, more, calls = "assistant", "", *_calls_in_text(text, at)
    if (calls or thoughts or more) and role != "assistant":
        raise UnusableRow(f"{at} ({role}) has tool calls or reasoning, which only assistant turns may have")
    if thoughts and more and thoughts != more:
        raise UnusableRow(f"{at} has two different texts of reasoning; leave one out")
    out: dict[str, Any] = {"role": role, "content": text}
    if thoughts or more:
        out["reasoning_content"] = thoughts or more
    if calls:
        out["tool_calls"] = calls
    out |= {key: turn[key] for key in ("name", "tool_call_id") if isinstance(turn.get(key), str) and turn[key]}
    if not _is_trained(turn, role, at):
        out["weight"] = 0
    _check_unicode(out)
    return out


def _role(turn: Mapping[str, Any], at: str) -> str:
    said = _one_of(turn, ROLE_KEYS, at)
    if said is None and not any(key in turn for key in ROLE_KEYS):
        raise UnusableRow(
            f"{at} lacks 'role' or 'content' (or 'from' and 'value'); its keys: {clip(sorted(map(str, turn)), 80)}"
        )
    role = ROLES.get(said.strip().lower()) if isinstance(said, str) else None
    if role is None:
        raise UnusableRow(f"{at} has the unknown role {shown(said)}; known: {KNOWN_ROLES}")
    return role


def _one_of(turn: Mapping[str, Any], keys: tuple[str, ...], at: str) -> Any:
    """Return the value under one of the keys; in tables that mix rows with different keys, the others are null."""
    values = [turn[key] for key in keys if turn.get(key) is not None]
    if len(values) > 1 and any(value != values[0] for value in values):
        raise UnusableRow(f"{at} has both {' and '.join(keys)}, with different values; leave one out")
    return values[0] if values else None


def _text(content: Any, at: str) -> tuple[str, str]:
    """Return (text, reasoning) of a turn's content."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):  # OpenAI's list of parts, of which only text can be trained on
        raise UnusableRow(f"{at} is not text but {kind_of(content)}")
    text, thoughts = "", ""
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            text += part["text"]
        elif kind == "thinking" and isinstance(part.get("thinking"), str | list):
            thoughts += _text(part["thinking"], at)[0]
        else:
            raise UnusableRow(f"{at} contains parts that are not text ({shown(kind or part)})")
    return text, thoughts


def _thoughts(turn: Mapping[str, Any], at: str) -> str:
    value = _one_of(turn, _THOUGHTS, at)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnusableRow(f"the reasoning of {at} is {kind_of(value)}, not text")
    return value if value.strip() else ""


def _tool_calls(turn: Mapping[str, Any], at: str) -> list[Any]:
    calls = turn.get("tool_calls")
    if is_empty(calls):
        calls = turn.get(FUNCTION_CALL)  # OpenAI's older key, for a single call
        if is_empty(calls):
            return []
        calls = [calls]
    return _calls(_from_json(calls, f"tool_calls of {at}") if isinstance(calls, str) else calls, at)


def _calls(calls: Any, at: str) -> list[Any]:
    calls = plain_json([calls] if isinstance(calls, Mapping) else calls, f"tool_calls of {at}")
    if not isinstance(calls, list):
        raise UnusableRow(f"tool_calls of {at} is {kind_of(calls)}, not a list of calls")
    out = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise UnusableRow(f"{at} has a tool call without a name: {shown(call)}")
        whole = call if "function" in call else {"type": "function", "function": call}
        out.append({key: value for key, value in whole.items() if value is not None})
    return out


def _calls_in_text(text: str, at: str) -> tuple[str, list[Any]]:
    """Return (reasoning, calls) of a turn with the role function_call, whose text is a call as JSON or a list of calls.

    Reasoning may precede it, as in LLaMA-Factory: https://github.com/hiyouga/LLaMA-Factory, formatter.py.
    """
    thought = _THOUGHT.match(text)
    rest = text[thought.end() :] if thought else text
    value = _from_json(rest, f"{at} (function_call)")
    if not value:
        raise UnusableRow(f"{at} (function_call) contains no call")
    return (thought.group(1).strip() if thought else ""), _calls(value, at)


def _is_trained(turn: Mapping[str, Any], role: str, at: str) -> bool:
    given = {key: turn[key] for key in _WEIGHTS if turn.get(key) is not None}
    wrong = next((key for key, value in given.items() if value not in (0, 1)), None)  # False and True among them
    if wrong is not None:
        raise UnusableRow(
            f"{at} has {wrong}={shown(given[wrong])}, but a turn is either trained on (1, true) or not (0, false)"
        )
    if len({bool(value) for value in given.values()}) > 1:
        raise UnusableRow(f"{at} has {' and '.join(given)}, which contradict each other")
    if role != "assistant":
        if any(given.values()) and "weight" not in given:  # many give every turn the weight 1
            raise UnusableRow(f"{at} ({role}) is marked to be trained on, which only assistant turns can be")
        return True
    return all(given.values())


def parse_tools(value: Any, column: str) -> list[Any] | None:
    """Convert tools to the form that templates expect: functions in JSON schema, each in {"type": "function", …}.

    Raises:
        UnusableRow: the value is not a list of functions.
    """
    if is_empty(value):
        return None
    value = plain_json(_from_json(value, f"column {column!r}") if isinstance(value, str) else value, column)
    tools = []
    for i, tool in enumerate([value] if isinstance(value, dict) else value if isinstance(value, list) else [None]):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UnusableRow(f"column {column!r}: tool {i} is not a function with a name: {shown(value)}")
        tools.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tools


def parse_history(value: Any, column: str) -> Messages:
    """Convert Alpaca's earlier rounds, a list of [question, answer], to turns.

    Raises:
        UnusableRow: the value is not such a list.
    """
    if is_empty(value):
        return []
    value = _from_json(value, f"column {column!r}") if isinstance(value, str) else value
    turns = []
    for i, pair in enumerate(value if isinstance(value, list) else [value]):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise UnusableRow(f"{column}[{i}] is not a pair of texts [question, answer]: {shown(pair)}")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def plain_json(value: Any, what: str) -> Any:
    """Convert a value to plain JSON types.

    Raises:
        UnusableRow: JSON cannot represent the value.
    """
    try:
        return json.loads(encode_json(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise UnusableRow(f"{what} cannot be written as JSON ({clip(error, 100)})") from None


def _from_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableRow(f"{what} is not valid JSON ({clip(error, 100)})") from None


def _check_unicode(turn: dict[str, Any]) -> None:
    try:
        (turn["content"] if len(turn) == 2 else encode_json(turn)).encode()
    except UnicodeEncodeError:
        raise UnusableRow("the text is not valid Unicode (half of a surrogate pair)") from None


def kind_of(value: Any) -> str:
    """Return the name of the value's type, or why the value is out of range."""
    return value.reason if isinstance(value, OutOfRange) else type(value).__name__
