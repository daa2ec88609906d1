"""Convert conversations to the texts that are trained on, each with the spans of its responses.

A model must be trained on exactly what it will be asked to produce. At inference, an assistant's turn follows the
template's rendering of the earlier turns, including the generation prompt. Therefore every turn is rendered as the last
one and compared with the rendering of the turns before it:

- The response begins where the generation prompt ends. If the template does not write the whole generation prompt into
  a finished turn (DeepSeek-R1's `<think>`), the response begins where the two renderings diverge.
- The response ends with the template's end of turn, without what the template writes only at the very end of a
  conversation (Phi-3's `<|endoftext|>`) and without line breaks.
- If the template renders earlier turns differently once they have been answered (Mistral's system prompt), the response
  follows the prompt that the model would receive.
- Turns share one text if the template renders a turn the same way when others follow. If not (the Qwen3 family keeps
  reasoning only in the last turn, gpt-oss ends only the last turn with `<|return|>`), each turn has a text of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from s2l_ray.data.chat_template import ChatTemplate, Rendering, Span, Turn
from s2l_ray.data.said import check_nothing_left_out, end_of_last, forms_of, left_out, payload, thoughts_of
from s2l_ray.data.units import UnusableRow

Turns = Literal["all", "last"]

_PROBE = "\u2063next\u2063"
"""Text of a following user turn, which shows how a turn is rendered when others follow; occurs in no corpus."""


@dataclass(frozen=True)
class TrainedText:
    """One text that is trained on."""

    text: str
    responses: tuple[Span, ...]
    """Characters [start, end) of the responses, end tokens included; ascending."""
    plain: tuple[Span, ...] = ()
    """Characters [start, end) of control tokens that the user wrote: ordinary text."""


def is_trained(turn: Turn) -> bool:
    """Whether the turn is a non-empty assistant turn that is not marked as context only."""
    if turn["role"] != "assistant" or turn.get("weight") == 0 or turn.get("train") is False:
        return False
    return bool(payload(turn))


def trained_turns(messages: Sequence[Turn], turns: Turns) -> list[int]:
    """Return the indices of the turns that are trained on.

    Raises:
        UnusableRow: no turn is; the message says why.
    """
    mine = [i for i, turn in enumerate(messages) if is_trained(turn)]
    if not mine:
        theirs = [turn for turn in messages if turn["role"] == "assistant"]
        if not theirs:
            raise UnusableRow("no assistant turn, so there is no response to train on")
        if any(payload(turn) for turn in theirs):
            raise UnusableRow("every assistant turn is excluded from training by its weight or train key")
        raise UnusableRow("empty response: every assistant turn is empty")
    return mine if turns == "all" else mine[-1:]


_ONLY_TEMPLATES = (
    "which only a chat template can write; set render=chat_template, with a model whose tokenizer has a template for it"
)


def check_plain(messages: Sequence[Turn], tools: Any) -> None:
    """Raise UnusableRow for content that only chat templates can render."""
    for i, turn in enumerate(messages):
        what = "tool calls" if turn.get("tool_calls") else "separate reasoning" if thoughts_of(turn) else ""
        if what:
            raise UnusableRow(f"turn {i + 1} has {what}, {_ONLY_TEMPLATES}")
    if tools:
        raise UnusableRow(f"the chat has tools, {_ONLY_TEMPLATES}")


class TurnCutter:
    """Renders conversations with a chat template as texts with response spans.

    Args:
        template: the tokenizer's template.
        control: matches every added token of the tokenizer, special or not.
        special: matches the special tokens, one of which ends a turn.
        eos: the tokenizer's EOS token.
        end_of_turn: token that ends responses to which the template gives no end token; None: these are refused.
    """

    def __init__(
        self,
        template: ChatTemplate,
        control: re.Pattern[str],
        special: re.Pattern[str],
        eos: str,
        end_of_turn: str | None = None,
    ) -> None:
        self._template, self._control, self._special, self._eos = template, control, special, eos
        self._end_of_turn = end_of_turn
        self._ends: dict[str, int | None] = {}

    def __call__(self, messages: Sequence[Turn], tools: Any = None, turns: Turns = "all") -> list[TrainedText]:
        """Return the texts of one conversation, in order.

        Raises:
            UnusableRow: the template refuses the conversation, leaves out a text, or gives a response no end token.
        """
        out: list[TrainedText] = []
        for i in trained_turns(messages, turns):
            if i == 0:
                raise UnusableRow("the chat begins with the assistant's turn, for which chat templates have no prompt")
            turn = self._turn(messages, i, tools)
            shared = out[-1].text[: out[-1].responses[-1][1]] if out else None
            if shared is not None and turn.text.startswith(shared):
                out[-1] = TrainedText(turn.text, out[-1].responses + turn.responses, turn.plain)
            else:
                out.append(turn)
        return out

    def _turn(self, messages: Sequence[Turn], i: int, tools: Any) -> TrainedText:
        """Return the text with turn `i` as the last one."""
        messages, whole = self._whole(messages, i, tools)
        prompt = self._template.render(messages[:i], tools, generation_prompt=True)
        start, is_asked_so = self._start(messages, i, tools, prompt, whole)
        context = whole.text[:start] if is_asked_so else prompt.text
        check_nothing_left_out(messages, i, tools, context, whole.text[start:])
        said = payload(messages[i])[-1]
        places = self._places(whole, said, start, tools)
        if not places:
            raise UnusableRow(left_out("text", i, messages[i]))
        payload_end = places[-1] + len(said)
        own = [(a, b) for a, b in whole.generated if b > start]
        begin = max(start, own[0][0]) if own else start
        end = self._end(messages, i, tools, whole.text, payload_end)
        text, end_of_turn = whole.text, ""
        if end is None:
            if self._end_of_turn is None:
                raise UnusableRow(
                    "the chat template ends the response without an end token, so the model could not learn to stop; "
                    "name the token that ends a turn of this model (end_of_turn), or choose render=plain"
                )
            end_of_turn, end = self._end_of_turn, len(text) + len(self._end_of_turn)
        if is_asked_so:
            return TrainedText(text + end_of_turn, ((begin, end),), whole.plain)
        by = len(prompt.text) - start
        plain = (*prompt.plain, *((a + by, b + by) for a, b in whole.plain if a >= start))
        return TrainedText(prompt.text + text[start:] + end_of_turn, ((begin + by, end + by),), plain)

    def _whole(self, messages: Sequence[Turn], i: int, tools: Any) -> tuple[Sequence[Turn], Rendering]:
        """Render up to turn `i`, with tool-call arguments as objects or, for a few templates (DeepSeek's), text."""
        parsed = [_with_arguments(turn, as_text=False) for turn in messages]
        try:
            return parsed, self._template.render(parsed[: i + 1], tools)
        except UnusableRow:
            if not any(turn.get("tool_calls") for turn in messages[: i + 1]):
                raise
            as_text = [_with_arguments(turn, as_text=True) for turn in messages]
            return as_text, self._template.render(as_text[: i + 1], tools)

    def _start(
        self, messages: Sequence[Turn], i: int, tools: Any, prompt: Rendering, whole: Rendering
    ) -> tuple[int, bool]:
        """Return (where the response begins in `whole`, whether the text before it is the prompt at inference)."""
        if whole.text.startswith(prompt.text):
            return len(prompt.text), True
        parting = _common_prefix(prompt.text, whole.text)
        history = self._template.render(messages[:i], tools).text
        floor = _common_prefix(history, prompt.text)
        if floor == len(prompt.text):  # the template always writes the generation prompt, or never
            floor = end_of_last(messages[:i], prompt.text)
        if parting < floor:
            start = _where_asked(prompt, whole, self._template.control(tools))
            if start is None or not end_of_last(messages[:i], whole.text[:start]):
                raise UnusableRow(
                    f"the chat template writes the turns before turn {i + 1} differently once it is answered, so the "
                    "response cannot be told from its prompt"
                )
            return start, False
        # A response may begin like the generation prompt.
        said = [at for text in payload(messages[i]) for at in self._places(whole, text, floor, tools)[:1]]
        parting = min([parting, *said])
        # "<think>" and "</think>" part after "<", within a token.
        for rendered in (whole.text, prompt.text):
            for token in self._control.finditer(rendered, max(0, parting - 200), parting + 200):
                if token.start() < parting < token.end():
                    return token.start(), True
        return parting, True

    def _end(self, messages: Sequence[Turn], i: int, tools: Any, whole: str, payload_end: int) -> int | None:
        """Return where the turn's end token ends; None: it has none."""
        tail = whole[payload_end:]
        if tail not in self._ends:
            ends = list(self._special.finditer(tail))
            if len(ends) > 1:
                # Which of them are also there when the conversation continues?
                lasting = self._lasting(messages, i, tools, whole, payload_end)
                ends = [end for end in ends if end.end() <= lasting][::-1] or ends
                # The model stops at the first EOS.
                ends = sorted((end for end in ends if end.group() == self._eos), key=re.Match.start) or ends
            self._ends[tail] = ends[0].end() if ends else None
        end = self._ends[tail]
        return None if end is None else payload_end + end

    def _lasting(self, messages: Sequence[Turn], i: int, tools: Any, whole: str, payload_end: int) -> int:
        """Return how much of `whole` stays the same when a user turn follows (characters after the payload)."""
        try:
            longer = self._template.render([*messages[: i + 1], {"role": "user", "content": _PROBE}], tools).text
        except UnusableRow:
            return len(whole) - payload_end
        return _common_prefix(whole, longer) - payload_end

    def _places(self, whole: Rendering, text: str, start: int, tools: Any) -> list[int]:
        """Return where `text` occurs, as it is or as JSON writes it, except within control tokens."""
        control = self._template.control(tools)
        tokens = [t.span() for t in control.finditer(whole.text, start) if t.span() not in whole.plain]
        for form in dict.fromkeys(forms_of(text)):
            found = (at.start() for at in re.finditer(re.escape(form), whole.text[start:]))
            places = [at + start for at in found]
            inside = [any(a <= at and at + len(form) <= b for a, b in tokens) for at in places]
            if not all(inside):
                return [at for at, hidden in zip(places, inside, strict=True) if not hidden]
        return []


def _where_asked(prompt: Rendering, whole: Rendering, control: re.Pattern[str]) -> int | None:
    """Return where the response begins in `whole`, whose earlier turns are rendered differently than in the prompt.

    Mistral's templates write the system prompt only before the last question; Hermes' end a tool result differently
    when an answer follows. The end of the prompt stays the same: its last control token and the text after that.
    """
    tokens = [t for t in control.finditer(prompt.text) if t.span() not in prompt.plain]
    if not tokens:
        return None
    ending = prompt.text[tokens[-1].start() :]
    plain = {a for a, _ in whole.plain}
    found = [at for at in re.finditer(re.escape(ending), whole.text) if at.start() not in plain]
    # Prefer the occurrence with the longest common text before it; among equals, the last.
    reversed_prompt = prompt.text[::-1]
    ends = [at.end() for at in found]
    return max(ends, key=lambda end: (_common_prefix(whole.text[:end][::-1], reversed_prompt), end), default=None)


def _with_arguments(turn: Turn, as_text: bool) -> Turn:
    if not turn.get("tool_calls"):
        return turn
    calls = []
    for call in turn["tool_calls"]:
        function = dict(call.get("function", call))
        arguments = function.get("arguments")
        if as_text and not isinstance(arguments, str):
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
        elif not as_text and isinstance(arguments, str):
            try:
                function["arguments"] = json.loads(arguments)
            except ValueError:
                raise UnusableRow(f"the arguments of the tool call {function.get('name')!r} are not JSON") from None
        calls.append({**call, "function": function} if "function" in call else function)
    return {**turn, "tool_calls": calls}


def _common_prefix(a: str, b: str) -> int:
    low, high = 0, min(len(a), len(b))
    while low < high:  # bisection, because slices are compared in C
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
