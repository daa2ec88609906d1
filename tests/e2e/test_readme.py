"""Commands of README and manual: run at a reduced size, or checked as far as it goes without a hub and a cluster. That
all of them are valid is shown by tests/unit/test_docs.py."""

from __future__ import annotations

import argparse
import re
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
from tests.support.docs import PAGES, ROOT, blocks, commands

SMALL = ["corpus.quickstart.num_examples=600", "proxy.epochs=1", "trajectories.num_snapshots=3", "target.max_steps=4",
         "clusters.num_clusters=8"]  # fmt: skip


def of(program: str, *subcommand: str) -> list[list[str]]:
    """All such commands of README and manual, without the program."""
    found = [words for page in PAGES for words in commands(page)]
    return [c[1:] for c in found if c[0] == program and tuple(c[1 : 1 + len(subcommand)]) == subcommand]


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
    """The manual's my.yaml for a cluster, with a corpus where it says; the resources are those of this machine."""
    import zstandard

    monkeypatch.chdir(tmp_path)
    rows = b"".join(b'{"instruction": "Add 1 and %d", "output": "%d"}\n' % (n, n + 1) for n in range(50))
    base, _, query = s3_uri.partition("?")
    Storage.open(f"{base}/data?{query}").write_bytes("a.jsonl.zst", zstandard.compress(rows))
    [text] = blocks(ROOT / "docs/clusters/aws.md", "yaml")
    tree = {name: value for name, value in yaml.safe_load(text).items() if name != "resources"}
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump({"name": "my", **on(s3_uri, tree)}))
    return path


@pytest.mark.timeout(900)
def test_the_quickstart_from_the_first_command_to_the_last(tmp_path, monkeypatch, capsys, ray_cluster):
    """As they stand, in their order; the run itself at a reduced size."""
    monkeypatch.chdir(tmp_path)
    words = [words[1:] for words in commands(ROOT / "README.md") if words[0] == "s2l"]
    tour = [c for c in words if {"quickstart", "runs/quickstart"} & set(c)]
    assert [c[0] for c in tour] == ["run", "inspect", "select", "finetune", "verify"]
    for command in tour:
        small = SMALL if command[0] == "run" else ["target.max_steps=4"] if command[0] == "finetune" else []
        assert main([*command, *small]) == 0, capsys.readouterr().err
        said = capsys.readouterr().out
        if command[0] == "run":
            for name in ("full", "s2l_robust-0.2", "random-0.2"):
                assert any(line.split()[:1] == [name] for line in said.splitlines()), "the table that README promises"
        if command[0] == "select":
            assert "subset/s2l_robust-0.3-" in said
    run = load_run("runs/quickstart")
    assert {"s2l_robust-0.2", "random-0.2", "s2l_robust-0.3"} <= set(run.subsets)
    assert {"full", "s2l_robust-0.2", "random-0.2", "s2l_robust-0.3"} <= set(run.targets)


def test_a_run_of_ones_own_data_is_dry_run(my_yaml, capsys):
    # The hub's model is not here, which is all that is wrong.
    assert main(["run", "my.yaml", "--dry-run"]) == 2
    out, err = capsys.readouterr()
    assert "'EleutherAI/pythia-70m-deduped' cannot be loaded" in err
    assert len(re.findall("would be refused", err)) == 1
    assert "\n  - " not in err
    assert "Dry run: nothing was started." in out


def test_finetuning_asks_for_what_there_is(my_yaml):
    asked = [c for c in of("s2l", "finetune") if "runs/quickstart" not in c]
    assert len(asked) >= 4
    for command in asked:
        parsed = parse(command)
        _refuse_selecting(parsed.overrides)
        overrides = parsed.overrides or ["target.model=m"]
        named = parse_subset_name(parsed.subset or "s2l-0.11")
        assert named is not None
        made = _finetuning(load_config(str(my_yaml)), overrides, parsed.budget or named.budget, named.selector)
        assert made.target is not None


def test_sweeps_are_valid_up_to_their_start(my_yaml):
    asked = of("s2l", "sweep")
    assert len(asked) >= 2
    for command in asked:
        parsed = parse(command)
        overrides = [*parsed.overrides, "target.model=m", "heldout.share=0.1"]
        resolve(parsed.config, overrides, parsed.within, parsed.find_smallest)
    assert "s2l sweep maths_curve corpus.paths=[train.jsonl]" in (ROOT / "docs/sweeps.md").read_text()
    resolve("maths_curve", ["corpus.paths=[train.jsonl]"], None)


def test_jobs_are_prepared_and_their_programs_are_there(my_yaml, tmp_path):
    shutil.copy(my_yaml, tmp_path / "data.yaml")
    asked = [c for c in of("s2l", "submit") if c[1].endswith(".yaml")]
    assert len(asked) >= 2
    for number, command in enumerate(asked):
        options = parse(command)
        assert isinstance(options, argparse.Namespace)
        folder = tmp_path / f"job-{number}"
        folder.mkdir()
        prepared = prepare(options, parse([options.command, options.what, *options.overrides]), folder)
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
