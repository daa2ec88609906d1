"""Every file in examples/ is dry-run, with small stand-ins for its models and data; the notebook's commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import s2l_ray
from s2l_ray.cli import main, parse
from s2l_ray.config import load_config
from s2l_ray.testing.tiny import SHAPES, write_jsonl
from tests.support.families import family_tokenizer
from tests.support.paths import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

ROWS: dict[str, Any] = {
    "alpaca": {"instruction": "Add.", "input": "{n} and 1", "output": "It is more."},
    "chat": {"messages": [{"role": "user", "content": "{n}?"}, {"role": "assistant", "content": "Yes, {n}."}]},
    "sharegpt_tools": {
        "conversations": [
            {"from": "human", "value": "Add {n}."},
            {"from": "function_call", "value": json.dumps({"name": "add", "arguments": {"a": 1}})},
            {"from": "observation", "value": "3"}, {"from": "gpt", "value": "It is 3, {n}."},
        ],
        "tools": json.dumps([{"name": "add", "description": "adds", "parameters": {"type": "object"}}]),
        "dataset": "d{n}",
    },
    "parquet_on_s3": {"question": "{n}?", "answer": "{n}.", "dataset": "a", "language": "en", "topic": "sums"},
}  # fmt: skip
PAIR = {"prompt": "Say {n}.", "completion": "It is {n}.", "source": "s"}


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(json.dumps(ROWS.get(name, PAIR)).replace("{n}", str(n))) for n in range(80)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a small model's config and a tokenizer with a chat template."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = family_tokenizer("qwen2.5")
    tokenizer.save_pretrained(folder)
    fields = SHAPES["llama"] | {"vocab_size": len(tokenizer), "max_position_embeddings": 4096}
    config = AutoConfig.for_model(**fields)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def stood_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> Any:
    """Overrides that put this machine's data and models in the place of the example's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def overrides(path: Path) -> list[str]:
        import datasets

        tree = yaml.safe_load(path.read_text())
        rows, made = rows_of(path.stem), []
        if tree["corpus"].get("huggingface"):
            datasets.Dataset.from_list(rows).save_to_disk("saved")
            made.append("corpus.huggingface={name: saved}")
        for where in tree["corpus"].get("paths", []):
            if where.startswith("s3://"):
                Path("data").mkdir(exist_ok=True)
                datasets.Dataset.from_list(rows).to_parquet("data/a.parquet")
                made += ["corpus.paths=[data/]", "run_dir=run"]
            else:
                write_jsonl(Path(where), rows)
        for files in tree.get("heldout", {}).get("files", {}).values():
            write_jsonl(Path(files[0]), rows[:5])
        for task in (tree.get("evaluation") or {}).get("custom", {}).values():
            write_jsonl(Path(task["files"][0]), rows[:5])
        sections = [section for section in ("proxy", "target") if "model" in tree.get(section, {})]
        return made + [f"{section}.model={model}" for section in sections]

    return overrides


def test_there_are_ten_and_the_list_names_them():
    assert len(EXAMPLES) == 10
    listed = re.findall(r"^\| \[`(\w+\.yaml)`\]\(\1\) \|", (ROOT / "examples/README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.name for path in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_dry_runs(path, stood_in, capsys):
    changes = stood_in(path)
    assert main(["run", str(path), *changes, "--dry-run"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert f"\n{path.stem}: " in out
    assert "Dry run: nothing was started." in out


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_says_how_to_run_it(path):
    lines = path.read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=../s2l_ray/config/schema.json"
    assert load_config(str(path)).name == path.stem
    [command] = [line.removeprefix("# s2l ") for line in lines if line.startswith("# s2l ")]
    parsed = parse(command.split())
    load_config(str(ROOT / (parsed.config if "config" in parsed else parsed.what)), parsed.overrides)


def test_the_notebook_is_valid_and_its_cells_compile():
    import nbformat

    notebook = nbformat.read(ROOT / "examples/quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 8
    for cell in code:
        compile(cell.source, "cell", "exec")
        assert cell.outputs == [], "outputs are not stored: they would go out of date"
        for name in re.findall(r"s2l_ray\.(\w+)\(", cell.source):
            assert hasattr(s2l_ray, name)
