"""Render conversations as token ids and response masks, in the configured style.

s2l_ray's own styles end every response with the tokenizer's EOS; a chat template has its own end of turn.
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

# The prompt that the authors of S2L train with: https://github.com/tatsu-lab/stanford_alpaca#data-release
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
"""Placeholder for a response that is yet to be generated; begins with a character that no generation prompt has."""


ALPACA_CHARACTERS = len(_ALPACA.replace("{instruction}", ""))
"""Length of what the Alpaca prompt adds to an instruction (characters)."""


def resolve_style(render: str, format: str, tokenizer: Any) -> Style:
    """Resolve `proxy.render` to a style for a corpus of this format.

    Raises:
        UserError: chat_template is set but the tokenizer has none, or alpaca is set but the corpus has turns.
    """
    if render == "chat_template":
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "render=chat_template, but the tokenizer has no chat template, so chats could not be rendered; "
                "choose a model whose tokenizer has one (most instruct and chat models do), or render=plain or alpaca, "
                "which cannot write tools, tool calls and separate reasoning"
            )
        return "chat_template"
    if format in ("messages", "sharegpt"):
        if render == "alpaca":
            raise UserError(
                f"render=alpaca supports one instruction and one response, but format={format} has turns (or a system "
                "prompt, earlier rounds or tools in columns of their own); choose render=plain, chat_template or auto"
            )
        return "turns"
    if render == "alpaca":
        return "alpaca"
    if format in ("prompt_completion", "template"):
        return "verbatim"  # the user wrote every character on purpose
    return "plain" if render == "plain" else "alpaca"


def renderer_of(model: TrainedModelConfig, format: str, tokenizer: Any) -> Renderer:
    """Create the configured Renderer for rows of this format.

    Raises:
        UserError: style, tokenizer and format do not fit together.
    """
    return Renderer(tokenizer, resolve_style(model.render, format, tokenizer), model.max_length, **options_of(model))


def options_of(model: TrainedModelConfig) -> dict[str, Any]:
    """Return the configured options of a Renderer."""
    return {
        "turns": model.turns,
        "date": model.template_date,
        "arguments": model.template_arguments,
        "end_of_turn": model.end_of_turn,
    }


def training_text(messages: Sequence[Turn], style: Style) -> str:
    """Render a conversation in one of s2l_ray's own styles without end tokens, for training a new tokenizer."""
    return _in_style(messages, style, any_of([]), "", set()).text


class Renderer:
    """Renders and tokenises conversations; build one per process.

    Args:
        tokenizer: a `transformers` tokenizer with an EOS token.
        max_length: longer sequences are truncated on the right (tokens).
        turns: whether all of the assistant's turns are responses, or only the last.
        date, arguments: passed to the chat template (see ChatTemplate).
        end_of_turn: token that ends responses to which the chat template gives no end token.

    Raises:
        UserError: the tokenizer has no token that can end a response, or its chat template cannot be used.
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
        """Number of conversations so far that were truncated at max_length and are used."""
        self.num_with_control_tokens = 0
        """Number of conversations so far in which a control token occurs as text."""
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
        """Return each conversation's sequences, at least one, or an UnusableRow with the reason if it has none."""
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
        """Return each conversation's token ids up to the assistant's next turn, from which generation starts.

        These are the ids that precede a response in training, and are never truncated. For a conversation that cannot
        be rendered, or has no token at all, an UnusableRow with the reason is returned.

        Args:
            with_thoughts: whether the training responses had separate reasoning, before which some chat templates write
                a different prompt.
        """
        answer = {"role": "assistant", "content": _ANSWER}
        if with_thoughts:
            answer["reasoning_content"] = _ANSWER
        return [self._prompt([*messages, answer], tools[i] if tools else None) for i, messages in enumerate(batch)]

    def _prompt(self, messages: Sequence[Turn], tools: Any) -> list[int] | UnusableRow:
        # Render with a response, because templates do not write the whole generation prompt into a finished turn.
        answered = self._texts(messages, tools)
        if isinstance(answered, UnusableRow):
            return answered
        ids = self._encode.prompt(answered[-1])
        return ids or UnusableRow("the prompt is empty, so there is nothing for the model to continue")

    def prompt_text(self, messages: Sequence[Turn]) -> str | UnusableRow:
        """Return the prompt as text for programs that tokenise it themselves, without the tokenizer's own prefix."""
        answered = self._texts([*messages, {"role": "assistant", "content": _ANSWER}], None)
        return answered if isinstance(answered, UnusableRow) else answered[-1].text[: answered[-1].responses[-1][0]]

    def end_ids(self) -> list[int]:
        """Return the tokens that end a response: the last token of responses in this style, and the tokenizer's EOS."""
        # Templates that are only for tool use fail without tools.
        rows = [self._texts(_PROBE, tools) for tools in (_PROBE_TOOLS if self._cutter is not None else (None,))]
        answered = next((row for row in rows if isinstance(row, list)), None)
        if answered is None:
            raise UserError(f"no response can be rendered, so it is unknown where one ends: {rows[0]}")
        [[tokens]] = self._encode(answered[-1:])
        last = max(i for i, is_response in enumerate(tokens.response_mask) if is_response)
        return sorted({tokens.input_ids[last], int(self._encode.eos_token_id)})

    def texts(self, messages: Sequence[Turn], tools: Any = None) -> list[TrainedText]:
        """Return the texts that are trained on.

        Raises:
            UnusableRow: the conversation cannot be rendered.
        """
        if self._cutter is not None:
            return self._cutter(messages, tools, self.turns)
        check_plain(messages, tools)
        trained = set(trained_turns(messages, self.turns))
        return [_in_style(messages, self.style, self._special, self._eos, trained)]

    def ids(self, messages: Sequence[Turn], tools: Any = None) -> list[int] | UnusableRow:
        """Return the token ids of the texts that are trained on, whatever their length, without updating counts."""
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
        # The first token has no loss, because nothing precedes it that could predict it.
        kept = [s for s in cut if any(s.response_mask[1:])]
        self.num_cut += bool(kept) and any(len(s.input_ids) > limit for s in sequences)
        return kept or UnusableRow(
            f"no response token left within max_length={limit} tokens, because the prompt fills them; raise max_length"
        )


def _in_style(
    messages: Sequence[Turn], style: Style, special: re.Pattern[str], eos: str, trained: set[int]
) -> TrainedText:
    """Render a conversation in one of s2l_ray's own styles.

    Raises:
        UnusableRow: the style is for one prompt and one response, and the conversation has other turns.
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
                f"render={style} supports one prompt and one response, but this chat has the turns "
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
                f"the tokenizer reads the {name} {token!r} as ordinary text (ids {ids[:8]}), so no response could end "
                "with it; name a token of the tokenizer, or add it to the tokenizer's added tokens"
            )


def _check_template(cutter: TurnCutter) -> None:
    """Raise UserError if a template cannot render a question and its answer, before any row is read.

    Templates that are only for tool use (Hermes 2 Pro's `tool_use`) fail without tools, so both cases are tried.
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
    """Return the largest token id of a short question with its answer, which stand for what every example contains.

    Args:
        options: options of the Renderer.

    Raises:
        UserError: the chat template cannot render them within `max_length`.
    """
    render = Renderer(tokenizer, style, max_length, **options)
    tools = _PROBE_TOOLS if style == "chat_template" else (None,)
    rows = render([_PROBE] * len(tools), tools)
    ids = [i for row in rows if not isinstance(row, UnusableRow) for sequence in row for i in sequence.input_ids]
    if not ids and style == "chat_template":
        raise UserError(f"even a short question and its answer cannot be rendered: {rows[0]}")
    return max(ids, default=0)


def _prefix(tokenizer: Any) -> list[int]:
    """Return the ids that the tokenizer puts before every text (BOS)."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    with_special = tokenizer("a")["input_ids"]
    at = next((i for i in range(len(with_special)) if with_special[i : i + len(plain)] == plain), 0)
    return list(with_special[:at])
