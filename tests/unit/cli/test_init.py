"""`s2l init`: what it says of rows that a run could not use, of long ones, of several files; settings to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from s2l_ray.cli import main
from s2l_ray.config import load_config
from s2l_ray.testing.tiny import write_jsonl

PAIRS = [{"prompt": f"Say {n}.", "completion": f"It is {n}."} for n in range(40)]
LIMIT = "A run stops if more than 1% of the rows cannot be used (corpus.max_quarantined_share)"


@pytest.fixture
def init(tmp_path, monkeypatch, capsys):
    """Call `s2l init` in an empty folder and return what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        assert main(["init", *arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return call


def written(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(Path(name).read_text())
    load_config(tree)
    return tree


def test_rows_that_cannot_be_read_are_counted(init):
    write_jsonl(Path("a.jsonl"), PAIRS)
    with Path("a.jsonl").open("a") as file:
        file.write("{broken\n" * 3)
    told = init("a.jsonl")
    assert "3 of these rows cannot be used: bad JSON" in told
    assert LIMIT in told


def test_usable_rows_bring_no_warning(init):
    write_jsonl(Path("a.jsonl"), PAIRS)
    assert "cannot be used" not in init("a.jsonl")


def test_files_that_the_first_rows_do_not_reach_are_looked_into(init):
    """Only the first 100 rows are looked at, which are all of the first file."""
    write_jsonl(Path("a.jsonl"), PAIRS * 5)
    write_jsonl(Path("b.jsonl"), [{"question": "q", "answer": "a"}] * 30)
    write_jsonl(Path("c.jsonl"), PAIRS)
    told = init("a.jsonl", "b.jsonl", "c.jsonl")
    assert "Looked at the first 100 rows of 1 file: columns ['prompt', 'completion']." in told
    assert "10 of the first 10 rows of" in told
    assert "b.jsonl cannot be used: missing column 'prompt'" in told
    assert "c.jsonl" not in told
    assert LIMIT in told


def test_rows_are_judged_as_a_run_reads_them(init):
    """Parquet has null for keys that only other rows' tools have; a run does not count them."""
    tools = [[{"name": "add", "description": "adds"}], [{"name": "sub", "strict": True}]]
    messages = [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "Done."}]
    rows = [{"messages": messages, "tools": tools[n % 2]} for n in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), "a.parquet")
    assert "cannot be used" not in init("a.parquet")


@pytest.mark.parametrize(("model", "length"), [([], 2048), (["--model", "me/long"], 4096)])
def test_the_proposed_length_is_one_that_the_model_has(init, model, length):
    """The default proxy has 2,048 positions: a run with more would be refused."""
    write_jsonl(Path("a.jsonl"), [{"prompt": "p", "completion": "word " * 4000}] * 5)
    told = init("a.jsonl", *model)
    assert written("a.yaml")["proxy"]["max_length"] == length
    assert f"5 of them are longer than proxy.max_length={length}: they are truncated there" in told


@pytest.mark.parametrize("order", ["before", "after"])
def test_settings_say_what_init_cannot_see(init, order):
    write_jsonl(Path("a.jsonl"), [{"text": "T{n}", "label": "L", "kind": "ab"[n % 2]} for n in range(40)])
    settings = ["corpus.template.prompt={text}", "corpus.template.response={label}", "selection.budgets=[0.5]"]
    files = ["a.jsonl", "--out", "my.yaml"]
    told = init(*settings, *files) if order == "before" else init(*files, *settings)
    assert "Format template." in told
    tree = written("my.yaml")
    assert tree["corpus"] == {"paths": ["a.jsonl"], "template": {"prompt": "{text}", "response": "{label}"}}
    assert tree["selection"] == {"budgets": [0.5], "selectors": ["s2l_robust", "s2l", "random"]}


@pytest.mark.parametrize(
    ("settings", "trajectories"),
    [
        ([], {"source": "hybrid"}),
        (["selection.selectors=[s2l_robust, ifd]"], {"source": "hybrid"}),
        (["selection.selectors=[s2l, forgetting]"], None),  # reads what training does not compute
        (["trajectories.num_snapshots=5"], {"num_snapshots": 5}),
    ],
)
def test_losses_come_from_training_too_unless_something_needs_or_says_otherwise(init, settings, trajectories):
    write_jsonl(Path("a.jsonl"), PAIRS)
    init("a.jsonl", *settings)
    assert written("a.yaml").get("trajectories") == trajectories


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.jsonl", "corpus.templat=x"], "corpus.templat: unknown key; did you mean 'template'?"),
        (["corpus.format=auto"], "the corpus needs exactly one of paths"),
        (["corpus.huggingface={name: a/b}"], "no file is named, so there is nothing to look at"),
        (["TIGER-Lab/MathInstruct"], "a dataset on the Hugging Face hub is named by corpus.huggingface.name"),
    ],
)
def test_what_names_no_data_is_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("a.jsonl"), PAIRS)
    assert main(["init", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.yaml"))


def test_the_next_commands_can_be_copied(init):
    write_jsonl(Path("a.jsonl"), PAIRS)
    told = init("a.jsonl", "--out", "my file.yaml")
    assert "\n  s2l run 'my file.yaml' --dry-run\n  s2l run 'my file.yaml'\n" in told


CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
ASKED = {"role": "user", "content": "Add 1."}
ANSWER = {"role": "assistant", "content": "2."}
WITH_CALL = [ASKED, ANSWER | {"tool_calls": [CALL]}, {"role": "tool", "content": "2"}, ANSWER]
WITH_REASONING = [ASKED, ANSWER | {"reasoning_content": "one and one"}]


@pytest.mark.parametrize(
    ("row", "what", "model"),
    [
        ({"messages": WITH_CALL}, "tools or tool calls", "Qwen/Qwen2.5-0.5B-Instruct"),
        (
            {"messages": [ASKED, ANSWER], "tools": [{"name": "add"}]},
            "tools or tool calls",
            "Qwen/Qwen2.5-0.5B-Instruct",
        ),
        ({"messages": WITH_REASONING}, "separate reasoning", "Qwen/Qwen3-0.6B"),
        ({"messages": [*WITH_CALL, *WITH_REASONING]}, "separate reasoning", "Qwen/Qwen3-0.6B"),
    ],
)
def test_a_model_with_a_chat_template_is_proposed_where_only_one_can_write_the_rows(init, row, what, model):
    """The default proxy has none, so its run would be refused."""
    write_jsonl(Path("a.jsonl"), [row] * 5)
    told = init("a.jsonl")
    assert f"5 of them have {what}, which only a chat template can write" in told
    assert f"the proxy is {model}, which is larger" in told
    proxy = written("a.yaml")["proxy"]
    assert (proxy["model"], proxy["render"]) == (model, "chat_template")


def test_a_model_that_was_named_stays_the_proxy(init):
    write_jsonl(Path("a.jsonl"), [{"messages": WITH_CALL}] * 5)
    assert "the tokenizer of me/mine must have one" in init("a.jsonl", "--model", "me/mine")
    assert written("a.yaml")["proxy"]["model"] == "me/mine"
    init("a.jsonl", "proxy.render=plain", "--out", "b.yaml")  # the user's word counts
    assert "--model" not in Path("b.yaml").read_text()


def test_plain_chats_need_no_template(init):
    write_jsonl(Path("a.jsonl"), [{"messages": [ASKED, ANSWER]}] * 5)
    assert "template" not in init("a.jsonl")
    assert "render" not in written("a.yaml")["proxy"]


def test_tools_count_for_the_length(init):
    tools = [{"name": "add", "description": "word " * 700}]
    write_jsonl(Path("a.jsonl"), [{"messages": [ASKED, ANSWER], "tools": tools}] * 5)
    init("a.jsonl")
    assert written("a.yaml")["proxy"]["max_length"] == 2048


def test_the_alpaca_prompt_counts_for_the_length(init):
    write_jsonl(Path("a.jsonl"), [{"instruction": "word " * 160, "output": "x"}] * 5)  # 228 tokens, 256 with the prompt
    init("a.jsonl")
    init("a.jsonl", "proxy.render=plain", "--out", "b.yaml")
    assert (written("a.yaml")["proxy"]["max_length"], written("b.yaml")["proxy"]["max_length"]) == (512, 256)


@pytest.mark.parametrize(
    ("settings", "subsets"),
    [
        ([], ["full", "s2l_robust-0.11", "random-0.11"]),
        (["selection.selectors=[ifd]", "selection.budgets=[20]"], ["full", "ifd-20"]),
        (["selection.selectors=[random]"], ["full", "random-0.11"]),
    ],
)
def test_the_file_can_measure_what_subsets_are_worth(init, settings, subsets):
    """Examples held out now are not trained on later; the target's section only has to be uncommented."""
    write_jsonl(Path("a.jsonl"), PAIRS)
    init("a.jsonl", *settings)
    assert written("a.yaml")["heldout"] == {"share": 0.02}
    text = Path("a.yaml").read_text()
    at = text.index("# target:")
    block = text[at : text.index("# s2l explain", at)].replace("\n# ", "\n").removeprefix("# ")
    assert load_config(yaml.safe_load(text[:at] + block)).target_subsets() == subsets


@pytest.mark.parametrize(
    ("row", "cure"),
    [
        ({"text": "A story."}, """corpus.template.prompt='""' corpus.template.response='{text}'"""),
        (
            {"chosen": [ASKED, ANSWER], "rejected": [ASKED, ANSWER]},
            "To train on the good answers, rename chosen to messages",
        ),
        (
            {"prompt": "p", "chosen": "c", "rejected": "r"},
            "corpus.template.prompt='{prompt}' corpus.template.response='{chosen}'",
        ),
    ],
)
def test_what_is_no_corpus_of_answers_is_refused_with_what_helps(init, capsys, row, cure):
    write_jsonl(Path("a.jsonl"), [row] * 5)
    assert main(["init", "a.jsonl"]) == 2
    told = capsys.readouterr().err
    assert cure in told
    if "corpus.template.prompt" in cure:
        init("a.jsonl", *shlex.split(cure))
        written("a.yaml")
