"""Rows of every format → conversations; what cannot be used says exactly why."""

from __future__ import annotations

import datetime
import decimal
import json
from typing import Any

import pytest

from s2l_ray.config import CorpusConfig, TemplateConfig
from s2l_ray.data.example_id import content_id, occurrence_id
from s2l_ray.data.formats import UnknownFormat, detect_format, resolve_format, to_conversation
from s2l_ray.data.row_json import row_to_json
from s2l_ray.data.units import UnusableRow

KNOWN = "known: system, developer, user (human), assistant (gpt, model), tool (observation, function), function_call"
PLAIN = CorpusConfig(paths=["a.jsonl"])
TEMPLATE = CorpusConfig(
    paths=["a.jsonl"], template=TemplateConfig(prompt="{{F}}: {findings}\n{n}, {a.b}", response=" {impression}")
)


def turns(row: Any, format: str, config: CorpusConfig = PLAIN) -> list[dict[str, Any]]:
    return to_conversation(row, format, config).turns


def reason(row: Any, format: str, config: CorpusConfig = PLAIN) -> str:
    with pytest.raises(UnusableRow) as caught:
        to_conversation(row, format, config)
    return str(caught.value)


def pair(prompt: str, response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]


@pytest.mark.parametrize(
    ("columns", "format"),
    [
        (["instruction", "input", "output", "source"], "instruction"),
        (["instruction", "output"], "instruction"),
        (["completion", "prompt"], "prompt_completion"),
        (["messages", "prompt", "completion"], "messages"),
        (["conversations", "id"], "sharegpt"),
    ],
)
def test_the_format_is_told_by_the_columns(columns, format):
    assert detect_format(columns) == format
    assert resolve_format(PLAIN, columns) == format


def test_an_unknown_format_names_the_columns_and_a_cure_that_works():
    with pytest.raises(UnknownFormat, match=r"\['answer', 'question'\].*corpus\.template\.prompt"):
        detect_format(["question", "answer"])


def test_a_given_format_or_template_wins_over_the_columns():
    assert resolve_format(TEMPLATE, ["messages"]) == "template"
    assert resolve_format(CorpusConfig(paths=["a"], format="sharegpt"), ["messages"]) == "sharegpt"


def test_single_turn_formats():
    assert turns({"instruction": "i", "output": "o"}, "instruction") == pair("i", "o")
    for nothing in ("", None):
        assert turns({"instruction": "i", "input": nothing, "output": "o"}, "instruction") == pair("i", "o")
    assert turns({"instruction": "i", "input": "x", "output": "o"}, "instruction") == pair("i\n\nx", "o")
    assert turns({"prompt": "", "completion": " c "}, "prompt_completion") == pair("", " c ")
    row = {"findings": "clear {n}", "n": 3, "a.b": decimal.Decimal("1.50"), "impression": "ok"}
    assert turns(row, "template", TEMPLATE) == pair("{F}: clear {n}\n3, 1.50", " ok")


def test_chats_keep_every_turn_and_role():
    said = [("system", "s"), ("developer", "d"), ("user", "u"), ("assistant", "a"), ("tool", "t"), ("assistant", "b")]
    messages = [{"role": r, "content": c} for r, c in said]
    assert turns({"messages": messages}, "messages") == messages
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    row = {"messages": [{"role": "user", "content": parts, "id": 7}, {"role": "assistant", "content": "a"}]}
    assert turns(row, "messages") == pair("one two", "a")


def test_sharegpt_roles():
    names = ["system", "human", "gpt", "user", "assistant", "model", "chatgpt", "tool", "observation"]
    row = {"conversations": [{"from": n, "value": n} for n in [*names, "function_response", "function", "ipython"]]}
    roles = [m["role"] for m in turns(row, "sharegpt")]
    a, u, t = "assistant", "user", "tool"
    assert roles == ["system", u, a, u, a, a, a, t, t, t, t, t]


@pytest.mark.parametrize(
    ("row", "format", "expected"),
    [
        ({"output": "o"}, "instruction", "missing column 'instruction'"),
        ({"instruction": "i"}, "instruction", "missing column 'output'"),
        ({"instruction": None, "output": "o"}, "instruction", "column 'instruction' is null"),
        ({"instruction": 5, "output": "o"}, "instruction", "column 'instruction' holds int, not text"),
        ({"instruction": "i", "input": 0, "output": "o"}, "instruction", "column 'input' holds int, not text"),
        ({"instruction": "i", "input": [], "output": "o"}, "instruction", "column 'input' holds list, not text"),
        ({"instruction": "i", "output": " \n"}, "instruction", "empty response"),
        ({"prompt": "p", "completion": b"c"}, "prompt_completion", "column 'completion' holds bytes, not text"),
        ({}, "messages", "missing column 'messages'"),
        ({"messages": None}, "messages", "column 'messages' is not a non-empty list of turns"),
        ({"messages": []}, "messages", "column 'messages' is not a non-empty list of turns"),
        ({"messages": "[]"}, "messages", "column 'messages' is not a non-empty list of turns"),
        ({"messages": [{"role": "user"}]}, "messages", "messages[0] (user) lacks 'content' (or 'value')"),
        ({"messages": [{"text": "x"}]}, "messages",
         "messages[0] lacks 'role' or 'content' (or 'from' and 'value'); its keys: ['text']"),
        ({"messages": ["hi"]}, "messages",
         "messages[0] is str, not an object with role and content (or from and value)"),
        ({"messages": [{"role": "me", "content": "x"}]}, "messages", f"messages[0] has the unknown role 'me'; {KNOWN}"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages",
         f"messages[0] has the unknown role ['user']; {KNOWN}"),
        ({"messages": [{"role": None, "content": "x"}]}, "messages",
         f"messages[0] has the unknown role None; {KNOWN}"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages",
         "messages[0] (assistant) has no text and no tool call"),
        ({"messages": [{"role": "user", "content": None}]}, "messages", "messages[0] (user) has no text"),
        ({"messages": [{"role": "assistant", "content": 3}]}, "messages", "messages[0] is not text but int"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages",
         "messages[0] contains parts that are not text ('image_url')"),
        ({"messages": [{"role": "user", "content": "only a question"}]}, "messages",
         "no assistant turn, so there is no response to train on"),
        ({"messages": pair("q", "  ")}, "messages", "empty response"),
        ({"messages": pair("q", "") * 2}, "messages", "empty response: every assistant turn is empty"),
        ({"conversations": [{"from": "me", "value": "x"}]}, "sharegpt",
         f"conversations[0] has the unknown role 'me'; {KNOWN}"),
    ],
)  # fmt: skip
def test_unusable_rows_say_why(row, format, expected):
    assert reason(row, format) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"findings": None}, "column 'findings' is null"),
        ({"n": [1]}, "column 'n' holds list, not text or a number"),
        ({"n": {"x": 1}}, "column 'n' holds dict, not text or a number"),
        ({"n": b"1"}, "column 'n' holds bytes, not text or a number"),
        ({"impression": "\t"}, "empty response"),
    ],
)
def test_unusable_rows_of_a_template(change, expected):
    row = {"findings": "f", "n": 1, "a.b": 2, "impression": "i"}
    assert reason({**row, **change}, "template", TEMPLATE) == expected
    missing = {k: v for k, v in row.items() if k != "a.b"}
    assert reason(missing, "template", TEMPLATE) == "missing column 'a.b'"


def test_half_a_character_is_no_text():
    row = json.loads('{"prompt": "p", "completion": "\\ud83d"}')
    assert reason(row, "prompt_completion").startswith("the text is not valid Unicode")
    with pytest.raises(UnusableRow, match="cannot be stored"):
        row_to_json(row)
    whole = json.loads('{"prompt": "p", "completion": "\\ud83d\\ude00"}')
    assert turns(whole, "prompt_completion") == pair("p", "😀")


def test_what_travels_and_what_cannot():
    row = {
        "d": datetime.date(2024, 2, 29),
        "t": datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc),
        "x": decimal.Decimal("0.10"),
        "n": None,
        "text": "é",
        "deep": [{"a": 1.5}],
    }
    expected = {"d": "2024-02-29", "t": "2024-02-29T12:00:00+00:00", "x": "0.10", "n": None, "text": "é"}
    assert json.loads(row_to_json(row)) == expected | {"deep": [{"a": 1.5}]}
    for value in (b"x", float("nan"), float("inf"), datetime.timedelta(1), {1, 2}):
        with pytest.raises(UnusableRow, match=r"cannot be stored: .*corpus\.drop_columns"):
            row_to_json({"ok": 1, "bad": value})


def test_ids_are_of_the_content_alone():
    base = pair("a", "b")
    assert content_id(base) == content_id([{"content": m["content"], "role": m["role"]} for m in base])
    others = [pair("ab", ""), pair("", "ab"), pair("a", "b "), [{**base[0], "role": "system"}, base[1]], base * 2]
    ids = {content_id(m) for m in [base, *others]}
    assert len(ids) == 6
    first = content_id(base)
    assert occurrence_id(first, 0) == first
    assert len({occurrence_id(first, n) for n in range(50)}) == 50
    assert {len(i) for i in ids} == {16}
    # Fixed indefinitely: a changed hash would make every finished run's ids foreign.
    assert content_id(pair("q", "ä")).hex() == "b72f981265ea9726b02ddb1c47758632"
    assert occurrence_id(b"0" * 16, 3).hex() == "172121d7554e9c1b6a8dd3330c941992"
