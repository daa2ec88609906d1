"""300 rows with every oddity at once, from the files to a subset: nothing is lost uncounted, nothing is changed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import s2l_ray
from s2l_ray.artifacts.run import Run, part_rows
from s2l_ray.config import CorpusConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.formats import to_conversation
from s2l_ray.data.render import Renderer
from s2l_ray.reporting.summary import summary_lines
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config
from tests.support.families import family_tokenizer

pytestmark = pytest.mark.usefixtures("ray_cluster")

MAX_LENGTH = 400
CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


def turns(*said: tuple[str, Any], role: str = "role", text: str = "content") -> list[dict[str, Any]]:
    return [{role: r, text: t} for r, t in said]


def good(i: int) -> list[dict[str, Any]]:
    """Rows that can be used, of every kind."""
    q, a = ("user", f"Add {i} and 1."), ("assistant", f"It is {i + 1}.")
    thinking = {"role": "assistant", "content": f"{i}!", "reasoning_content": f"Let me see: {i}."}
    draft = {"role": "assistant", "content": f"draft {i}", "weight": 0}
    called = [*turns(q), {"role": "assistant", "content": None, "tool_calls": [CALL]}, *turns(("tool", "-3 C"), a)]
    functions = [("human", f"Rain {i}?"), ("function_call", json.dumps(CALL["function"])), ("observation", "no"),
                 ("gpt", f"Dry {i}.")]  # fmt: skip
    parts = [{"type": "text", "text": f"part {i} "}, {"type": "text", "text": "two"}]
    return [
        {"messages": turns(q, a), "topic": f"t{i % 3}"},
        {"messages": turns(("human", f"q{i}"), ("gpt", f"a{i}"), role="from", text="value"), "meta": {}},
        {"messages": turns(("User", f"Q{i}"), ("ASSISTANT", f"A{i}")), "meta": {"k": i}, "topic": "t0"},
        {"messages": json.dumps(turns(("system", "Be brief."), q, a)), "meta": {"other": [i]}},
        {"messages": turns(q, a), "system": f"You are number {i}.", "topic": "t1"},
        {"messages": turns(q, a, ("user", "And again?"), ("assistant", f"{i}")), "tools": [], "extra": [{}, {"a": i}]},
        {"messages": [*turns(q), thinking], "meta": None},
        {"messages": [*turns(q), draft, *turns(("user", "no"), a)]},
        {"messages": called, "tools": TOOLS},
        {"messages": turns(*functions, role="from", text="value"), "tools": json.dumps(TOOLS)},
        {"messages": turns(("user", parts), ("assistant", "é😀\u2028\0 ok")), "day": f"2024-01-{i + 1:02d}"},
        {"messages": turns(("user", f"Say <|im_end|> {i}"), ("assistant", "<|im_start|> said"))},
        {"messages": turns(q, ("assistant", ""), ("user", f"Well {i}?"), a)},
        {"messages": turns(q, ("assistant", f"long {i} " * 200))},
    ]


BAD: list[tuple[Any, str]] = [
    ({"messages": turns(("user", "only"))}, "no assistant turn"),
    ({"messages": turns(("user", "q"), ("assistant", " "))}, "empty response"),
    ({"messages": turns(("alien", "q"), ("assistant", "a"))}, "has the unknown role 'alien'"),
    ({"messages": turns(("user", "q"), ("assistant", "a")), "images": ["x.png"]}, "column 'images' is not read"),
    ({"messages": turns(("user", "q"), ("assistant", "a")), "label": False}, "column 'label' is not read"),
    ({"messages": turns(("user", "q"), ("assistant", "\ud83d"))}, "not valid Unicode"),
    ({"messages": turns(("user", "q"), ("assistant", "a")), "score": float("nan")}, "column 'score' holds NaN"),
    ({"messages": [*turns(("user", "q")), {"role": "assistant", "content": "a", "weight": 0}]}, "excluded from train"),
    ({"messages": [*turns(("user", "q")), {"role": "assistant"}]}, "no tool call"),
    ({"instruction": "i", "output": "o"}, "missing column 'messages'"),
    ("a line", "the line holds str"),
    (None, "bad JSON"),
]
BAD_TOKENS: list[tuple[Any, str]] = [
    ({"messages": turns(("user", "far " * 800), ("assistant", "a"))}, "the prompt fills them; raise max_length"),
    ({"messages": [*turns(("user", "q")), {"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": "no JSON"}}]}]}, "are not JSON"),
]  # fmt: skip
NUM_EACH, NUM_DUPLICATES, NUM_PARQUET = 18, 22, 12


def write_corpus(folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """→ (number of rows, those that can be used)."""
    used = [row for i in range(NUM_EACH) for row in good(i)]
    lines = [json.dumps(row) for row in used + used[:NUM_DUPLICATES]]
    lines += ["{no json" if row is None else json.dumps(row) for row, _ in BAD + BAD_TOKENS]
    table = [{"messages": turns(("user", f"table {i}"), ("assistant", f"cell {i}")), "topic": "t2"}
             for i in range(NUM_PARQUET)]  # fmt: skip
    folder.mkdir()
    for name, start in (("a.jsonl", 0), ("b.jsonl", 1)):
        (folder / name).write_text("".join(line + "\n" for line in lines[start::2]))
    pq.write_table(pa.Table.from_pylist(table), folder / "c.parquet")
    (folder / "notes.txt").write_text("not data")
    return len(lines) + len(table), used + table


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Run, int, list[dict[str, Any]], str]:
    folder = tmp_path_factory.mktemp("mixed")
    num_rows, used = write_corpus(folder / "in")
    tokenizer = family_tokenizer("qwen3")
    tokenizer.save_pretrained(folder / "tokenizer")
    tree = tiny_run_config(folder / "run", proxy__epochs=1, clusters__num_clusters=4, trajectories__num_snapshots=2)
    tree["corpus"] = {"paths": [str(folder / "in")], "max_quarantined_share": 0.2}
    tree["proxy"] |= {"tokenizer": str(folder / "tokenizer"), "render": "chat_template", "max_length": MAX_LENGTH}
    del tree["proxy"]["train_tokenizer"]
    progress = Quiet()
    return s2l_ray.run(tree, progress=progress), num_rows, used, progress.lines()


def quarantined(run: Run, stage: str) -> list[str]:
    folder = run.stage(stage).storage.sub("quarantine")
    return [row["reason"] for entry in folder.list() for row in folder.read_table(entry.name).to_pylist()]


def test_all_rows_are_accounted_for(mixed):
    run, num_rows, used, said = mixed
    assert num_rows == 300
    corpus, tokens = (run.stage(name).manifest.row_counts for name in ("corpus", "tokens"))
    assert corpus["examples"] + corpus["duplicates"] + corpus["quarantined"] == num_rows
    assert (corpus["duplicates"], corpus["quarantined"]) == (NUM_DUPLICATES, len(BAD))
    assert tokens["examples"] + tokens["quarantined"] == corpus["examples"] == len(used) + len(BAD_TOKENS)
    for stage, bad in (("corpus", BAD), ("tokens", BAD_TOKENS)):
        reasons = quarantined(run, stage)
        assert len(reasons) == len(bad)
        for _, words in bad:
            assert sum(words in reason for reason in reasons) == 1, words
    assert tokens["cut"] == NUM_EACH
    assert f"{NUM_EACH} at {MAX_LENGTH} tokens (tokens)" in "\n".join(summary_lines(run))
    assert "contains files that are not read: notes.txt" in said
    assert run.stage("trajectories").manifest.row_counts["trajectories"] == tokens["examples"]


def test_every_used_rows_tokens_decode_to_its_text(mixed):
    run, _, used, _ = mixed
    tokenizer = family_tokenizer("qwen3")
    render = Renderer(tokenizer, "chat_template", MAX_LENGTH)
    rows: dict[bytes, dict[str, Any]] = {}
    for part, _ in part_rows(run.stage("corpus")):
        table = run.stage("corpus").storage.sub("examples").read_table(part_name(part), columns=["example_id", "row"])
        rows |= {example_id: json.loads(row) for example_id, row in zip(*(c.to_pylist() for c in table), strict=True)}
    sequences: dict[bytes, list[tuple[str, str]]] = {}
    for part, _ in part_rows(run.stage("tokens")):
        for tokens in run.stage("tokens").storage.sub("parts").read_table(part_name(part)).to_pylist():
            response = [i for i, m in zip(tokens["input_ids"], tokens["response_mask"], strict=True) if m]
            both = tokenizer.decode(tokens["input_ids"]), tokenizer.decode(response)
            sequences.setdefault(tokens["example_id"], []).append(both)
    assert len(sequences) == len(used)
    for example_id, decoded in sequences.items():
        chat = to_conversation(rows[example_id], "messages", CorpusConfig(paths=["a"]))
        assert chat.id == example_id
        texts = render.texts(chat.turns, chat.tools)
        assert len(texts) == len(decoded)
        for text, (whole, answer) in zip(texts, decoded, strict=True):
            expected = "".join(text.text[a:b] for a, b in text.responses)
            is_cut = len(whole) < len(text.text.rstrip())
            assert text.text.startswith(whole) or not is_cut
            assert expected.startswith(answer.rstrip("\ufffd")) if is_cut else answer == expected
            assert is_cut == ("long" in expected)
            assert "draft" not in answer


def test_the_subset_holds_the_rows_as_they_were(mixed):
    run, _, used, _ = mixed
    known = Counter(json.dumps(row, sort_keys=True) for row in used)
    for name, stage in run.subsets.items():
        lines = [json.loads(line) for line in stage.storage.read_bytes("subset.jsonl").splitlines()]
        assert len(lines) == stage.manifest.row_counts["examples"] > 20, name
        own = [{k: v for k, v in line.items() if not k.startswith("s2l_")} for line in lines]
        assert not Counter(json.dumps(row, sort_keys=True) for row in own) - known
        table = stage.storage.read_table("subset.parquet")
        assert table.num_rows == len(lines)
        assert table.schema.field("meta").type == pa.string(), "objects of differing keys are JSON text"
        assert stage.storage.read_table("ids.parquet")["facet:topic"].to_pylist() == [r.get("topic") for r in lines]
