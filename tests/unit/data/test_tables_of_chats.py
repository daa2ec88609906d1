"""Chats out of typed tables, and keys of turns that change what they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s2l_ray.config import CorpusConfig
from s2l_ray.data.chats import without_table_nulls
from s2l_ray.data.conversation import Conversation, unpack
from s2l_ray.data.formats import UnknownFormat, detect_format
from s2l_ray.data.quarantine import QuarantineLimitError
from s2l_ray.data.read_task import read_rows, sample_format
from s2l_ray.data.sources import plan_files

U, A = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def called(tool_name: str, **arguments: Any) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": tool_name, "arguments": arguments}}
    return [U, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "3"}, A]


TEXT, NUMBER = {"type": "string"}, {"type": "number", "description": "A number."}
ROWS: list[dict[str, Any]] = [
    {"messages": called("weather", city="Oslo"), "tools": [tool("weather", city=TEXT)]},
    {"messages": called("add", a=1, b={"exact": True}), "tools": [tool("add", a=NUMBER, b=NUMBER), tool("now")]},
    {"messages": called("now"), "tools": [tool("now"), tool("weather", city=TEXT)]},
    {"messages": [U, A], "tools": None},
]


def read(path: Path) -> list[tuple[bytes, Conversation, dict[str, Any]]]:
    config = CorpusConfig(paths=[str(path)])
    units = plan_files(config.paths, 1 << 20)
    out = []
    for record, _, reason in read_rows(units[0], config, sample_format(units, config)):
        assert record is not None, reason
        out.append((record["id"], unpack(record["messages"], record["chat"]), json.loads(record["row"])))
    return out


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"a.{kind}"
    table = pa.Table.from_pylist(rows)
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table)
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tools_and_calls_of_a_table_are_those_of_json(tmp_path, kind):
    """A table's objects all have the same keys: null there is what was lacking, not another tool's parameter."""
    expected, found = read(write(tmp_path, "jsonl", ROWS)), read(write(tmp_path, kind, ROWS))
    assert [(i, chat) for i, chat, _ in found] == [(i, chat) for i, chat, _ in expected]
    assert "a" in json.dumps(found[0][2]["tools"]), "the row itself stays as the table has it"


def test_what_is_null_in_json_or_beside_tools_is_left_alone():
    null = [{"type": "function", "function": {"name": "f", "parameters": {"default": None}}}]
    row = {"messages": [U, A], "tools": null, "meta": {"a": None}}
    assert without_table_nulls(row, ("tools",)) == {
        **row, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    }  # fmt: skip
    plain = {"messages": [U, A], "meta": {"a": None}, "tools": json.dumps(null)}
    assert without_table_nulls(plain, ("tools",)) is plain


def test_json_keeps_its_nulls(tmp_path):
    null = [{"type": "function", "function": {"name": "f", "parameters": {"default": None}}}]
    [(_, chat, _)] = read(write(tmp_path, "jsonl", [{"messages": [U, A], "tools": null}]))
    assert chat.tools == null


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_turns_whose_keys_have_a_list_each(tmp_path, kind):
    """So Hugging Face's `Sequence` stores a list of objects."""
    rows = [{"messages": {"role": ["user", "assistant"], "content": ["hi", "ho"]}}] * 2
    expected = read(write(tmp_path, "jsonl", [{"messages": [U, A]}] * 2))
    assert [chat for _, chat, _ in read(write(tmp_path, kind, rows))] == [chat for _, chat, _ in expected]


def refusal(tmp_path: Path, *rows: Any) -> str:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = CorpusConfig(paths=[str(path)])
    with pytest.raises((QuarantineLimitError, UnknownFormat)) as caught:
        sample_format(plan_files(config.paths, 1 << 20), config)
    return str(caught.value)


@pytest.mark.parametrize("key", ["loss", "loss_mask", "trainable", "train", "training", "weight"])
@pytest.mark.parametrize("value", [False, 0])
def test_every_programs_mark_of_a_turn_that_is_context(tmp_path, key, value):
    [(_, chat, _)] = read(write(tmp_path, "jsonl", [{"messages": [U, {**A, key: value}, U, A]}]))
    assert [turn.get("weight") for turn in chat.turns] == [None, 0, None, None]


@pytest.mark.parametrize(
    ("key", "value"),
    [("mask", True), ("masked", 1), ("channel", "analysis"), ("reasoning_details", [{"text": "hm"}]),
     ("thinking_blocks", [{"type": "thinking", "thinking": "hm"}])],
)  # fmt: skip
def test_keys_of_turns_that_mean_something_are_read_or_named(tmp_path, key, value):
    assert (
        f"messages[1] has {key!r}, which is not supported; to ignore it, set corpus.ignore_columns=[{key}]"
        in refusal(tmp_path, {"messages": [U, {**A, key: value}]})
    )


@pytest.mark.parametrize("name", ["enable_thinking", "reasoning_effort", "preferred_output"])
def test_further_columns_that_mean_something(tmp_path, name):
    assert f"column {name!r} is not read" in refusal(tmp_path, {"messages": [U, A], name: "low"})


def test_a_single_row_of_a_known_format_is_not_taken_for_something_else(tmp_path):
    """Its lists of turns are no rows, and its columns no lists of values."""
    pairs = [{"prompt": [U], "completion": [A], "label": True}, {"chosen": [U, A], "rejected": [U, A]},
             {"messages": [U, {"role": "alien", "content": "x"}]},
             {"messages": [U, A], "documents": [{"title": "t"}]}]  # fmt: skip
    for row in pairs:
        said = refusal(tmp_path, row)
        assert "it holds one object" not in said
        assert any(word in said for word in ("is not read", "preference data", "unknown role 'alien'"))


def test_preference_data_name_their_own_columns():
    with pytest.raises(UnknownFormat, match=r"\{question\}.*\{chosen\}.*ignore_columns=\[rejected\]"):
        detect_format(["question", "chosen", "rejected"])
    with pytest.raises(UnknownFormat, match=r"\{preferred_output\}.*ignore_columns=\[non_preferred_output\]"):
        detect_format(["input", "preferred_output", "non_preferred_output"])
