"""A sweep whose trials are judged by their answers to test questions, on real Ray."""

from __future__ import annotations

import shutil
from typing import Any

import pyarrow.parquet as pq
import pytest

from s2l_ray.api import sweep
from s2l_ray.artifacts.run import load_run
from s2l_ray.config import load_config
from s2l_ray.reporting.write import facts_of
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl
from tests.support.answering_model import questions

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]


@pytest.mark.thorough
def test_trials_are_judged_by_their_answers_and_a_second_sweep_asks_nothing(tmp_path, finished):
    folder = tmp_path / "run"
    shutil.copytree(finished.storage.local_path(), folder, ignore=shutil.ignore_patterns("subset"))
    write_jsonl(tmp_path / "mine.jsonl", questions(24))
    tree: dict[str, Any] = tiny_run_config(folder)
    tree["target"] = {**tree["proxy"], "length": "same_steps", "epochs": 1}
    tree["sweep"] = {"budgets": [0.3], "selectors": ["s2l"], "num_seeds": 1, "metric": "evaluation.mine.correct"}
    custom = {"files": [str(tmp_path / "mine.jsonl")], "rule": "number", "max_new_tokens": 6}
    tree["evaluation"] = {"tasks": ["mine"], "custom": {"mine": custom}}
    tree["resources"]["evaluation"] = {"workers": 1, "cpus_per_worker": 1}
    first = sweep(load_config(tree), progress=Quiet())
    assert not first.failed, first.failed
    run = load_run(str(folder))
    told = {model: one.figures["correct"]["value"] for (model, task), one in run.evaluations.items()}
    assert set(told) == {"full", "s2l-0.3"}
    curve = {p["selector"]: p["values"] for p in first.report["curves"]["target"]}
    assert curve == {"full": [told["full"]], "s2l": [told["s2l-0.3"]]}
    rows = pq.read_table(folder / "sweep/results.parquet").to_pylist()
    assert {row["answers"] for row in rows} == {one.folder for one in run.evaluations.values()}
    assert facts_of(run).budgets is None

    again = Quiet()
    second = sweep(load_config(tree), progress=again)
    assert "2 of them already done" in again.lines()
    assert second.report["curves"] == first.report["curves"]
