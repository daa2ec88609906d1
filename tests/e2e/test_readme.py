"""README's commands: each is run, at a reduced size, or checked as far as it goes without a hub, a cluster and S3."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_ray.artifacts.run import load_run
from s2l_ray.cli import main, parse
from s2l_ray.config import load_config
from s2l_ray.config.subset_names import parse_subset_name
from s2l_ray.storage.folder import Storage
from s2l_ray.submission.prepare import prepare
from s2l_ray.sweeps.resolve import resolve
from s2l_ray.workflow.commands import _finetuning, _refuse_selecting
from tests.support.paths import ROOT

README = ROOT / "README.md"

SMALL = ["corpus.quickstart.num_examples=600", "proxy.epochs=1", "trajectories.num_snapshots=3", "target.max_steps=4",
         "clusters.num_clusters=8"]  # fmt: skip


def blocks(language: str = "") -> list[str]:
    """Contents of the fenced blocks of this language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [content for name, content in fenced if name == language]


def commands() -> list[list[str]]:
    """Every command of the plain blocks; what stands for more (`…`) is left out."""
    found = []
    for block in blocks():
        for line in block.splitlines():
            for part in line.partition(" #")[0].split("&&"):
                words = [word for word in shlex.split(part) if word != "…"] if "►" not in part else []
                found += [words] if words and re.fullmatch(r"[a-z0-9]+", words[0]) else []
    return found


def of(program: str, *subcommand: str) -> list[list[str]]:
    return [c[1:] for c in commands() if c[0] == program and tuple(c[1 : 1 + len(subcommand)]) == subcommand]


def configuration(block: str) -> dict[str, Any]:
    [text] = [b for b in blocks("yaml") if block in b]
    tree: dict[str, Any] = yaml.safe_load(text)
    return tree


def on(s3_uri: str, tree: Any) -> Any:
    """The same on the tests' S3."""
    base, _, query = s3_uri.partition("?")
    if isinstance(tree, dict):
        return {key: on(s3_uri, value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [on(s3_uri, value) for value in tree]
    return re.sub(r"^s3://my-bucket(.*)$", rf"{base}\1?{query}", tree) if isinstance(tree, str) else tree


@pytest.fixture
def my_yaml(tmp_path, monkeypatch, s3_uri) -> Path:
    """README's my.yaml, with a corpus where it says."""
    import zstandard

    monkeypatch.chdir(tmp_path)
    rows = b"".join(b'{"instruction": "Add 1 and %d", "output": "%d"}\n' % (n, n + 1) for n in range(50))
    base, _, query = s3_uri.partition("?")
    Storage.open(f"{base}/data?{query}").write_bytes("a.jsonl.zst", zstandard.compress(rows))
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(on(s3_uri, configuration("name: my"))))
    return path


def test_every_command_is_looked_at_by_one_of_these_tests():
    known = {"s2l": {"run", "inspect", "select", "verify", "finetune", "sweep", "submit"}, "pip": {"install"},
             "ray": {"job"}, "pytest": set()}  # fmt: skip
    assert len(commands()) >= 15
    for command in commands():
        assert command[0] in known, command
        assert len(command) == 1 or command[1] in known[command[0]], command


@pytest.mark.parametrize("file", ["README.md", "docs/scale.md", "cluster_configs/README.md"])
def test_lines_are_as_long_as_those_of_the_code(file):
    """But for rows of tables, which Markdown cannot break."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_what_is_to_be_installed_is_declared():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in of("pip", "install"):
        assert (ROOT / command[command.index("-c") + 1]).is_file()
        [what] = [word for word in command if word.startswith(".")]
        extras = re.fullmatch(r"\.\[([a-z,]+)\]", what)
        assert extras is not None
        assert set(extras.group(1).split(",")) <= set(declared)
    assert of("pytest") == [[]]


@pytest.mark.timeout(900)
def test_the_quickstart_from_the_first_command_to_the_last(tmp_path, monkeypatch, capsys, ray_cluster):
    """As they stand, in their order; the run itself at a reduced size."""
    monkeypatch.chdir(tmp_path)
    tour = [c[1:] for c in commands() if c[0] == "s2l" and {"quickstart", "runs/quickstart"} & set(c)]
    assert [c[0] for c in tour] == ["run", "inspect", "select", "finetune", "verify"]
    for command in tour:
        small = SMALL if command[0] == "run" else ["target.max_steps=4"] if command[0] == "finetune" else []
        assert main([*command, *small]) == 0, capsys.readouterr().err
        said = capsys.readouterr().out
        if command[0] == "run":
            for name in ("full", "s2l-0.2", "random-0.2"):
                assert any(line.split()[:1] == [name] for line in said.splitlines()), "the table that README promises"
        if command[0] == "select":
            assert "subset/s2l-0.3-" in said
    run = load_run("runs/quickstart")
    assert {"s2l-0.2", "random-0.2", "s2l-0.3"} <= set(run.subsets)
    assert {"full", "s2l-0.2", "random-0.2", "s2l-0.3"} <= set(run.targets)


def test_runs_of_ones_own_data_are_dry_run(my_yaml, capsys):
    for command in of("s2l", "run"):
        if command[1] == "my.yaml":
            # The hub's model is not here, which is all that is wrong.
            assert main([*command, *["--dry-run"] * ("--dry-run" not in command)]) == 2
            out, err = capsys.readouterr()
            assert "'EleutherAI/pythia-70m-deduped' cannot be loaded" in err
            assert len(re.findall("would be refused", err)) == 1
            assert "\n  - " not in err
            assert "Dry run: nothing was started." in out


def test_finetuning_asks_for_what_there_is(s3_uri):
    tree = configuration("name: my")
    asked = [c for c in of("s2l", "finetune") if "runs/quickstart" not in c]
    assert len(asked) == 3
    for command in asked:
        parsed = parse(command)
        _refuse_selecting(parsed.overrides)
        overrides = parsed.overrides or ["target.model=m"]
        named = parse_subset_name(parsed.subset or "s2l-0.11")
        assert named is not None
        made = _finetuning(load_config(tree), overrides, parsed.budget or named.budget, named.selector)
        assert made.target is not None
    target = configuration("subsets: [s2l-0.11, random-0.11]")
    whole = load_config({**tree, **target, "selection": {"budgets": [0.11], "selectors": ["s2l", "random"]}})
    assert whole.target_subsets() == ["s2l-0.11", "random-0.11"]


def test_sweeps_are_valid_up_to_their_start(my_yaml):
    for command in of("s2l", "sweep"):
        if command[1] == "my.yaml":
            parsed = parse(command)
            overrides = [*parsed.overrides, "target.model=m", "heldout.share=0.1"]
            resolve(parsed.config, overrides, parsed.within, parsed.find_smallest)
    assert "s2l sweep maths_curve corpus.paths=[train.jsonl]" in README.read_text()
    resolve("maths_curve", ["corpus.paths=[train.jsonl]"], None)


def test_jobs_are_prepared_and_their_programs_are_there(my_yaml, tmp_path):
    for command in of("s2l", "submit"):
        options = parse(command)
        assert isinstance(options, argparse.Namespace)
        prepared = prepare(options, parse([options.command, options.what, *options.overrides]), tmp_path)
        assert "s2l_ray.cli run" in prepared.entrypoint
    for command in of("ray", "job", "submit"):
        program = command[command.index("--") + 1 :]
        assert program[0] == "python"
        assert (ROOT / program[1]).is_file()
        shutil.copy(my_yaml, tmp_path / "there.yaml")
        done = subprocess.run(
            [sys.executable, str(ROOT / program[1]), *program[2:], "--dry-run"], capture_output=True, text=True,
            cwd=my_yaml.parent,
        )  # fmt: skip
        assert (done.returncode, "cannot be loaded" in done.stderr) == (2, True), done.stderr  # the hub's model


def test_the_python_example_names_what_there_is():
    import s2l_ray

    [example] = blocks("python")
    compile(example, "README.md", "exec")
    for name in re.findall(r"s2l_ray\.(\w+)\(", example):
        assert callable(getattr(s2l_ray, name))
