"""Render a tokenizer's chat template with a fixed date and marks that tell the user's text from the template's.

The environment is that of transformers (`utils/chat_template_utils.py`), so that prompts equal those of
`apply_chat_template`. There are three differences: `strftime_now` returns a fixed date, `{% generation %}` blocks are
marked in the text, and so are control tokens inside messages, which are to be tokenised as ordinary text.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols

from s2l_ray.data.bounded_templates import BoundedEnvironment, bounded_filter, within_bounds
from s2l_ray.data.said import Turn, with_thoughts_under_every_name
from s2l_ray.data.units import UnusableRow
from s2l_ray.errors import first_line

# Unicode sets these aside for a program's own use; they never occur in interchanged text
# (https://www.unicode.org/faq/private_use.html#noncharacters).
_PLAIN_START, _PLAIN_END, _RESPONSE_START, _RESPONSE_END = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
_MARKS = re.compile("[\ufdd0-\ufdd3]")

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendering:
    """A conversation as a template renders it."""

    text: str
    plain: tuple[Span, ...] = ()
    """Characters [start, end) of control tokens that occurred in a message and are ordinary text to the model."""
    generated: tuple[Span, ...] = ()
    """Characters [start, end) of the template's `{% generation %}` blocks."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        tokenizer: a `transformers` tokenizer with one chat template, or with several, one of them named `tool_use`.
        date: the date that the template sees when it asks for the time.
        arguments: further variables of the template (`{"enable_thinking": False}`).
    """

    def __init__(self, tokenizer: Any, date: datetime.date, arguments: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        self._variables = {**tokenizer.special_tokens_map, **(arguments or {})}
        self._now = datetime.datetime.combine(date, datetime.time(12))
        self._compiled: dict[str, tuple[jinja2.Template, re.Pattern[str], re.Pattern[str]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the compiled templates, which cannot be pickled; another process compiles its own."""
        return {**self.__dict__, "_compiled": {}}

    def render(self, messages: Sequence[Turn], tools: Any = None, generation_prompt: bool = False) -> Rendering:
        """Render the conversation as text.

        Raises:
            UnusableRow: the template refuses the conversation, or fails on it.
        """
        try:
            template, in_users, in_assistants = self._template(tools)
            marked = [_mark(_plain_turn(m), in_assistants if m["role"] == "assistant" else in_users) for m in messages]
            marked_tools = _mark(tools, in_users)
            text = within_bounds(
                lambda: template.render(
                    messages=marked, tools=marked_tools, documents=None, add_generation_prompt=generation_prompt,
                    **self._variables,
                )
            )  # fmt: skip
        except (UnusableRow, MemoryError):
            raise
        except Exception as error:  # a template is a program and can raise anything
            does = "refuses" if type(error) is jinja2.TemplateError else "fails on"  # raise_exception's own
            raise UnusableRow(f"the chat template {does} it: {first_line(error)}") from None
        return unmark(text)

    def control(self, tools: Any = None) -> re.Pattern[str]:
        """Return a pattern for tokens that have a meaning when the template writes them: special ones and markers."""
        return self._template(tools)[1]

    def _template(self, tools: Any) -> tuple[jinja2.Template, re.Pattern[str], re.Pattern[str]]:
        source = self._tokenizer.get_chat_template(None, tools)
        if source not in self._compiled:
            environment = _environment(self._now)
            special = [t.content for t in self._tokenizer.added_tokens_decoder.values() if t.special]
            # Markers such as Qwen's <tool_call> are not special tokens, yet they have a meaning when a template writes
            # them. They have none in the assistant's own words, which may well contain <think>.
            written = _literals(environment, source)
            added = [t.content for t in self._tokenizer.added_tokens_decoder.values() if not t.content.isspace()]
            markers = [content for content in added if content in written]
            self._compiled[source] = (environment.from_string(source), any_of([*special, *markers]), any_of(special))
        return self._compiled[source]


def _plain_turn(turn: Turn) -> dict[str, Any]:
    """Return the turn as templates expect it: without null keys, and with reasoning under every name in use."""
    return with_thoughts_under_every_name({key: value for key, value in turn.items() if value is not None})


def any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern that matches each of `tokens`, the longest first, or nothing if there are none."""
    longest_first = sorted({t for t in tokens if t}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _mark(value: Any, control: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        if _MARKS.search(value):
            raise UnusableRow("the text contains one of the noncharacters U+FDD0 to U+FDD3, which s2l_ray uses itself")
        return control.sub(f"{_PLAIN_START}\\g<0>{_PLAIN_END}", value) if control.search(value) else value
    if isinstance(value, Mapping):
        return {key: _mark(item, control) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mark(item, control) for item in value]
    return value


def mark_control_tokens(text: str, control: re.Pattern[str]) -> str:
    """Put marks for `unmark` around the tokens in `text` that `control` matches."""
    marked: str = _mark(text, control)
    return marked


def mark_response(text: str) -> str:
    """Mark `text` as a response, for `unmark`."""
    return f"{_RESPONSE_START}{text}{_RESPONSE_END}"


def unmark(text: str) -> Rendering:
    """Replace marks by spans. If a template has split a text between its marks, the unpaired mark is dropped."""
    if not _MARKS.search(text):
        return Rendering(text)
    pieces: list[str] = []
    plain: list[Span] = []
    generated: list[Span] = []
    opened: dict[str, int] = {}
    at = end = 0
    for mark in _MARKS.finditer(text):
        pieces.append(text[end : mark.start()])
        at += mark.start() - end
        end = mark.end()
        if mark.group() in (_PLAIN_START, _RESPONSE_START):
            opened[mark.group()] = at
            continue
        kind, spans = (_PLAIN_START, plain) if mark.group() == _PLAIN_END else (_RESPONSE_START, generated)
        start = opened.pop(kind, None)
        if start is not None and start < at:
            spans.append((start, at))
    return Rendering("".join([*pieces, text[end:]]), tuple(plain), tuple(generated))


class _GenerationBlocks(Extension):
    """Extension that marks the content of `{% generation %}` … `{% endgeneration %}`, the assistant's own words."""

    tags = {"generation"}  # noqa: RUF012 (an instance variable in jinja2)

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return mark_response(caller())


class _Namespace(jinja2.utils.Namespace):
    """Namespace of jinja2 without the names that give access to the interpreter."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")
        super().__setitem__(name, value)


def _environment(now: datetime.datetime) -> BoundedEnvironment:
    environment = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols])
    environment.filters["tojson"] = bounded_filter("tojson", _to_json)
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": now.strftime,
        "dict": lambda *args, **kwargs: dict(*args, **kwargs),
        "namespace": _Namespace,
    }
    return environment


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _literals(environment: jinja2.Environment, source: str) -> str:
    """Return all text that the template itself can write, in one string."""
    tree = environment.parse(source)
    texts = [node.data for node in tree.find_all(jinja2.nodes.TemplateData)]
    texts += [node.value for node in tree.find_all(jinja2.nodes.Const) if isinstance(node.value, str)]
    return "\0".join(texts)
