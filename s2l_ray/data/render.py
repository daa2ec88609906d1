"""Conversations → token ids and response masks, in the style that the configuration asks for.

Styles of our own end every response with the tokenizer's EOS; a chat template has its own end of turn.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.data.chat_template import ChatTemplate, Turn, any_of, mark_control_tokens, mark_response, unmark
from s2l_ray.data.encode import Encoder, Tokenised
from s2l_ray.data.turns import TrainedText, TurnCutter, Turns, check_plain, trained_turns
from s2l_ray.data.units import UnusableRow
from s2l_ray.errors import UserError

Style = Literal["verbatim", "plain", "turns", "alpaca", "chat_template"]

# https://github.com/tatsu-lab/stanford_alpaca#data-release, the prompt that S2L's authors train with
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
_PROBE = ({"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "It is 4."})
_PROBE_TOOLS: tuple[Any, ...] = (
    None,
    [{"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {
        "type": "object", "properties": {"a": {"type": "number", "description": "A number."}}, "required": ["a"]}}}],
)  # fmt: skip
TEMPLATE_DATE = datetime.date(2025, 1, 1)
_ANSWER = "\u2063answer\u2063"
"""Stands for a response that is yet to be generated; begins with what no generation prompt holds."""


def resolve_style(render: str, format: str, tokenizer: Any) -> Style:
    """What `proxy.render` means for a corpus of this format.

    Raises:
        UserError: chat_template asked for, and the tokenizer has none; or alpaca, and the corpus has turns.
    """
    if render == "chat_template":
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "render=chat_template, but the tokenizer has no chat template, so chats could not be rendered; "
                "choose render=plain or alpaca, or a tokenizer with a template"
            )
        return "chat_template"
    if format in ("messages", "sharegpt"):
        if render == "alpaca":
            raise UserError(
                f"render=alpaca has one instruction and one response, format={format} has turns (or a system prompt, "
                "earlier rounds or tools in columns of their own); choose render=plain, chat_template or auto"
            )
        return "turns"
    if render == "alpaca":
        return "alpaca"
    if format in ("prompt_completion", "template"):
        return "verbatim"  # the user wrote every character on purpose
    return "plain" if render == "plain" else "alpaca"


def renderer_of(model: TrainedModelConfig, format: str, tokenizer: Any) -> Renderer:
    """The Renderer that the configuration asks for, for rows of this format.

    Raises:
        UserError: style, tokenizer and format do not go together.
    """
    return Renderer(tokenizer, resolve_style(model.render, format, tokenizer), model.max_length, **options_of(model))


def options_of(model: TrainedModelConfig) -> dict[str, Any]:
    """The Renderer's options, as configured."""
    return {
        "turns": model.turns,
        "date": model.template_date,
        "arguments": model.template_arguments,
        "end_of_turn": model.end_of_turn,
    }


def training_text(messages: Sequence[Turn], style: Style) -> str:
    """A conversation in a style of our own, without end tokens: what a new tokenizer is trained on."""
    return _in_style(messages, style, any_of([]), "", set()).text


class Renderer:
    """Renders and tokenises conversations; build one per process.

    Args:
        tokenizer: a `transformers` tokenizer with an EOS token.
        max_length: longer sequences are cut on the right (tokens).
        turns: whether all of the assistant's turns are response, or the last.
        date, arguments: what a chat template is told (see ChatTemplate).
        end_of_turn: ends responses to which a chat template gives no end token.

    Raises:
        UserError: the tokenizer cannot say where a response ends.
    """

    def __init__(
        self,
        tokenizer: Any,
        style: Style,
        max_length: int,
        turns: Turns = "all",
        date: datetime.date = TEMPLATE_DATE,
        arguments: Mapping[str, Any] | None = None,
        end_of_turn: str | None = None,
    ) -> None:
        _check_ends(tokenizer, end_of_turn)
        self.style, self.max_length, self.turns = style, max_length, turns
        self.num_cut = 0
        """Conversations so far that were cut at max_length and are used."""
        self.num_with_control_tokens = 0
        """Conversations so far in which a control token stood as text."""
        added = list(tokenizer.added_tokens_decoder.values())
        self._special = any_of([t.content for t in added if t.special])
        self._eos = tokenizer.eos_token
        prefix: Sequence[int] = ()
        self._cutter: TurnCutter | None = None
        if style == "chat_template":
            template = ChatTemplate(tokenizer, date, arguments)
            control = any_of([t.content for t in added])
            self._cutter = TurnCutter(template, control, self._special, self._eos, end_of_turn)
        else:
            prefix = _prefix(tokenizer)  # a chat template writes its own beginning
        self._encode = Encoder(tokenizer, self._special, prefix)
        if self._cutter is not None:
            _check_template(self._cutter)

    def __call__(
        self, batch: Sequence[Sequence[Turn]], tools: Sequence[Any] | None = None
    ) -> list[list[Tokenised] | UnusableRow]:
        """Each conversation's sequences, at least one. A row that cannot be used comes back as its UnusableRow."""
        texts = [self._texts(messages, tools[i] if tools else None) for i, messages in enumerate(batch)]
        encoded = iter(self._encode([text for row in texts if isinstance(row, list) for text in row]))
        out: list[list[Tokenised] | UnusableRow] = []
        for row in texts:
            if isinstance(row, UnusableRow):
                out.append(row)
                continue
            self.num_with_control_tokens += any(text.plain for text in row)
            out.append(self._fitted([tokens for _ in row for tokens in next(encoded)]))
        return out

    def prompts(
        self, batch: Sequence[Sequence[Turn]], tools: Sequence[Any] | None = None, with_thoughts: bool = False
    ) -> list[list[int] | UnusableRow]:
        """Each conversation's token ids up to where the assistant's next turn begins: what generation starts from.

        They are the ids that precede a response in training, and are never cut. A conversation that cannot be
        rendered, or comes to no token at all, comes back as its UnusableRow.

        Args:
            with_thoughts: the training responses had reasoning separate from their content, before which some chat
                templates write another prompt.
        """
        answer = {"role": "assistant", "content": _ANSWER}
        if with_thoughts:
            answer["reasoning_content"] = _ANSWER
        return [self._prompt([*messages, answer], tools[i] if tools else None) for i, messages in enumerate(batch)]

    def _prompt(self, messages: Sequence[Turn], tools: Any) -> list[int] | UnusableRow:
        # With a response: templates do not write all of the generation prompt into a finished turn.
        answered = self._texts(messages, tools)
        if isinstance(answered, UnusableRow):
            return answered
        ids = self._encode.prompt(answered[-1])
        return ids or UnusableRow("the prompt is empty, so there is nothing for the model to continue")

    def prompt_text(self, messages: Sequence[Turn]) -> str | UnusableRow:
        """The same as text, for programs that tokenise it themselves; without what the tokenizer puts before texts."""
        answered = self._texts([*messages, {"role": "assistant", "content": _ANSWER}], None)
        return answered if isinstance(answered, UnusableRow) else answered[-1].text[: answered[-1].responses[-1][0]]

    def end_ids(self) -> list[int]:
        """Tokens that end a response: the one with which responses of this style end, and the tokenizer's EOS."""
        # Templates for tool use alone fail where there are no tools.
        rows = [self._texts(_PROBE, tools) for tools in (_PROBE_TOOLS if self._cutter is not None else (None,))]
        answered = next((row for row in rows if isinstance(row, list)), None)
        if answered is None:
            raise UserError(f"no response can be rendered, so it is unknown where one ends: {rows[0]}")
        [[tokens]] = self._encode(answered[-1:])
        last = max(i for i, is_response in enumerate(tokens.response_mask) if is_response)
        return sorted({tokens.input_ids[last], int(self._encode.eos_token_id)})

    def texts(self, messages: Sequence[Turn], tools: Any = None) -> list[TrainedText]:
        """What is trained on, as text. Raises UnusableRow."""
        if self._cutter is not None:
            return self._cutter(messages, tools, self.turns)
        check_plain(messages, tools)
        trained = set(trained_turns(messages, self.turns))
        return [_in_style(messages, self.style, self._special, self._eos, trained)]

    def ids(self, messages: Sequence[Turn], tools: Any = None) -> list[int] | UnusableRow:
        """Token ids of all that is trained on, whatever its length; counts nothing."""
        texts = self._texts(messages, tools)
        if isinstance(texts, UnusableRow):
            return texts
        return [i for sequences in self._encode(texts) for sequence in sequences for i in sequence.input_ids]

    def _texts(self, messages: Sequence[Turn], tools: Any) -> list[TrainedText] | UnusableRow:
        try:
            return self.texts(messages, tools)
        except UnusableRow as reason:
            return reason

    def _fitted(self, sequences: list[Tokenised]) -> list[Tokenised] | UnusableRow:
        limit = self.max_length
        cut = [Tokenised(s.input_ids[:limit], s.response_mask[:limit]) for s in sequences]
        # The first token has nothing before it that could predict it: it has no loss.
        kept = [s for s in cut if any(s.response_mask[1:])]
        self.num_cut += bool(kept) and any(len(s.input_ids) > limit for s in sequences)
        return kept or UnusableRow(
            f"no response token left within max_length={limit} tokens: the prompt fills it; raise max_length"
        )


def _in_style(
    messages: Sequence[Turn], style: Style, special: re.Pattern[str], eos: str, trained: set[int]
) -> TrainedText:
    """A conversation in a style of our own.

    Raises:
        UnusableRow: the style has one prompt and one response, and the conversation is another.
    """

    def said(i: int) -> str:
        return mark_control_tokens(messages[i]["content"], special)

    if style == "turns":
        marked = ""
        for i, turn in enumerate(messages):
            marked += f"### {turn['role'].capitalize()}:\n"
            ends = eos if turn["role"] == "assistant" else "\n\n"
            marked += mark_response(said(i) + ends) if i in trained else said(i) + ends
    else:
        roles = [turn["role"] for turn in messages]
        if roles != ["user", "assistant"]:
            raise UnusableRow(
                f"render={style} has one prompt and one response, and this chat has the turns "
                f"{', '.join(roles)[:200]}; choose render=plain for chats, or chat_template"
            )
        prompt = said(0)
        if style == "alpaca":
            prompt = _ALPACA.replace("{instruction}", prompt)
        elif style == "plain":
            prompt += "\n"
        marked = prompt + mark_response(said(1) + eos)
    rendering = unmark(marked)
    return TrainedText(rendering.text, rendering.generated, rendering.plain)


def _check_ends(tokenizer: Any, end_of_turn: str | None) -> None:
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no EOS token, so the model could not learn where a response ends; "
            "set one in the tokenizer's folder (eos_token in tokenizer_config.json)"
        )
    for name, token in (("EOS token", tokenizer.eos_token), ("end_of_turn", end_of_turn)):
        ids = [] if token is None else tokenizer(token, add_special_tokens=False)["input_ids"]
        if token is not None and ids[-1:] != [tokenizer.convert_tokens_to_ids(token)]:
            raise UserError(
                f"the tokenizer reads {name} {token!r} as ordinary text (ids {ids[:8]}), so no response could end with "
                "it; name a token of the tokenizer, or add it to the tokenizer's added tokens"
            )


def _check_template(cutter: TurnCutter) -> None:
    """A template that cannot write a question and its answer is refused before any row is read.

    Templates for tool use alone (Hermes 2 Pro's `tool_use`) fail where there are no tools.
    """
    reasons = []
    for tools in _PROBE_TOOLS:
        try:
            cutter(_PROBE, tools)
            return
        except UnusableRow as reason:
            reasons.append(reason)
    raise UserError(f"render=chat_template cannot be used with this tokenizer: {reasons[0]}")


def largest_probe_id(tokenizer: Any, style: Style, max_length: int, **options: Any) -> int:
    """The largest token id of a short question and its answer: of what every example holds.

    Args:
        options: of the Renderer.

    Raises:
        UserError: they cannot be rendered, or do not fit into `max_length`.
    """
    render = Renderer(tokenizer, style, max_length, **options)
    tools = _PROBE_TOOLS if style == "chat_template" else (None,)
    rows = render([_PROBE] * len(tools), tools)
    ids = [i for row in rows if not isinstance(row, UnusableRow) for sequence in row for i in sequence.input_ids]
    if not ids and style == "chat_template":
        raise UserError(f"even a short question and its answer cannot be rendered: {rows[0]}")
    return max(ids, default=0)


def _prefix(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text (BOS)."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    with_special = tokenizer("a")["input_ids"]
    at = next((i for i in range(len(with_special)) if with_special[i : i + len(plain)] == plain), 0)
    return list(with_special[:at])
