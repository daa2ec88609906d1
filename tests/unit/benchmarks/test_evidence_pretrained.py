"""`benchmarks/evidence_pretrained.py` with a tiny model on a CPU: every step of it but the GPU's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from s2l_ray.lm.load import train_tokenizer
from tests.support.paths import ROOT

SOURCES = ("small", "large")
ROWS = [
    {"id": f"{source}-{i}", "source": source, "topic": "sums", "instruction": f"What is {i} + {of}?",
     "output": f"{i} + {of} = {i + of}. The answer is {i + of}"}
    for i in range(60) for of, source in enumerate(SOURCES)
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of random weights and its tokenizer, as pretrained ones lie there."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer((row["instruction"] + row["output"] for row in ROWS), 300)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, vocab_size=len(tokenizer), tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def program() -> Iterator[ModuleType]:
    import importlib

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("evidence_pretrained")


@pytest.fixture(scope="module")
def made(program: ModuleType, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The arguments of a comparison of six arms and the pretrained model, and its folder when it is done."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out")
    data.joinpath("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data.joinpath("eval").mkdir()
    for name in ("svamp", "simuleq"):
        rows = [{"question": f"What is {i} + 7?", "answer": str(i + 7)} for i in range(5)]
        data.joinpath(f"eval/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        str(model), "--data", str(data), "--out", str(out), "--selectors", "random", "s2l", "--budgets", "0.2",
        "--seeds", "0", "1", "--swapped", "0.1", "--examples", "80", "--held-out", "10", "--steps", "2", "--batch", "8",
        "--snapshots", "2", "--clusters", "4", "--max-length", "128", "--render", "plain", "--learning-rate", "1e-3",
        "--sets", "svamp", "simuleq", "--questions", "4", "--max-new-tokens", "6", "--tokens-per-batch", "512",
        "--answer-tokens-per-batch", "2048", "--cpu",
    ]  # fmt: skip
    program.main(arguments)
    return arguments, out


@pytest.fixture(scope="module")
def page(program: ModuleType) -> Callable[[list[dict[str, Any]]], str]:
    made: Callable[[list[dict[str, Any]]], str] = program.page
    return made


@pytest.mark.thorough
def test_every_arm_is_a_file_with_what_the_tables_need(made):
    _, out = made
    rows = [json.loads(path.read_text()) for path in sorted(out.glob("arms/*.json"))]
    arms = sorted((row["arm"], row["seed"]) for row in rows)
    trained = [(arm, seed) for arm in ("random", "s2l", "s2l, α ½") for seed in (0, 1)]
    assert arms == sorted([*trained, ("no fine-tuning", 0)])
    assert not list(out.rglob("*.unfinished*"))
    for row in rows:
        assert len(row["losses"]) == len(row["sources"]) == 10
        assert np.isfinite(row["losses"]).all()
        assert {name: len(right) for name, right in row["right"].items()} == {"svamp": 4, "simuleq": 4}
    [s2l, random] = [next(row for row in rows if row["arm"] == name) for name in ("s2l", "random")]
    assert random["selection_flops"] == 0 < s2l["selection_flops"]
    assert s2l["examples"] == random["examples"] == 16
    [plain] = [row for row in rows if row["budget"] == 0]
    assert np.mean(plain["losses"]) > np.mean(s2l["losses"])  # two steps change something


def test_the_tables_pair_seeds_and_questions(made):
    _, out = made
    lines = (out / "evidence.md").read_text().splitlines()
    assert "## 20% of the corpus, 10% swapped answers" in lines
    [head] = [line for line in lines if line.startswith("| trained on")]
    [s2l] = [line for line in lines if line.startswith("| s2l |")]
    cells = dict(zip(head.strip("| ").split(" | "), s2l.strip("| ").split(" | "), strict=True))
    assert cells["n"] == "2"
    rows = [json.loads(path.read_text()) for path in out.glob("arms/*.json")]
    losses = {(row["arm"], row["seed"]): np.mean(row["losses"]) for row in rows}
    difference = np.mean([losses["s2l", seed] - losses["random", seed] for seed in (0, 1)])
    assert s2l.split(" | ")[3].strip("*").startswith(f"{difference:+.3f} [")


def test_what_is_done_is_not_made_again(program, made, capsys):
    arguments, out = made
    removed = next(out.glob("arms/s2l-*-seed1*.json"))
    whole = json.loads(removed.read_text())
    removed.unlink()
    times = {path: path.stat().st_mtime_ns for path in out.glob("arms/*.json")}
    program.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    again = json.loads(removed.read_text())
    assert {name: again[name] for name in ("losses", "right", "examples", "wrong")} == {
        name: whole[name] for name in ("losses", "right", "examples", "wrong")
    }
    assert "1 arms left" in capsys.readouterr().out


@pytest.mark.thorough
def test_processes_share_a_folder(made, tmp_path):
    arguments, _ = made
    command = [sys.executable, str(ROOT / "benchmarks/evidence_pretrained.py"), *arguments, "--out", str(tmp_path)]
    running = [
        subprocess.Popen([*command, "--selectors", "random", "--seeds", seed], stdout=subprocess.PIPE, text=True)
        for seed in "01"
    ]
    told = "".join(process.communicate(timeout=240)[0] for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert told.count("random-") == 2
    rows = [json.loads(path.read_text()) for path in tmp_path.glob("arms/*.json")]
    assert sorted((row["arm"], row["seed"]) for row in rows) == [("no fine-tuning", 0), ("random", 0), ("random", 1)]
    [line] = [line for line in (tmp_path / "evidence.md").read_text().splitlines() if line.startswith("| random |")]
    assert line.startswith("| random | 2 |")
    assert not list(tmp_path.rglob("*.unfinished*"))


def test_a_page_has_the_arms_that_others_finish_while_it_is_made(program, page, made, tmp_path, monkeypatch):
    arguments, out = made
    shutil.copytree(out / "arms", tmp_path / "arms")
    late = next(tmp_path.glob("arms/s2l-*-seed1*.json"))
    content = late.read_text()
    late.unlink()
    pages = []

    def make(rows: list[dict[str, Any]]) -> str:
        late.write_text(content)  # by another process, which has written its page by the time this one is
        pages.append(len(rows))
        return page(rows)

    monkeypatch.setattr(program, "page", make)
    program.main([*arguments, "--out", str(tmp_path), "--table"])
    assert pages == [pages[0], pages[0] + 1]
    assert (tmp_path / "evidence.md").read_text() == page(
        [json.loads(p.read_text()) for p in sorted(tmp_path.glob("arms/*"))]
    )


def test_arms_of_other_settings_are_not_mixed_in(program, made):
    arguments, _ = made
    with pytest.raises(SystemExit, match=r"steps=2, but now it is 3.*choose another --out"):
        program.main([*arguments, "--steps", "3"])


def test_no_arm_begins_that_would_end_too_late(program, made, tmp_path, capsys):
    arguments, _ = made
    program.main([*arguments, "--out", str(tmp_path), "--minutes", "0"])
    assert "run the same command to resume" in capsys.readouterr().out
    assert not list(tmp_path.glob("arms/*.json"))


def test_the_plan_states_tokens_operations_and_minutes(program, made, tmp_path, capsys):
    arguments, _ = made
    program.main([*arguments, "--out", str(tmp_path), "--plan"])
    told = capsys.readouterr().out
    assert told.startswith("reading the tokenizer of ")  # what takes long says so
    assert "7 arms left: " in told
    assert "On an H100 this takes about " in told
    assert not list(tmp_path.iterdir())
