"""Inputs of kinds that people report from tools like this one: each comes out right, or is refused with the reason.

The files are of our own making; where the collection that they were modelled on lies beside the checkout, it must come
out likewise.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from s2l_ray.config import CorpusConfig
from s2l_ray.data.columns import Columns
from s2l_ray.data.conversation import Conversation, unpack
from s2l_ray.data.formats import UnknownFormat
from s2l_ray.data.quarantine import QuarantineLimitError
from s2l_ray.data.read_task import read_rows, sample_format
from s2l_ray.data.render import Renderer
from s2l_ray.data.sources import plan_files
from s2l_ray.data.units import SourceError
from s2l_ray.reporting.inspect import _shown
from tests.support.families import family_tokenizer
from tests.support.paths import SHARED

CASES = SHARED / "data/cases"


@dataclass
class Outcome:
    """What reading gave."""

    chats: list[Conversation] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    refusal: str = ""
    columns: Columns = field(default_factory=Columns)


def read(path: Path) -> Outcome:
    config, out = CorpusConfig(paths=[str(path)]), Outcome()
    try:
        units = plan_files(config.paths, 1 << 20)
        format = sample_format(units, config)
        for unit in units:
            for record, _, reason in read_rows(unit, config, format, out.columns):
                if record is None:
                    out.reasons.append(reason)
                else:
                    out.chats.append(unpack(record["messages"], record["chat"]))
                    out.ids.append(record["id"])
    except (SourceError, UnknownFormat, QuarantineLimitError) as error:
        out.refusal = str(error)
    return out


# --- what is right ----------------------------------------------------------------------------------------------------

Check = Callable[[Outcome], None]


def refused(words: str) -> Check:
    def check(out: Outcome) -> None:
        assert words in out.refusal

    return check


def quarantined(num_good: int, *words: str) -> Check:
    """So many rows can be used; the others have these reasons, in order."""

    def check(out: Outcome) -> None:
        assert (out.refusal, len(out.chats), len(out.reasons)) == ("", num_good, len(words))
        for reason, expected in zip(out.reasons, words, strict=True):
            assert expected in reason

    return check


def roles(*expected: str) -> Check:
    """The roles of each chat; all chats have ids of their own."""

    def check(out: Outcome) -> None:
        assert (out.refusal, out.reasons) == ("", [])
        assert [" ".join(t["role"] for t in chat.turns) for chat in out.chats] == list(expected)
        assert len(set(out.ids)) == len(out.ids)

    return check


def pairs(num: int) -> Check:
    def check(out: Outcome) -> None:
        assert (out.refusal, out.reasons, len(out.chats)) == ("", [], num)
        assert all([t["role"] for t in chat.turns] == ["user", "assistant"] for chat in out.chats)

    return check


def tool_call(out: Outcome) -> None:
    [chat] = out.chats
    assert [call["function"]["name"] for call in chat.turns[1]["tool_calls"]] == ["weather"]
    assert chat.tools is not None
    [text] = Renderer(family_tokenizer("qwen2.5"), "chat_template", 999).texts(chat.turns, chat.tools)
    assert ['"weather"' in text.text[a:b] for a, b in text.responses] == [True, False]


def empty_turns_are_no_response(out: Outcome) -> None:
    assert len(out.chats) == 3
    for chat in out.chats:
        for text in Renderer(family_tokenizer("chatml"), "chat_template", 999).texts(chat.turns):
            assert [text.text[a:b] for a, b in text.responses] == ["ok<|im_end|>"]


def one_turn_is_context(out: Outcome) -> None:
    [chat] = out.chats
    [text] = Renderer(family_tokenizer("chatml"), "chat_template", 999).texts(chat.turns)
    said = [turn["content"] for turn in chat.turns if turn["role"] == "assistant"]
    assert [text.text[a:b] for a, b in text.responses] == [f"{said[1]}<|im_end|>"]


def thoughts_are_kept(out: Outcome) -> None:
    assert out.chats[0].turns[-1]["reasoning_content"]


def markup_is_shown(out: Outcome) -> None:
    shown = io.StringIO()
    Console(file=shown, width=200).print(_shown(out.chats[0].turns[0]["content"]))
    assert "[bold]" in shown.getvalue()
    assert "[/INST]" in shown.getvalue()


def metadata_is_json_text(out: Outcome) -> None:
    pairs(len(out.chats))(out)
    assert out.columns.arrow_types()["metadata"] is None
    assert "subset.parquet will hold the columns ['metadata'] as JSON text" in out.columns.warnings()[0]


EXPECTED: dict[str, Check] = {
    "alpaca_system_history/a.jsonl": roles("system user assistant user assistant",
                                           "system user assistant user assistant", "user assistant"),
    "sharegpt_system_tools/a.jsonl": roles("system user assistant", "system user assistant"),
    "bytes/big_ints.jsonl": quarantined(1, "4300 digits"),
    "bytes/bom_in_the_middle.jsonl": quarantined(1, *["a byte order mark precedes it"] * 3),
    "bytes/cr_only.json": pairs(4),
    "bytes/cr_only.jsonl": refused("its lines end with carriage returns alone; convert it: tr '\\r' '\\n'"),
    "bytes/deep.jsonl": refused("column 'x' is nested deeper than 200 levels"),
    "bytes/nan.jsonl": refused("column 'score' holds NaN or Infinity"),
    "bytes/nul.jsonl": quarantined(1, "Invalid control character"),
    "bytes/surrogate.jsonl": quarantined(1, "half of a surrogate pair", "column 'note' is not valid Unicode"),
    "bytes/u2028.json": pairs(2),
    "bytes/u2028.jsonl": pairs(2),
    "bytes/utf16.json": refused("it seems to be UTF-16: convert it with iconv"),
    "bytes/utf16.jsonl": refused("it seems to be UTF-16: convert it with iconv"),
    "empty_turns/a.jsonl": empty_turns_are_no_response,
    "heldout_format/heldout.jsonl": roles("system user assistant", "user assistant user assistant"),
    "inspect_markup/a.jsonl": markup_is_shown,
    "json_shapes/array.jsonl": refused("a JSON array, not one object per line; give it the ending .json"),
    "json_shapes/array_long.jsonl": refused("a JSON array, not one object per line; give it the ending .json"),
    "json_shapes/columns_of_lists.json": refused("one object with a list for every column"),
    "json_shapes/data_key.json": refused("with the rows under its key 'data'"),
    "json_shapes/data_key_one_line.json": refused("with the rows under its key 'data'"),
    "json_shapes/duplicate_keys.jsonl": refused("has the key 'completion' twice, so one of its values would be lost"),
    "json_shapes/nested_array.json": refused("its rows are lists, not objects"),
    "json_shapes/one_pretty_object.json": refused("its objects stretch over several lines"),
    "json_shapes/pretty_concat.jsonl": refused("its objects stretch over several lines"),
    "json_shapes/python_repr.jsonl": refused("Python's notation (single quotes)"),
    "json_shapes/trailing_comma.json": refused("there is a comma before the closing bracket"),
    "json_shapes/two_on_a_line.jsonl": refused("it has several objects on a line"),
    **{f"keys_roles/{name}.jsonl": pairs(1) for name in (
        "capital", "conversation_singular", "conversations_role_content", "messages_as_json_text",
        "messages_from_value", "messages_human_gpt")},
    "keys_roles/empty_messages_and_prompt.jsonl": pairs(2),
    "kto_label/a.jsonl": refused("column 'label' is not read (in KTO data it says which answers are bad)"),
    "no_assistant/a.jsonl": refused("no assistant turn, so there is no response to train on"),
    "reasoning_content/a.jsonl": thoughts_are_kept,
    **{f"schemas/{name}.jsonl": pairs(3) for name in "abc"},
    "subset_rows/empty_dict.jsonl": metadata_is_json_text,
    **{f"tool_calls/{name}.jsonl": tool_call for name in (
        "empty_content", "no_content_key", "null_content", "text_and_call")},
    "trl_conversational/preference.jsonl": refused("are preference data (a good and a bad answer)"),
    "trl_conversational/prompt_completion.jsonl": pairs(1),
    "turn_weights/a.jsonl": one_turn_is_context,
}  # fmt: skip


# --- the files --------------------------------------------------------------------------------------------------------


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def turns(*said: tuple[str, Any], role: str = "role", text: str = "content", **more: Any) -> dict[str, Any]:
    return {"messages": [{role: r, text: t} for r, t in said], **more}


P = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(4)]
QA = (("user", "u"), ("assistant", "v"))
PAIR = {"instruction": "i", "output": "o"}
WEATHER = {"function": {"name": "weather", "arguments": '{"city": "Bergen"}'}, "type": "function"}


def called(**content: Any) -> bytes:
    told = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "tool_calls": [WEATHER], **content},
            {"role": "tool", "content": "no"}, {"role": "assistant", "content": "Dry."}]  # fmt: skip
    return lines({"messages": told, "tools": [{"type": "function", "function": {"name": "weather"}}]})


OWN: dict[str, bytes] = {
    "alpaca_system_history/a.jsonl": lines(
        PAIR | {"system": "s", "history": [["q", "a"]]}, PAIR | {"system": "t", "history": [["q", "a"]]}, PAIR
    ),
    "sharegpt_system_tools/a.jsonl": lines(*(
        {"conversations": turns(("human", "u"), ("gpt", "v"), role="from", text="value")["messages"], "system": s,
         "tools": t} for s, t in (("s", ""), ("t", '[{"name": "n"}]'))
    )),
    "bytes/big_ints.jsonl": lines(P[0] | {"n": 10**40}) + f'{{"prompt": "p", "n": {"9" * 5000}}}\n'.encode(),
    "bytes/bom_in_the_middle.jsonl": b"".join(b"\xef\xbb\xbf" + lines(row) for row in P),
    "bytes/cr_only.json": b"\r".join(lines(row).strip() for row in P),
    "bytes/cr_only.jsonl": b"\r".join(lines(row).strip() for row in P),
    "bytes/deep.jsonl": b'{"prompt": "p", "completion": "c", "x": ' + b"[" * 300 + b"]" * 300 + b"}\n",
    "bytes/nan.jsonl": b'{"prompt": "p", "completion": "c", "score": NaN}\n',
    "bytes/nul.jsonl": lines({"prompt": "a\0", "completion": "c"}) + b'{"prompt": "\0", "completion": "c"}\n',
    "bytes/surrogate.jsonl": b'{"prompt": "p", "completion": "\\ud83d"}\n'
    b'{"prompt": "p", "completion": "c", "note": "\\udc00"}\n{"prompt": "p", "completion": "\\ud83d\\ude00"}\n',
    "bytes/u2028.json": lines({"prompt": "a\u2028b\u2029\x85", "completion": "c"}, P[0]),
    "bytes/u2028.jsonl": lines({"prompt": "a\u2028b\u2029\x85", "completion": "c"}, P[0]),
    "bytes/utf16.json": json.dumps(P).encode("utf-16"),
    "bytes/utf16.jsonl": lines(*P).decode().encode("utf-16"),
    "empty_turns/a.jsonl": lines(
        turns(("user", "u"), ("assistant", ""), ("user", "u"), ("assistant", "ok")),
        turns(("user", "u"), ("assistant", "ok"), ("user", "u"), ("assistant", " \n")),
        turns(("user", ""), ("assistant", "ok")),
    ),
    "heldout_format/heldout.jsonl": lines(turns(("system", "s"), *QA), turns(*QA, *QA)),
    "inspect_markup/a.jsonl": lines({"prompt": "[bold]x[/bold] [/INST]", "completion": "c"}),
    "json_shapes/array.jsonl": b"[\n" + b",\n".join(lines(row).strip() for row in P) + b"\n]\n",
    "json_shapes/array_long.jsonl": b"[\n" + b",\n".join(lines(row).strip() for row in P * 90) + b"\n]\n",
    "json_shapes/columns_of_lists.json": lines({"prompt": ["q", "r"], "completion": ["a", "b"]}),
    "json_shapes/data_key.json": json.dumps({"about": "x", "data": P}, indent=1).encode(),
    "json_shapes/data_key_one_line.json": json.dumps({"about": "x", "data": P}).encode(),
    "json_shapes/duplicate_keys.jsonl": b'{"prompt": "p", "completion": "1", "completion": "2"}\n',
    "json_shapes/nested_array.json": json.dumps([P]).encode(),
    "json_shapes/one_pretty_object.json": json.dumps(P[0], indent=2).encode(),
    "json_shapes/pretty_concat.jsonl": "\n".join(json.dumps(row, indent=2) for row in P).encode(),
    "json_shapes/python_repr.jsonl": "\n".join(map(str, P)).encode(),
    "json_shapes/trailing_comma.json": json.dumps(P).encode()[:-1] + b",]",
    "json_shapes/two_on_a_line.jsonl": b"".join(lines(row).strip() for row in P),
    "keys_roles/capital.jsonl": lines(turns(("USER", "u"), ("Assistant", "v"))),
    "keys_roles/conversation_singular.jsonl": lines({"conversation": turns(*QA)["messages"]}),
    "keys_roles/conversations_role_content.jsonl": lines({"conversations": turns(*QA)["messages"]}),
    "keys_roles/messages_as_json_text.jsonl": lines({"messages": json.dumps(turns(*QA)["messages"])}),
    "keys_roles/messages_from_value.jsonl": lines(turns(("human", "u"), ("gpt", "v"), role="from", text="value")),
    "keys_roles/messages_human_gpt.jsonl": lines(turns(("human", "u"), ("gpt", "v"))),
    "keys_roles/empty_messages_and_prompt.jsonl": lines(*({"messages": [], **row} for row in P[:2])),
    "kto_label/a.jsonl": lines(turns(*QA, label=True), turns(*QA, label=False)),
    "no_assistant/a.jsonl": lines(turns(("user", "u")), turns(("system", "s"), ("user", "u"))),
    "reasoning_content/a.jsonl": lines({"messages": [{"role": "user", "content": "u"}, {
        "role": "assistant", "content": "v", "reasoning_content": "hm"}]}),
    "schemas/a.jsonl": lines(*({**row, "meta": {"a": 1}, "id": 1} for row in P[:3])),
    "schemas/b.jsonl": lines(*({**row, "meta": {"b": ["1"]}, "id": "x", "extra": None} for row in P[:3])),
    "schemas/c.jsonl": lines(*({**row, "meta": {}, "flags": {}} for row in P[:3])),
    "subset_rows/empty_dict.jsonl": lines(*({**row, "metadata": {}} for row in P)),
    "tool_calls/empty_content.jsonl": called(content=""),
    "tool_calls/no_content_key.jsonl": called(),
    "tool_calls/null_content.jsonl": called(content=None),
    "tool_calls/text_and_call.jsonl": called(content="One moment."),
    "trl_conversational/preference.jsonl": lines({"prompt": "q", "chosen": "a", "rejected": "b"}),
    "trl_conversational/prompt_completion.jsonl": lines(
        {"prompt": turns(QA[0])["messages"], "completion": turns(QA[1])["messages"]}
    ),
    "turn_weights/a.jsonl": lines({"messages": [{"role": "user", "content": "u"}, {
        "role": "assistant", "content": "bad", "weight": 0}, {"role": "user", "content": "no"}, {
        "role": "assistant", "content": "good", "weight": 1}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_our_own(tmp_path, name):
    path = tmp_path / Path(name).name
    path.write_bytes(OWN[name])
    EXPECTED[name](read(path))


@pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is not here (it is not part of the project)")
@pytest.mark.parametrize("name", EXPECTED)
def test_the_collections(name):
    EXPECTED[name](read(CASES / name))


@pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is not here (it is not part of the project)")
def test_all_of_the_collections_files_are_looked_at():
    there = {str(path.relative_to(CASES)) for path in CASES.glob("*/*.json*")}
    assert there - set(EXPECTED) == {"heldout_format/corpus.jsonl"}, "which test_heldout_formats reads in its own form"
