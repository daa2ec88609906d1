"""Commands in processes of their own, at once and interrupted, on one run: nothing that one has made is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.chain import NOTE
from s2l_ray.artifacts.run import CONFIG, load_run
from s2l_ray.cli import main
from s2l_ray.testing.tiny import tiny_run_config

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(900)]

S2L = [sys.executable, "-m", "s2l_ray.cli"]


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished.storage.local_path(), tmp_path / "run"))


def config(folder: Path, **changes: Any) -> str:
    path = folder.with_name(f"{len(list(folder.parent.iterdir()))}.json")
    path.write_text(json.dumps(tiny_run_config(folder, **changes)))
    return str(path)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*S2L, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


@pytest.mark.thorough
def test_ten_selects_at_once_beside_a_run_are_all_in_the_run(folder):
    before = set(load_run(str(folder)).subsets)
    budgets = [20 + number for number in range(9)] + [0.2]
    started = [start("run", config(folder, selection__budgets=[0.15]))]
    started += [start("select", str(folder), "--budget", str(budget)) for budget in budgets]
    for process in started:
        out, error = process.communicate(timeout=800)
        assert process.returncode == 0, out + error
    run = load_run(str(folder))
    expected = {f"s2l-{budget!r}" for budget in [*budgets, 0.15]}
    assert set(run.subsets) == before | expected
    for budget in budgets[:9]:
        assert run.subsets[f"s2l-{budget}"].manifest.row_counts["examples"] == budget
    assert not list((folder / "locks").iterdir())
    assert run.config.selection.budgets == [0.15]


@pytest.mark.thorough
def test_select_finds_the_run_without_its_note_and_writes_it_anew(folder):
    noted = (folder / NOTE).read_bytes()
    for damage in (None, b'{"stages": {"cor'):
        (folder / NOTE).unlink()
        if damage is not None:
            (folder / NOTE).write_bytes(damage)
        process = start("select", str(folder), "--budget", "31")
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, out + error
        assert "the run's stages were found by their manifests" in error
        assert (folder / NOTE).read_bytes() == noted


def test_a_run_that_is_refused_or_killed_takes_nothing_from_the_run(folder, capsys):
    before = load_run(str(folder))
    refused = tiny_run_config(folder, corpus__paths=["no/such/file.jsonl"])
    del refused["corpus"]["quickstart"]
    path = folder.with_name("refused.json")
    path.write_text(json.dumps(refused))
    assert main(["run", str(path)]) == 2
    assert "no/such/file.jsonl" in capsys.readouterr().err
    killed = start("run", config(folder, clusters__num_clusters=5))
    assert killed.stdout is not None
    for line in killed.stdout:
        if "[proxy]" in line:
            break
    killed.kill()
    killed.wait()
    after = load_run(str(folder))
    assert after.config == before.config
    assert {n: s.folder for n, s in after.stages.items()} == {n: s.folder for n, s in before.stages.items()}
    assert main(["select", str(folder), "--budget", "32"]) == 0
    assert main(["run", config(folder, clusters__num_clusters=5)]) == 0
    assert load_run(str(folder)).config.clusters.num_clusters == 5
    assert main(["run", config(folder)]) == 0
    assert set(load_run(str(folder)).subsets) == {*before.subsets, "s2l-32"}
    assert (folder / CONFIG).exists()


@pytest.mark.thorough
def test_of_two_seeds_the_runs_own_is_the_runs_and_both_can_be_had(folder):
    import s2l_ray

    first = s2l_ray.select(str(folder), 40)
    run = load_run(str(folder))
    other = s2l_ray.select(run, 40, seed=7)
    assert other.folder != first.folder
    assert run.subsets["s2l-40"].folder == load_run(str(folder)).subsets["s2l-40"].folder == first.folder
    assert [s.folder for s in run.others] == [other.folder]
    assert run.subset(other.folder.removeprefix("subset/")).folder == other.folder
