"""What LLaMA-Factory, TRL and axolotl are told of a subset, read as these programs read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_ray.config import CorpusConfig
from s2l_ray.data.formats import detect_format, to_conversation
from s2l_ray.stages.subset.layout import RowLayout
from s2l_ray.stages.subset.programs import GUIDE, write_guides
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import write_jsonl

Row = dict[str, Any]
PLAIN = CorpusConfig(paths=["a"])
CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def chat(role: str, text: str, *names: str, **columns: Any) -> Row:
    return {"messages": [{role: n, text: f"{n} {i}"} for i, n in enumerate(names)], **columns}


PAIR = {"instruction": "And in French?", "input": "hello", "output": "bonjour"}
FUNCTIONS = [{"from": "human", "value": "Weather?"}, {"from": "function_call", "value": json.dumps(CALL["function"])},
             {"from": "observation", "value": "-3 C"}, {"from": "gpt", "value": "Cold."}]  # fmt: skip
OPENAI = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]},
          {"role": "tool", "content": "-3 C"}, {"role": "tool", "content": "-4 C"},
          {"role": "assistant", "content": "Cold."}]  # fmt: skip
CASES: dict[str, list[Row]] = {
    "alpaca": [PAIR, PAIR | {"input": ""}],
    "alpaca with all": [PAIR | {"system": "Translate.", "history": [["Spanish?", "hola"]]},
                        PAIR | {"system": "", "history": []}],
    "pairs": [{"prompt": "p", "completion": "c"}],
    "messages": [chat("role", "content", "system", "user", "assistant"), chat("role", "content", "user", "assistant")],
    "messages with from": [chat("from", "value", "human", "gpt", "human", "gpt")],
    "messages in capitals": [chat("role", "content", "User", "Assistant")],
    "messages of a developer": [chat("role", "content", "developer", "user", "assistant")],
    "sharegpt": [{"conversations": chat("from", "value", "human", "gpt")["messages"], "system": "A pirate."},
                 {"conversations": chat("from", "value", "human", "gpt")["messages"], "system": ""}],
    "sharegpt of roles": [{"conversations": chat("role", "content", "user", "assistant")["messages"]}],
    "conversation": [{"conversation": chat("role", "content", "user", "assistant")["messages"]}],
    "functions": [{"conversations": FUNCTIONS, "tools": json.dumps(TOOLS), "system": "Help."}],
    "openai": [{"messages": OPENAI, "tools": TOOLS}],
}  # fmt: skip


def written(tmp_path: Path, rows: list[Row], format: str | None = None) -> Storage:
    write_jsonl(tmp_path / "subset.jsonl", rows)
    layout = RowLayout()
    for row in rows:
        layout.add(row)
    out = Storage.open(tmp_path)
    write_guides(out, {"subset.jsonl": layout}, format or detect_format({name for row in rows for name in row}))
    return out


def loaded(tmp_path: Path) -> Any:
    import datasets

    path = str(tmp_path / "subset.jsonl")
    return datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))


def section(out: Storage, program: str) -> str:
    """The lines for a program, without the fence; or the reason why there are none."""
    text = out.read_bytes(GUIDE).decode().partition(f"## {program}\n")[2].partition("\n## ")[0].strip()
    return text.partition("\n")[2].removesuffix("```") if text.startswith("```") else text


# --- LLaMA-Factory ----------------------------------------------------------------------------------------------------


def read_as_llama_factory(info: dict[str, Any], row: Row) -> tuple[str, list[tuple[str, str]], str]:
    """(system, [(role, text)], tools), by the rules of LLaMA-Factory's parser.py and converter.py, restated.

    Columns: where any is named, those that are not named do not exist; each that is named is looked up (KeyError).
    Alpaca: history, then prompt and query joined by a line break, then response. ShareGPT: the first turn is the system
    prompt if it has the system tag; then user or observation, and assistant or function, take turns, an even number.
    """
    columns, tags = info["columns"], info.get("tags", {})
    system = row[columns["system"]] or "" if "system" in columns else ""
    tools = row[columns["tools"]] if "tools" in columns else ""
    if info.get("formatting", "alpaca") == "alpaca":
        turns = [pair for q, a in row[columns["history"]] or [] for pair in (("user", q), ("assistant", a))] if (
            "history" in columns
        ) else []  # fmt: skip
        query = [row[columns[name]] for name in ("prompt", "query") if name in columns]
        turns += [("user", "\n".join(text for text in query if text)), ("assistant", row[columns["response"]])]
        return system, turns, tools
    turns, messages = [], row[columns["messages"]]
    kinds = {tags[f"{kind}_tag"]: kind for kind in ("user", "assistant", "observation", "function")}
    if messages[0][tags["role_tag"]] == tags["system_tag"]:
        system, messages = messages[0][tags["content_tag"]], messages[1:]
    for turn in messages:
        kind, text = kinds[turn[tags["role_tag"]]], turn[tags["content_tag"]]
        if info["formatting"] == "openai":
            if turn.get("tool_calls"):
                kind, text = "function", json.dumps([call["function"] for call in turn["tool_calls"]])
            if kind == "observation" and turns and turns[-1][0] == "observation":
                turns[-1] = (kind, f"{turns[-1][1]}\n{text}")
                continue
        turns.append((kind, text))
    asks = [kind in ("user", "observation") for kind, _ in turns]
    assert asks == [i % 2 == 0 for i in range(len(turns))], "else it skips the example as abnormal"
    assert len(turns) % 2 == 0
    if info["formatting"] != "openai":
        assert isinstance(tools, str), "it parses the text"
    return system, turns, tools if isinstance(tools, str) else json.dumps(tools)


@pytest.mark.parametrize("case", CASES)
def test_llama_factory_reads_what_we_read(tmp_path, case):
    out = written(tmp_path, CASES[case])
    info = out.read_json("dataset_info.json")["s2l_subset"]
    assert info["file_name"] == "subset.jsonl"
    for row, own in zip(loaded(tmp_path), CASES[case], strict=True):
        system, turns, tools = read_as_llama_factory(info, row)
        ours = to_conversation(own, detect_format(own), PLAIN)
        expected = [t for t in ours.turns if t["role"] not in ("system", "developer")]
        texts = [text for kind, text in turns if kind in ("user", "assistant")]
        assert [t.replace("\n\n", "\n") for t in (e["content"] for e in expected if e["role"] != "tool") if t] == texts
        assert system == next((t["content"] for t in ours.turns if t["role"] in ("system", "developer")), "")
        calls = [call["function"]["name"] for t in ours.turns for call in t.get("tool_calls", [])]
        assert sum(kind == "function" for kind, _ in turns) == len(calls)
        assert "\n".join(t for kind, t in turns if kind == "observation") == "\n".join(
            e["content"] for e in expected if e["role"] == "tool"
        )
        assert [t["function"]["name"] for t in ours.tools or []] == [
            t["function"]["name"] for t in json.loads(tools or "[]")
        ]
    if info.get("formatting"):
        assert set(info["tags"]) == {
            "role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"
        }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([chat("role", "content", "user", "gpt", "human", "gpt")], "one role has several names: human, user"),
        ([chat("role", "content", "user", "gpt"), chat("from", "value", "user", "gpt")], "under differing keys"),
        ([{"messages": json.dumps([{"role": "user", "content": "x"}])}], "are JSON text"),
        ([{"prompt": [{"role": "user", "content": "x"}], "completion": [{"role": "gpt", "content": "x"}]}], "lists of"),
    ],
)
def test_what_llama_factory_cannot_read_is_not_registered_and_said(tmp_path, rows, reason):
    out = written(tmp_path, rows)
    assert not out.exists("dataset_info.json")
    assert reason in section(out, "LLaMA-Factory")


def test_every_shard_is_an_entry_of_its_own(tmp_path):
    layouts = {}
    for i, row in enumerate([PAIR, PAIR | {"system": "s"}]):
        layouts[f"subset-{i:05d}-of-00002.jsonl"] = layout = RowLayout()
        layout.add(row)
    write_guides(Storage.open(tmp_path), layouts, "instruction")
    info = Storage.open(tmp_path).read_json("dataset_info.json")
    assert ["system" in info[f"s2l_subset_{i:05d}"]["columns"] for i in (0, 1)] == [False, True]
    assert "dataset: s2l_subset_00000,s2l_subset_00001" in section(Storage.open(tmp_path), "LLaMA-Factory")


# --- TRL and axolotl --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if c not in ("functions", "openai")])
def test_the_lines_for_trl_give_what_we_read(tmp_path, case, monkeypatch):
    lines = section(written(tmp_path, CASES[case]), "TRL")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    made: dict[str, Any] = {}
    exec(lines.replace("from trl import SFTTrainer\n", "").partition("SFTTrainer(")[0], made)
    for row, own in zip(made["data"], CASES[case], strict=True):
        ours = [(t["role"], t["content"]) for t in to_conversation(own, detect_format(own), PLAIN).turns]
        if isinstance(row.get("prompt"), str):
            assert [("user", row["prompt"]), ("assistant", row["completion"])] == ours
            continue
        turns = row["messages"] if "messages" in row else row["prompt"] + row["completion"]
        assert [(t["role"], t["content"]) for t in turns] == ours


def test_trl_takes_openais_chats_as_they_are(tmp_path):
    lines = section(written(tmp_path, CASES["openai"]), "TRL")
    assert "def " not in lines
    assert 'load_dataset("json", data_files=["subset.jsonl"], split="train")' in lines
    assert "tool calls stand in turns of their own" in section(written(tmp_path / "b", CASES["functions"]), "TRL")


@pytest.mark.parametrize("case", [c for c in CASES if c not in ("functions", "alpaca with all", "sharegpt")])
def test_the_lines_for_axolotl_name_what_the_rows_have(tmp_path, case):
    [entry] = yaml.safe_load(section(written(tmp_path, CASES[case]), "axolotl"))["datasets"]
    assert (entry["path"], entry["ds_type"]) == ("subset.jsonl", "json")
    for row in CASES[case]:
        ours = to_conversation(row, detect_format(row), PLAIN).turns
        if entry["type"] == "chat_template":
            keys, roles = entry["message_property_mappings"], entry["roles"]
            kinds = {name: kind for kind, names in roles.items() for name in names}
            turns = [(kinds[t[keys["role"]]], t[keys["content"]] or "") for t in row[entry["field_messages"]]]
            assert turns == [(t["role"], t["content"]) for t in ours]
        elif entry["type"] == "alpaca":
            assert {"instruction", "output"} <= row.keys()
        else:
            kind = entry["type"]
            assert kind["format"].format(instruction=row[kind["field_instruction"]]) == ours[0]["content"]
            assert row[kind["field_output"]] == ours[1]["content"]


def test_axolotl_is_told_of_weights_and_what_it_cannot_read_is_said(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "train": False},
             {"role": "assistant", "content": "b", "train": True}]  # fmt: skip
    [entry] = yaml.safe_load(section(written(tmp_path / "a", [{"messages": turns}]), "axolotl"))["datasets"]
    assert entry["message_field_training"] == "train"
    assert "does not read history, system" in section(written(tmp_path / "b", CASES["alpaca with all"]), "axolotl")
    assert "the column 'system'" in section(written(tmp_path / "c", CASES["sharegpt"]), "axolotl")


def test_a_template_of_the_users_own_has_no_lines(tmp_path):
    out = written(tmp_path, [{"question": "q", "answer": "a"}], "template")
    assert not out.exists("dataset_info.json")
    for program in ("LLaMA-Factory", "TRL", "axolotl"):
        assert "corpus.template" in section(out, program)
