"""Texts of the turns of a chat, and the check that a template's rendering contains all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from s2l_ray.data.units import UnusableRow, clip

Turn = Mapping[str, Any]

_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_CURES = {
    "text": "",
    "reasoning": "; use a tokenizer whose template writes reasoning, or train without it: "
    f"corpus.ignore_columns=[{','.join(_REASONING_KEYS)}]",
    "reasoning in the text": "; use a tokenizer whose template keeps it",
    "tool call": ": it has no place for tool calls here; use a tokenizer whose template has one",
}
"""Kinds of text in a turn, and the remedy if a template leaves one out."""


def thoughts_of(turn: Turn) -> str | None:
    """Return the turn's reasoning, if it is separate from its content."""
    return next((turn[key] for key in _REASONING_KEYS if turn.get(key)), None)


def with_thoughts_under_every_name(turn: dict[str, Any]) -> dict[str, Any]:
    """Return the turn with its reasoning under all names that templates use."""
    thoughts = next((turn[key] for key in _REASONING_KEYS if key in turn), None)
    return turn if thoughts is None else {"thinking": thoughts, **turn, "reasoning_content": thoughts}


def _said(turn: Turn) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) for the texts of a turn, in the order in which templates write them; kinds as in _CURES."""
    yield "reasoning", thoughts_of(turn) or ""
    content = turn.get("content") or ""
    # Templates separate reasoning inside the content from the answer.
    before, closing, after = content.rpartition("</think>")
    if closing:
        yield "reasoning in the text", before.rpartition("<think>")[2]
    yield "text", after
    for call in turn.get("tool_calls") or []:
        yield "tool call", str(call.get("function", call).get("name") or "")


def payload(turn: Turn) -> list[str]:
    """Return the stripped texts of a turn, in the order in which templates write them."""
    return [text.strip() for _, text in _said(turn) if text.strip()]


def forms_of(text: str) -> Iterator[str]:
    """Yield `text` as it is, and as JSON would write it."""
    yield text
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield json.dumps(text)[1:-1]


def end_of_last(turns: Sequence[Turn], rendering: str) -> int:
    """Return where the last text of the turns ends in their rendering; 0 if it is not found."""
    for turn in reversed(turns):
        for text in reversed(payload(turn)):
            return max((at + len(form) for form in forms_of(text) if (at := rendering.rfind(form)) >= 0), default=0)
    return 0


def check_nothing_left_out(messages: Sequence[Turn], i: int, tools: Any, context: str, response: str) -> None:
    """Raise UnusableRow if the template drops a text, because the model would never learn it.

    Args:
        i: index of the turn that is the response.
        context, response: the template's rendering of the turns before the response, and of the response.
    """
    for k, turn in enumerate(messages[: i + 1]):
        said = [(kind, text.strip()) for kind, text in _said(turn) if text.strip()]
        if turn["role"] == "assistant" and k < i:
            said = said[-1:]  # reasoning of earlier turns may be dropped, as it is at inference
        for kind, text in said:
            if not any(form in (response if k == i else context) for form in forms_of(text)):
                name = f" {clip(text, 60)!r}" if kind == "tool call" else ""
                raise UnusableRow(left_out(f"{kind}{name}", k, turn) + _CURES[kind])
    for tool in tools or []:
        name = str(tool.get("function", tool).get("name") or "")
        if name and name not in context:
            raise UnusableRow(
                f"the chat template leaves out the tool {clip(name, 60)!r}: it has no place for tools; use a "
                "tokenizer whose template has one, or train without them: corpus.ignore_columns=[tools]"
            )


def left_out(what: str, k: int, turn: Turn) -> str:
    """Return the reason for a row from which a template leaves something out."""
    return f"the chat template leaves out the {what} of turn {k + 1} ({turn['role']}), so the model would never see it"
