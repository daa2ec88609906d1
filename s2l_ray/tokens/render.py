"""A conversation → token ids and the response mask.

Prompt and response segments are tokenised apart and joined. The mask is exact then (no token straddles the border),
and the prompt's tokens are those that the model sees at inference, where the response is not there yet.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from s2l_ray.corpus.example_id import Messages
from s2l_ray.corpus.formats import UnusableRow
from s2l_ray.errors import UserError, first_line
from s2l_ray.tokens.bounded import MAX_CHARS, within_bounds

Style = Literal["verbatim", "plain", "turns", "alpaca", "chat_template"]

# https://github.com/tatsu-lab/stanford_alpaca#data-release, the prompt that S2L's authors train with
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


@dataclass(frozen=True)
class Tokenised:
    input_ids: list[int]
    """(L,) with L <= max_length."""
    response_mask: list[bool]
    """(L,) True where the token is the response's, EOS included."""


@dataclass(frozen=True)
class Segment:
    text: str
    is_response: bool
    ends_turn: bool = False
    """An EOS token follows, as part of the response."""


def resolve_style(render: str, format: str, tokenizer: Any) -> Style:
    """What `proxy.render` means for a corpus of this format.

    Raises:
        ValueError: chat_template asked for, and the tokenizer has none; or alpaca, and the corpus has turns.
    """
    if render == "chat_template":
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "render=chat_template, but the tokenizer has no chat template, so chats would have no form; "
                "choose render=plain or alpaca, or a tokenizer with a template"
            )
        return "chat_template"
    if format in ("messages", "sharegpt"):
        if render == "alpaca":
            raise UserError(
                f"render=alpaca has one instruction and one response, format={format} has turns; "
                "choose render=plain, chat_template or auto"
            )
        return "turns"
    if render == "alpaca":
        return "alpaca"
    if format in ("prompt_completion", "template"):
        return "verbatim"  # the user wrote every character on purpose
    return "plain" if render == "plain" else "alpaca"


def segments(messages: Messages, style: Style, tokenizer: Any = None) -> list[Segment]:
    """Text pieces in order; see Segment."""
    if style == "chat_template":
        return _chat_template_segments(messages, tokenizer)
    if style == "turns":
        out = []
        for m in messages:
            is_response = m["role"] == "assistant"
            out.append(Segment(f"### {m['role'].capitalize()}:\n", False))
            out.append(Segment(m["content"] if is_response else m["content"] + "\n\n", is_response, is_response))
        return out
    prompt, response = messages[0]["content"], messages[1]["content"]
    if style == "alpaca":
        prompt = _ALPACA.replace("{instruction}", prompt)
    elif style == "plain":
        prompt += "\n"
    return [Segment(prompt, False), Segment(response, True, ends_turn=True)]


def _chat_template_segments(messages: Messages, tokenizer: Any) -> list[Segment]:
    """Every assistant turn is what the template appends to the text up to its generation prompt."""
    out: list[Segment] = []
    done = ""
    for i, m in enumerate(messages):
        if m["role"] != "assistant":
            continue
        if i == 0:
            raise UnusableRow("the chat begins with the assistant's turn, for which chat templates have no prompt")
        before = _apply_template(tokenizer, messages[:i], add_generation_prompt=True)
        after = _apply_template(tokenizer, messages[: i + 1], add_generation_prompt=False)
        if not before.startswith(done) or not after.startswith(before):
            raise UnusableRow(
                "the chat template rewrites earlier turns, so the response cannot be told from the prompt"
            )
        out += [Segment(before[len(done) :], False), Segment(after[len(before) :], True)]
        done = after
    return out


def _apply_template(tokenizer: Any, messages: Messages, add_generation_prompt: bool) -> str:
    """Raises UnusableRow for whatever a template raises: it is a program."""
    render = functools.partial(
        tokenizer.apply_chat_template, messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    try:
        text: str = within_bounds(render)
    except MemoryError:
        raise
    except Exception as error:  # templates refuse roles and orders that they do not know
        does = "refuses" if isinstance(error, TemplateError) else "fails on"
        raise UnusableRow(f"the chat template {does} it: {first_line(error)}") from None
    if len(text) > MAX_CHARS:
        raise UnusableRow(f"the chat template makes {len(text):,} characters of it, more than {MAX_CHARS:,}")
    return text


class Renderer:
    """Tokenises conversations; build one per process.

    Args:
        tokenizer: a `transformers` tokenizer with an EOS token.
        max_length: longer examples are cut on the right (tokens).
    """

    def __init__(self, tokenizer: Any, style: Style, max_length: int) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "the tokenizer has no EOS token, so the model could not learn where a response ends; "
                "set one in the tokenizer's folder (eos_token in tokenizer_config.json)"
            )
        self.tokenizer, self.style, self.max_length = tokenizer, style, max_length
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        with_special = tokenizer("a")["input_ids"]
        at = next((i for i in range(len(with_special)) if with_special[i : i + len(plain)] == plain), 0)
        # A chat template writes its own beginning.
        self.prefix: list[int] = [] if style == "chat_template" else with_special[:at]
        # Some models' end of turn (Gemma's <end_of_turn>) is a special token without being one of the named ones.
        added = tokenizer.added_tokens_decoder.items()
        self._special = {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}

    def __call__(self, batch: list[Messages]) -> list[Tokenised | UnusableRow]:
        """Tokenise many at once. A row that cannot be used comes back as its UnusableRow, in its place."""
        pieces: list[list[Segment] | UnusableRow] = []
        for messages in batch:
            try:
                pieces.append(segments(messages, self.style, self.tokenizer))
            except UnusableRow as reason:
                pieces.append(reason)
        texts = [p.text for row in pieces if isinstance(row, list) for p in row]
        encoded = iter(self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
        return [row if isinstance(row, UnusableRow) else self._join(row, encoded) for row in pieces]

    def _join(self, pieces: list[Segment], encoded: Iterator[list[int]]) -> Tokenised | UnusableRow:
        ids = list(self.prefix)
        mask = [False] * len(ids)
        for piece in pieces:
            piece_ids = next(encoded)
            ids += piece_ids
            mask += self._response_tokens(piece, piece_ids)
            if piece.ends_turn:
                ids.append(self.tokenizer.eos_token_id)
                mask.append(True)
        ids, mask = ids[: self.max_length], mask[: self.max_length]
        # The first token has nothing before it that could predict it: it has no loss.
        if not any(mask[1:]):
            return UnusableRow(f"no response token left within max_length={self.max_length} tokens")
        return Tokenised(ids, mask)

    def _response_tokens(self, piece: Segment, piece_ids: list[int]) -> list[bool]:
        if not piece.is_response:
            return [False] * len(piece_ids)
        last = len(piece_ids)
        if self.style == "chat_template":
            # Templates end a turn with a special token and often a line break; the model stops at the special token.
            last = next((i + 1 for i in reversed(range(last)) if piece_ids[i] in self._special), last)
        return [i < last for i in range(len(piece_ids))]
