"""An example as a conversation: its turns, and the tools that the assistant may call.

In Parquet, `messages` holds each turn's role and content. What only some chats have (tool calls, reasoning, weights,
tools) is stored as JSON text in the column `chat`, which a part of the corpus has only if one of its rows needs it, so
that corpora of plain text cost nothing extra.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from s2l_ray.data.example_id import Messages, content_id
from s2l_ray.data.units import UnusableRow

CHAT_COLUMN = "chat"


@dataclass(frozen=True)
class Conversation:
    """Turns of a conversation, in order.

    Every turn has `role` (system, developer, user, assistant or tool) and `content` (text, "" if there is none). It
    has `reasoning_content`, `tool_calls`, `name` and `tool_call_id` if the row gives them, and `weight: 0` if it is not
    to be trained on.
    """

    turns: Messages
    tools: list[Any] | None = None
    """Functions in JSON schema, in OpenAI's format."""
    is_chat: bool = False
    """Whether the row was given as turns or is more than a prompt and its response, so that styles for pairs do not
    fit."""

    @property
    def id(self) -> bytes:
        return content_id(self.turns, self.tools)

    def packed(self) -> tuple[Messages, str | None]:
        """Return (role and content of every turn, the rest as JSON text or None)."""
        if self.tools is None and all(len(turn) == 2 for turn in self.turns):
            return self.turns, None
        rest: dict[str, Any] = {}
        more = {
            str(i): {key: value for key, value in turn.items() if key not in ("role", "content")}
            for i, turn in enumerate(self.turns)
            if len(turn) > 2
        }
        if more:
            rest["turns"] = more
        if self.tools is not None:
            rest["tools"] = self.tools
        plain = [{"role": turn["role"], "content": turn["content"]} for turn in self.turns]
        return plain, json.dumps(rest, ensure_ascii=False)


def unpack(messages: Sequence[dict[str, Any]], chat: str | None) -> Conversation:
    """Rebuild a conversation from what `packed` returns."""
    if chat is None:
        return Conversation(list(messages))
    rest = json.loads(chat)
    more = rest.get("turns", {})
    turns = [{**turn, **more[str(i)]} if str(i) in more else turn for i, turn in enumerate(messages)]
    return Conversation(turns, rest.get("tools"))


def unpack_table(table: pa.Table) -> tuple[list[Messages], list[list[Any] | None] | None]:
    """Return (turns, tools) of all rows of a part that was read with `messages` and, if it has that column, `chat`."""
    messages = table["messages"].to_pylist()
    if CHAT_COLUMN not in table.column_names:
        return messages, None
    unpacked = [unpack(m, c) for m, c in zip(messages, table[CHAT_COLUMN].to_pylist(), strict=True)]
    return [c.turns for c in unpacked], [c.tools for c in unpacked]


def check_responses(turns: Messages) -> None:
    """Raise UnusableRow if no turn can be trained on."""
    for turn in reversed(turns):
        if turn["role"] == "assistant" and turn.get("weight") != 0 and turn["content"].strip():
            return
    theirs = [turn for turn in turns if turn["role"] == "assistant"]
    if not theirs:
        raise UnusableRow("no assistant turn, so there is no response to train on")
    said = [turn for turn in theirs if any(turn.get(key) for key in ("tool_calls", "reasoning_content"))]
    said += [turn for turn in theirs if turn["content"].strip()]
    if not said:
        raise UnusableRow("empty response" if len(theirs) == 1 else "empty response: every assistant turn is empty")
    if all(turn.get("weight") == 0 for turn in said):
        raise UnusableRow("every assistant turn is excluded from training by its weight or train key")
