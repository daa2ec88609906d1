"""Chats as the programs of this field write them: all that is used reaches the renderer and counts in the id."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pyarrow as pa
import pytest

from s2l_ray.config import CorpusConfig
from s2l_ray.data.conversation import unpack
from s2l_ray.data.corpus_parts import EXAMPLE_SCHEMA, READ_SCHEMA, HoldOut, part_name, write_part
from s2l_ray.data.example_id import content_id
from s2l_ray.data.formats import UnknownFormat, detect_format, format_of_rows, rendered_as, to_conversation
from s2l_ray.data.quarantine import QuarantineLimitError
from s2l_ray.data.read_task import sample_format, to_record
from s2l_ray.data.render import Renderer
from s2l_ray.data.sources import plan_files
from s2l_ray.data.units import RawRow, UnusableRow
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import write_jsonl
from tests.support.families import family_tokenizer

PLAIN = CorpusConfig(paths=["a.jsonl"])
Row = dict[str, Any]
U, A = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def read(row: Any, config: CorpusConfig = PLAIN) -> Any:
    return to_conversation(row, format_of_rows(config, [row]), config)


def why(row: Row, config: CorpusConfig = PLAIN) -> str:
    with pytest.raises(UnusableRow) as caught:
        read(row, config)
    return str(caught.value)


# --- keys and roles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["messages", "conversations", "conversation"])
@pytest.mark.parametrize(("role", "text"), [("role", "content"), ("from", "value"), ("role", "value")])
@pytest.mark.parametrize("names", [("user", "assistant"), ("human", "gpt"), ("User", "Assistant"), (" HUMAN", "GPT ")])
@pytest.mark.parametrize("as_text", [False, True])
def test_every_pair_of_keys_in_every_column_with_every_vocabulary_is_the_same_chat(column, role, text, names, as_text):
    turns: Any = [{role: names[0], text: "hi"}, {role: names[1], text: "ho"}]
    chat = read({column: json.dumps(turns) if as_text else turns})
    assert chat.turns == [U, A]
    assert chat.is_chat
    assert chat.id == content_id([U, A])


def test_keys_that_are_null_because_other_rows_have_them_do_not_count():
    null = {"from": None, "value": None, "tool_calls": None, "weight": None, "name": None, "reasoning": None}
    assert read({"messages": [{**null, **U}, {**null, **A}]}).turns == [U, A]
    both = {"role": "user", "from": "human", "content": "hi"}
    assert "has both role and from, with different values" in why({"messages": [both, A]})


def test_an_empty_column_does_not_decide_the_format():
    row = {"messages": [], "prompt": "p", "completion": "c"}
    assert format_of_rows(PLAIN, [row] * 3) == "prompt_completion"
    assert format_of_rows(PLAIN, [{**row, "messages": None}]) == "prompt_completion"
    assert format_of_rows(PLAIN, [row, {"messages": [U, A]}, {"messages": [U, A]}]) == "messages"


# --- system, history, tools -------------------------------------------------------------------------------------------


def test_alpacas_system_history_and_tools_are_used():
    row = {"instruction": "And in French?", "input": "", "output": "bonjour"}
    plain = read(row)
    assert (plain.is_chat, plain.id) == (False, content_id([U | {"content": "And in French?"},
                                                            A | {"content": "bonjour"}]))  # fmt: skip
    for nothing in ({"system": "", "history": []}, {"system": None, "history": None}, {"history": "[]", "tools": "[]"}):
        assert read(row | nothing) == plain
    spanish = read(row | {"system": "You translate.", "history": [["Hello in Spanish?", "hola"]]})
    assert [(t["role"], t["content"]) for t in spanish.turns] == [
        ("system", "You translate."), ("user", "Hello in Spanish?"), ("assistant", "hola"),
        ("user", "And in French?"), ("assistant", "bonjour"),
    ]  # fmt: skip
    others = [
        row | {"system": "One word."},
        row | {"history": [["Hello in Dutch?", "hallo"]]},
        row | {"history": json.dumps([["Hello in Dutch?", "hallo!"]])},
        row | {"tools": json.dumps([TOOL])},
    ]
    chats = [plain, spanish, *map(read, others)]
    assert len({chat.id for chat in chats}) == len(chats)
    assert all(chat.is_chat for chat in chats[1:])
    assert "history[0] is not a pair of texts" in why(row | {"history": [["q"]]})
    assert "history[0] is not a pair of texts" in why(row | {"history": ["q", "a"]})


def test_sharegpts_system_and_tools_are_used():
    row = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}
    pirate, monk = read(row | {"system": "A pirate.", "tools": "[]"}), read(row | {"system": "A monk."})
    assert pirate.turns == [{"role": "system", "content": "A pirate."}, U, A]
    assert pirate.tools is None
    armed = read(row | {"tools": json.dumps([TOOL["function"]])})
    assert armed.tools == [TOOL]
    assert armed == read(row | {"tools": [TOOL]}) == read(row | {"functions": [TOOL["function"]]})
    assert len({chat.id for chat in (read(row), pirate, monk, armed)}) == 4
    own = {"conversations": [{"from": "system", "value": "A monk."}, *row["conversations"]]}
    assert read(own | {"system": "A monk."}) == read(own)
    assert "column 'system' differs from the chat's own system turn" in why(own | {"system": "A pirate."})
    assert "tool 0 is not a function with a name" in why(row | {"tools": [{"x": 1}]})
    assert "is not valid JSON" in why(row | {"tools": "weather"})


def test_plain_ids_are_those_of_before():
    assert content_id([{"role": "user", "content": "q"}, {"role": "assistant", "content": "ä"}]).hex() == (
        "b72f981265ea9726b02ddb1c47758632"
    )
    weighted = [{**U, "weight": 1}, {**A, "weight": 1, "train": True, "name": ""}]
    assert read({"messages": weighted}).id == content_id([U, A])


# --- what turns hold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}, {"content": "Let me look."}])
@pytest.mark.parametrize(
    "call",
    [
        {"tool_calls": [CALL]}, {"tool_calls": [{**CALL, "id": None}]}, {"tool_calls": json.dumps([CALL])},
        {"tool_calls": [CALL["function"]]}, {"function_call": CALL["function"], "tool_calls": []},
    ],
)  # fmt: skip
def test_tool_calls_are_kept_whatever_the_content(content, call):
    turns = [U, {"role": "assistant", **content, **call}, {"role": "tool", "content": "-3 C", "tool_call_id": "c"}, A]
    chat = read({"messages": turns})
    assert chat.turns[1] == {"role": "assistant", "content": content.get("content") or "", "tool_calls": [CALL]}
    assert chat.turns[2] == {"role": "tool", "content": "-3 C", "tool_call_id": "c"}
    assert chat.id != content_id([U, {"role": "assistant", "content": chat.turns[1]["content"]}, chat.turns[2], A])


def test_function_calls_as_turns():
    arguments = json.dumps(CALL["function"])
    turns = [{"from": "human", "value": "hi"}, {"from": "function_call", "value": f"<think>Look.</think>{arguments}"},
             {"from": "observation", "value": "-3 C"}, {"from": "gpt", "value": "ho"}]  # fmt: skip
    chat = read({"conversations": turns})
    assert chat.turns[1] == {"role": "assistant", "content": "", "reasoning_content": "Look.", "tool_calls": [CALL]}
    assert chat.turns[2] == {"role": "tool", "content": "-3 C"}
    several = read({"conversations": [turns[0], {"from": "function_call", "value": f"[{arguments},{arguments}]"}]})
    assert several.turns[1]["tool_calls"] == [CALL, CALL]
    turns[1] = {"from": "function_call", "value": "weather(Oslo)"}
    assert "conversations[1] (function_call) is not valid JSON" in why({"conversations": turns})
    turns[1] = {"from": "function_call", "value": "{}"}
    assert "conversations[1] (function_call) contains no call" in why({"conversations": turns})


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_thoughts_are_kept_under_one_name(key):
    chat = read({"messages": [U, {**A, key: "Two and two."}]})
    assert chat.turns[1] == {**A, "reasoning_content": "Two and two."}
    parts = [{"type": "thinking", "thinking": "Two and two."}, {"type": "text", "text": "ho"}]
    assert read({"messages": [U, {"role": "assistant", "content": parts}]}) == chat
    assert read({"messages": [U, {**A, key: " "}]}).turns == [U, A]
    assert "only assistant turns may have" in why({"messages": [{**U, key: "Hm."}, A]})


@pytest.mark.parametrize(
    ("mark", "is_trained"),
    [({"weight": 0}, False), ({"weight": 0.0}, False), ({"train": False}, False), ({"training": False}, False),
     ({"weight": 1}, True), ({"train": True}, True), ({"weight": None}, True)],
)  # fmt: skip
def test_weights_of_turns(mark, is_trained):
    chat = read({"messages": [U, {**A, **mark}, U, A]})
    assert chat.turns == [U, A if is_trained else {**A, "weight": 0}, U, A]
    if not is_trained:
        assert "excluded from training by its weight" in why({"messages": [U, {**A, **mark}]})


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (
            {**A, "weight": 0.5},
            "messages[1] has weight=0.5, but a turn is either trained on (1, true) or not (0, false)",
        ),
        ({**A, "weight": 0, "train": True}, "messages[1] has weight and train, which contradict each other"),
        ({**U, "train": True}, "messages[1] (user) is marked to be trained on, which only assistant turns can be"),
        (
            {**A, "images": ["a.png"]},
            "messages[1] has 'images', which is not supported; to ignore it, set corpus.ignore_columns=[images]",
        ),
        ({**A, "tool_calls": [{"id": "x"}]}, "messages[1] has a tool call without a name"),
        ({**A, "tool_calls": "weather"}, "tool_calls of messages[1] is not valid JSON"),
        ({**U, "tool_calls": [CALL]}, "messages[1] (user) has tool calls or reasoning"),
        ({**A, "content": "\ud83d"}, "the text is not valid Unicode"),
        ({**A, "reasoning": "\ud83d"}, "the text is not valid Unicode"),
    ],
)
def test_what_turns_cannot_hold(turn, reason):
    assert reason in why({"messages": [U, turn, A]})


def test_empty_turns():
    empty = [U, {**A, "content": ""}]
    assert read({"messages": [*empty, U, A]}).turns[1]["content"] == ""
    assert why({"messages": empty}) == "empty response"
    assert why({"messages": [U]}).startswith("no assistant turn")


# --- TRL --------------------------------------------------------------------------------------------------------------


def test_trls_prompt_and_completion_of_turns_are_one_chat_of_which_the_completion_is_trained_on():
    chat = read({"prompt": [U], "completion": [A], "tools": [TOOL]})
    assert (chat.turns, chat.tools, chat.is_chat) == ([U, A], [TOOL], True)
    assert read({"prompt": [U, A, U], "completion": [A]}).turns == [U, {**A, "weight": 0}, U, A]
    assert rendered_as("prompt_completion", chat.is_chat) == "messages"
    assert not read({"prompt": "hi", "completion": "ho"}).is_chat
    assert "column 'prompt' is text, but the other one is a list" in why({"prompt": "hi", "completion": [A]})
    assert "no assistant turn" in why({"prompt": [U], "completion": [U]})


def test_preference_data_are_named():
    with pytest.raises(UnknownFormat, match=r"preference data .*\{prompt\}.*\{chosen\}.*rename chosen to messages"):
        detect_format(["prompt", "chosen", "rejected"])
    with pytest.raises(UnknownFormat, match=r"preference data .*good answers, rename chosen to messages"):
        detect_format(["chosen", "rejected", "score"])  # no column is the prompt


# --- columns that mean something --------------------------------------------------------------------------------------

FORMATS: dict[str, Row] = {
    "messages": {"messages": [U, A]},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
    "instruction": {"instruction": "hi", "output": "ho"},
    "prompt_completion": {"prompt": "hi", "completion": "ho"},
}
UNREAD = [("label", False), ("label", True), ("kto_tag", True), ("rejected", "bad"), ("images", ["a.png"]),
          ("videos", ["a.mp4"]), ("audio", {"path": "a.wav"}), ("context", "Oslo is cold."), ("thinking", "Hm."),
          ("chat_template_kwargs", {"enable_thinking": False}), ("weight", 0.1)]  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("name", "value"), UNREAD)
def test_a_column_that_means_something_is_read_or_named(format, name, value):
    row = FORMATS[format] | {name: value}
    assert why(row).startswith(f"column {name!r} is not read (")
    assert why(row).endswith(f"; to continue without, set corpus.ignore_columns=[{name}]")
    ignoring = CorpusConfig(paths=["a"], ignore_columns=[name])
    assert read(row, ignoring).turns == read(FORMATS[format]).turns
    assert read(FORMATS[format] | {name: None}).turns == read(FORMATS[format]).turns


@pytest.mark.parametrize(
    ("format", "name"),
    [("prompt_completion", "system"), ("prompt_completion", "tools"), ("prompt_completion", "history"),
     ("messages", "history"), ("sharegpt", "history")],
)  # fmt: skip
def test_what_one_format_uses_and_another_does_not(format, name):
    assert f"column '{name}' is not read (it belongs to the prompt)" in why(FORMATS[format] | {name: "[1]"})


def test_several_unread_columns_are_named_at_once():
    reason = why(FORMATS["messages"] | {"rejected": "x", "chosen": "y", "images": []})
    assert reason.startswith("columns ['chosen', 'rejected'] are not read")
    assert reason.endswith("corpus.ignore_columns=[chosen,rejected]")


def test_a_template_says_itself_which_columns_count():
    template = {"prompt": "{question}", "response": "{label}"}
    config = CorpusConfig.model_validate({"paths": ["a"], "template": template})
    assert read({"question": "q", "label": "a", "images": ["x"]}, config).turns[1]["content"] == "a"


def test_kto_data_stop_before_any_task(tmp_path):
    rows = [{"messages": [U, A], "label": i % 2 == 0} for i in range(4)]
    config = CorpusConfig(paths=[str(write_jsonl(tmp_path / "a.jsonl", rows))])
    units = plan_files(config.paths, 1 << 20)
    with pytest.raises(QuarantineLimitError, match=r"column 'label' is not read .*corpus\.ignore_columns=\[label\]"):
        sample_format(units, config)
    assert sample_format(units, config.model_copy(update={"ignore_columns": ["label"]})) == "messages"


# --- through the corpus's parts to the renderer -----------------------------------------------------------------------


def write(rows: list[Row], out: Storage) -> pa.Table:
    records = [to_record(RawRow("a", i, row), row, PLAIN, format_of_rows(PLAIN, [row])) for i, row in enumerate(rows)]
    table = pa.Table.from_pylist(records, schema=READ_SCHEMA)
    write_part(table.append_column("part", pa.array([0] * len(rows))), "keep", out, HoldOut())
    return out.sub("examples").read_table(part_name(0))


def test_parts_hold_what_was_read_and_plain_ones_have_the_columns_of_before(tmp_path):
    plain = write([FORMATS["messages"], FORMATS["instruction"]], Storage.open(tmp_path / "plain"))
    assert plain.schema.names == EXAMPLE_SCHEMA.names == [
        "example_id", "origin", "index", "source", "messages", "row"
    ]  # fmt: skip
    call = {"role": "assistant", "tool_calls": [CALL], "reasoning": "Hm."}
    rows = [{"messages": [U, call, {"role": "tool", "content": "3"}, {**A, "weight": 0}], "tools": [TOOL]},
            FORMATS["messages"]]  # fmt: skip
    table = write(rows, Storage.open(tmp_path / "chats"))
    back = {r["example_id"]: unpack(r["messages"], r["chat"]) for r in table.to_pylist()}
    for row in rows:
        chat = read(row)
        assert (back[chat.id].turns, back[chat.id].tools) == (chat.turns, chat.tools)


def test_all_of_it_reaches_the_template():
    call = {"role": "assistant", "content": None, "tool_calls": [CALL], "thinking": "Hm."}
    chat = read({"messages": [U, call, {"role": "tool", "content": "cold"}, {**A, "weight": 0}], "tools": [TOOL]})
    [text] = Renderer(family_tokenizer("qwen3"), "chat_template", 999).texts(chat.turns, chat.tools)
    assert '"name": "weather"' in text.text.partition("<|im_start|>user")[0]
    [(start, end)] = text.responses
    assert text.text[start:end] == (
        "<think>\nHm.\n</think>\n\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
    )


@pytest.mark.parametrize("family", ["chatml", "qwen3", "llama2"])
def test_a_renderer_of_a_chat_template_can_be_sent_to_workers(family):
    """Also after it has rendered, as it has to try the template out."""
    render = Renderer(family_tokenizer(family), "chat_template", 999)
    expected = render([[U, A]])
    sent = pickle.loads(pickle.dumps(render))
    assert sent([[U, A]]) == expected
