"""Convert the user's rows to conversations.

Everything that a format defines is used: system prompt, earlier rounds and tools beside prompt and response, in the
columns of Alpaca and ShareGPT as LLaMA-Factory reads them
(https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md), and lists of messages in TRL's prompt and
completion (https://huggingface.co/docs/trl/dataset_formats). Unusable values, and columns that have a meaning but are
not supported, raise UnusableRow with the reason; nothing is repaired.
"""

from __future__ import annotations

import datetime
import decimal
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from s2l_ray.config.schema import CorpusConfig
from s2l_ray.data.chats import is_empty, kind_of, parse_history, parse_tools, parse_turns
from s2l_ray.data.conversation import Conversation, check_responses
from s2l_ray.data.example_id import Messages
from s2l_ray.data.units import UnusableRow, clip_names
from s2l_ray.errors import UserError, shown

CHAT_FORMATS = ("messages", "sharegpt")
_CHAT_COLUMNS = {"messages": ("messages",), "sharegpt": ("conversations", "conversation")}
_COLUMNS: dict[str, list[set[str]]] = {
    "messages": [{"messages"}],
    "sharegpt": [{"conversations"}, {"conversation"}],
    "instruction": [{"instruction", "output"}],
    "prompt_completion": [{"prompt", "completion"}],
}
"""Format → the sets of columns that identify it, in the order of precedence."""
TOOL_COLUMNS = ("tools", "functions")
_BESIDE = frozenset(("system", "system_prompt", "history", "tools", "functions"))
"""Columns that chats and instructions may have in addition to their turns."""
_PREFERENCE = "preference data have one good and one bad answer"
_KTO = "in KTO data it says which answers are bad"
_MEDIA = "only text is read"
_PROMPT = "it belongs to the prompt"
_UNREAD = {
    **dict.fromkeys(("chosen", "rejected", "chosen_response", "rejected_response"), _PREFERENCE),
    **dict.fromkeys(("preferred_output", "non_preferred_output"), _PREFERENCE),
    **dict.fromkeys(("label", "kto_tag"), _KTO),
    **dict.fromkeys(("images", "image", "videos", "video", "audios", "audio"), _MEDIA),
    **dict.fromkeys(("system", "system_prompt", "history", "tools", "functions", "context", "documents"), _PROMPT),
    **dict.fromkeys(("reasoning_content", "thinking", "reasoning"), "reasoning belongs to the response"),
    **dict.fromkeys(
        ("chat_template_kwargs", "enable_thinking", "reasoning_effort"), "it changes how a row is rendered"
    ),
    "weight": "it says how much a row counts",
}
"""Columns that change what a row means if they have a value, and how."""


class UnknownFormat(UserError):
    """Error for columns that fit no format; the run cannot start."""


def detect_format(columns: Iterable[str]) -> str:
    """Return the first format whose columns are all present.

    Raises:
        UnknownFormat: no format fits.
    """
    names = set(columns)
    for format, needed in _COLUMNS.items():
        if any(one <= names for one in needed):
            return format
    for good, bad in (("chosen", "rejected"), ("preferred_output", "non_preferred_output")):
        if {good, bad} <= names:
            prompt = next((n for n in ("prompt", "instruction", "question", "query", "input") if n in names), None)
            turns = f"rename {good} to messages, and set corpus.ignore_columns=[{bad}]"
            cure = turns if prompt is None else (
                f"set corpus.template.prompt='{{{prompt}}}' corpus.template.response='{{{good}}}' if they are text; if "
                f"they are lists of turns, {turns}"
            )  # fmt: skip
            raise UnknownFormat(
                f"the columns {clip_names(sorted(names))} are preference data (a good and a bad answer), which cannot "
                f"be used as a corpus directly. To train on the good answers, {cure}"
            )
    text = next((name for name in ("text", "content", "document") if name in names), None)
    plain = f"; for plain texts without prompts corpus.template.prompt='\"\"' corpus.template.response='{{{text}}}'"
    raise UnknownFormat(
        f"the columns {clip_names(sorted(names))} fit no known format (messages; conversations; instruction, output; "
        "prompt, completion), so prompt and response are unknown. Say which columns they are, for example "
        "corpus.template.prompt='{question}' corpus.template.response='{answer}'" + plain * (text is not None)
    )


def resolve_format(config: CorpusConfig, columns: Iterable[str]) -> str:
    """Return the configured format, or detect it from the columns."""
    if config.template is not None:
        return "template"
    return detect_format(columns) if config.format == "auto" else config.format


def tells_format(columns: Iterable[str]) -> bool:
    """Whether one of the known formats fits the columns."""
    names = set(columns)
    return any(one <= names for needed in _COLUMNS.values() for one in needed)


def fits(config: CorpusConfig, columns: Iterable[str]) -> bool:
    """Whether the columns are those of the configured format or template."""
    names = set(columns)
    if config.template is not None:
        return used_columns(config) <= names
    return config.format == "auto" or any(one <= names for one in _COLUMNS[config.format])


def format_of_rows(config: CorpusConfig, rows: list[dict[str, Any]]) -> str:
    """Return the configured format, or detect it from the columns of most rows: one odd row must not decide.

    Empty columns do not count: a row with `messages: []`, a prompt and a completion is a prompt with its completion.
    """
    counts = Counter(name for row in rows for name in row)
    filled = Counter(name for row in rows for name, value in row.items() if value is not None and value != [])
    for told in (filled, counts):
        try:
            return resolve_format(config, [name for name, count in told.items() if count * 2 >= len(rows)])
        except UnknownFormat:
            continue
    return resolve_format(config, counts)


def rendered_as(format: str, is_chat: bool) -> str:
    """Return the format by which a corpus is rendered: a corpus of pairs that contains a chat is rendered as chats."""
    return "messages" if is_chat and format not in CHAT_FORMATS else format


def to_conversation(row: Mapping[str, Any], format: str, config: CorpusConfig) -> Conversation:
    """Convert a row to a conversation with at least one assistant turn to train on.

    Raises:
        UnusableRow: a column is missing, a text is not text, a role is unknown, there is no response, or a column that
            has a meaning is not supported.
    """
    if config.ignore_columns:
        row = {name: value for name, value in row.items() if name not in config.ignore_columns}
    if format in CHAT_FORMATS:
        conversation, used = _chat(row, format, config)
    elif format == "prompt_completion" and (
        isinstance(row.get("prompt"), list) or isinstance(row.get("completion"), list)
    ):
        conversation, used = _prompt_and_completion_of_turns(row, config)
    elif format == "instruction":
        conversation, used = _instruction(row)
    else:
        prompt, response = _prompt_and_response(row, format, config)
        conversation, used = Conversation(_pair(prompt, response)), ()
    if format != "template" and not _UNREAD.keys().isdisjoint(row):
        _refuse_unread(row, [name for name in _UNREAD.keys() & row.keys() if name not in used])
    check_responses(conversation.turns)
    return conversation


def _refuse_unread(row: Mapping[str, Any], names: list[str]) -> None:
    names = sorted(name for name in names if not is_empty(row[name]))
    if names:
        which = f"column {names[0]!r} is" if len(names) == 1 else f"columns {clip_names(names)} are"
        raise UnusableRow(
            f"{which} not read ({_UNREAD[names[0]]}); to continue without, set "
            f"corpus.ignore_columns=[{','.join(names)}]"
        )


def _chat(row: Mapping[str, Any], format: str, config: CorpusConfig) -> tuple[Conversation, tuple[str, ...]]:
    columns = _CHAT_COLUMNS[format]
    column = next((name for name in columns if name in row), columns[0])
    if column not in row:
        raise UnusableRow(f"missing column {shown(column)}")
    return _with_columns(row, parse_turns(row[column], column, config.ignore_columns))


def _prompt_and_completion_of_turns(
    row: Mapping[str, Any], config: CorpusConfig
) -> tuple[Conversation, tuple[str, ...]]:
    """Convert TRL's conversational form; only the completion is trained on, even if the prompt has assistant turns."""
    for name in ("prompt", "completion"):
        if isinstance(row.get(name), str):
            raise UnusableRow(
                f"column {name!r} is text, but the other one is a list of turns; give both in the same form"
            )
    prompt, completion = (parse_turns(row.get(n), n, config.ignore_columns) for n in ("prompt", "completion"))
    context = [turn | {"weight": 0} if turn["role"] == "assistant" else turn for turn in prompt]
    return _with_columns(row, context + completion)


def _instruction(row: Mapping[str, Any]) -> tuple[Conversation, tuple[str, ...]]:
    prompt = _text(row, "instruction")
    if row.get("input") not in (None, ""):
        prompt = f"{prompt}\n\n{_text(row, 'input')}"
    pair = _pair(prompt, _text(row, "output"))
    if _BESIDE.isdisjoint(row):
        return Conversation(pair), ()
    history = parse_history(row.get("history"), "history")
    conversation, used = _with_columns(row, history + pair)
    is_chat = len(conversation.turns) > 2 or conversation.tools is not None
    return Conversation(conversation.turns, conversation.tools, is_chat), ("history", *used)


def _with_columns(row: Mapping[str, Any], turns: Messages) -> tuple[Conversation, tuple[str, ...]]:
    """Add the system prompt and tools from their own columns to a chat; return it with the names of these columns."""
    if _BESIDE.isdisjoint(row):
        return Conversation(turns, is_chat=True), ()
    system = next((name for name in ("system", "system_prompt") if not is_empty(row.get(name))), None)
    if system is not None:
        text = _text(row, system)
        if turns[0]["role"] not in ("system", "developer"):
            turns = [{"role": "system", "content": text}, *turns]
            _check_unicode(text)
        elif turns[0]["content"] != text:
            raise UnusableRow(
                f"column {system!r} differs from the chat's own system turn, so it is unclear which counts; leave one "
                f"out, or set corpus.ignore_columns=[{system}]"
            )
    tools, functions = (parse_tools(row.get(name), name) for name in TOOL_COLUMNS)
    if tools and functions and tools != functions:
        raise UnusableRow("columns 'tools' and 'functions' differ, so it is unclear which count; leave one out")
    used = ("system", "tools", "functions", *([system] if system else []))
    return Conversation(turns, tools or functions, is_chat=True), used


def _prompt_and_response(row: Mapping[str, Any], format: str, config: CorpusConfig) -> tuple[str, str]:
    if format == "prompt_completion":
        return _text(row, "prompt"), _text(row, "completion")
    assert config.template is not None
    return _fill(config.template.prompt, row), _fill(config.template.response, row)


def _pair(prompt: str, response: str) -> Messages:
    for text in (prompt, response):
        _check_unicode(text)
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnusableRow("the text is not valid Unicode (half of a surrogate pair)") from None


def _text(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise UnusableRow(f"missing column {shown(column)}")
    value = row[column]
    if value is None:
        raise UnusableRow(f"column {column!r} is null")
    if not isinstance(value, str):
        raise UnusableRow(f"column {column!r} holds {kind_of(value)}, not text")
    return value


def template_columns(template: str) -> list[str]:
    """Return the columns that a template names."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def used_columns(config: CorpusConfig) -> set[str]:
    """Return all columns from which prompt and response may be made."""
    if config.template is not None:
        return {*template_columns(config.template.prompt), *template_columns(config.template.response)}
    return {"input", *_BESIDE}.union(*(one for needed in _COLUMNS.values() for one in needed))


def _fill(template: str, row: Mapping[str, Any]) -> str:
    values: dict[str, Any] = {}
    for name in template_columns(template):
        if name not in row:
            raise UnusableRow(f"missing column {name!r}")
        if row[name] is None:
            raise UnusableRow(f"column {name!r} is null")
        if not isinstance(row[name], str | int | float | decimal.Decimal | datetime.date | datetime.time):
            raise UnusableRow(f"column {name!r} holds {kind_of(row[name])}, not text or a number")
        values[name] = row[name]
    # str.format_map on the row itself would allow `{a.b}` or `{a[0]}` to reach into objects.
    return "".join(
        literal + ("" if name is None else str(values[name]))
        for literal, name, _, _ in string.Formatter().parse(template)
    )
