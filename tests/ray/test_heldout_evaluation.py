"""Held-out evaluation as a stage of its own: what makes it again, what it costs, and that it never trains a target."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s2l_ray
from s2l_ray.artifacts.models import HeldOutEvaluationArtifact
from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.artifacts.runner import StageRunner
from s2l_ray.artifacts.verify import verify_run
from s2l_ray.config import load_config
from s2l_ray.evaluation.heldout import SCORES
from s2l_ray.observability.metrics_log import MetricsLog
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.heldout.stage import heldout_spec
from s2l_ray.stages.layout import Layout, lay_out
from s2l_ray.stages.target.stage import target_spec
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import write_jsonl
from tests.support.colours import colour_rows
from tests.support.target_run import SUBSET

pytestmark = pytest.mark.usefixtures("ray_cluster")

EVALUATIONS = {f"heldout_evaluation/{name}" for name in ("base", SUBSET, "full")}


@pytest.fixture(scope="module")
def grown(finished_target: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """The finished run with one of its held-out sets renamed and another one added, run again; and what it said."""
    folder = tmp_path_factory.mktemp("grown")
    copy = shutil.copytree(finished_target.storage.local_path(), folder / "run")
    tree = finished_target.config.model_dump(mode="json") | {"run_dir": str(copy)}
    [test] = tree["heldout"]["files"]["test"]
    more = write_jsonl(folder / "more.jsonl", colour_rows(40, seed=7))
    tree["heldout"]["files"] = {"renamed": [test], "more": [str(more)]}
    progress = Quiet()
    return s2l_ray.run(tree, progress=progress), progress.lines()


def results(run: Run, name: str) -> dict[str, Any]:
    return HeldOutEvaluationArtifact.of(run.stage(f"heldout_evaluation/{name}")).results


def test_a_held_out_set_that_is_renamed_or_added_trains_nothing(finished_target: Run, grown: tuple[Run, str]):
    run, said = grown
    before = {name: stage.folder for name, stage in finished_target.stages.items()}
    assert {name for name, stage in run.stages.items() if stage.folder != before[name]} == {"heldout", *EVALUATIONS}
    assert "steps of 32 examples" not in said
    for name in ("base", SUBSET, "full"):
        before, now = results(finished_target, name), results(run, name)
        assert list(now) == ["renamed", "more", "split"]
        assert (now["renamed"], now["split"]) == (before["test"], before["split"]), (
            "workers of their own score what those of the training did, to the bit"
        )
        assert now["more"]["num_examples"] == 40


def test_both_scores_of_a_target_are_made_by_the_same_workers_and_the_base_but_once(grown: tuple[Run, str]):
    run, _ = grown
    seconds = {name: run.stage(name).manifest.wall_seconds for name in EVALUATIONS}
    assert seconds["heldout_evaluation/base"] > 0
    first = run.stage(f"heldout_evaluation/{SUBSET}").manifest
    assert seconds[f"heldout_evaluation/{SUBSET}"] < seconds["heldout_evaluation/base"] / 2
    assert first.peak_memory_bytes == run.stage("heldout_evaluation/base").manifest.peak_memory_bytes
    assert first.device_seconds > 0


def test_the_run_has_the_evaluations_on_its_present_sets_and_every_file_is_vouched_for(grown: tuple[Run, str]):
    run, _ = grown
    reread = load_run(run.uri)
    assert {name: stage.folder for name, stage in reread.stages.items()} == {
        name: stage.folder for name, stage in run.stages.items()
    }
    assert list(reread.target("full").evaluation) == ["renamed", "more", "split"]
    assert not verify_run(run.storage, Quiet()).problems


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["gone", "other bytes"])
def test_a_damaged_evaluation_is_made_again_by_itself_with_the_same_scores(
    grown: tuple[Run, str], tmp_path: Path, how: str
):
    run, _ = grown
    copy = shutil.copytree(run.storage.local_path(), tmp_path / "run")
    folder = run.stage("heldout_evaluation/full").folder
    scores = copy / folder / SCORES
    whole = scores.read_bytes()
    if how == "gone":
        scores.unlink()
    else:
        scores.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert len(verify_run(type(run.storage).open(copy), Quiet()).problems) == 1
    progress = Quiet()
    s2l_ray.finetune(str(copy), "full", progress=progress)
    assert f"[heldout_evaluation/full] {SCORES}" in progress.lines()
    assert "[target/full] unchanged, skipped" in progress.lines()
    assert scores.read_bytes() == whole


@pytest.fixture(scope="module")
def layout(finished_target: Run) -> Layout:
    return lay_out(finished_target.config, Quiet().say)


def spec_of(run: Run, layout: Layout, **target: Any) -> Any:
    """The target's specification with other settings; builds nothing."""
    tree = run.config.model_dump(mode="json")
    tree["target"] |= target
    config = load_config(tree)
    with MetricsLog(run.storage) as metrics:
        context = RunContext(config, StageRunner(run, Quiet(), metrics), layout)
        subset, tokens = run.subset(SUBSET), run.stage(f"target-tokens/{SUBSET}")
        heldout = run.stage("heldout")
        assert heldout_spec(context, run.stage("corpus"), tokens) is not None
        return target_spec(context, SUBSET, subset, tokens, run.stage("tokens"), heldout, None)


@pytest.mark.parametrize(
    ("target", "is_input"),
    [
        ({}, False),
        ({"evaluate_every_steps": 5}, False),
        ({"evaluate_every_steps": 5, "keep_best": True}, True),
        ({"evaluate_every_steps": 5, "patience": 2}, True),
    ],
    ids=["nothing", "a curve", "keep_best", "patience"],
)
def test_the_set_that_decides_is_an_input_only_where_something_goes_by_it(
    finished_target: Run, grown: tuple[Run, str], layout: Layout, target: dict[str, Any], is_input: bool
):
    """Its examples count, not its name, nor the sets beside it."""
    before, now = spec_of(finished_target, layout, **target), spec_of(grown[0], layout, **target)
    assert before.key == now.key
    assert ("heldout" in now.inputs) == is_input
    assert ("evaluate_every_steps" in now.settings) == is_input
    assert (now.key == finished_target.targets[SUBSET].manifest.key) == (not is_input)


def test_scores_hold_all_that_a_metric_needs(grown: tuple[Run, str]):
    run, _ = grown
    table = run.stage("heldout_evaluation/full").storage.read_table(SCORES)
    tokens = run.stage("heldout").storage.read_table("more.parquet")
    rows = [row for row in table.to_pylist() if row["heldout_set"] == "more"]
    assert [row["example_id"] for row in rows] == tokens["example_id"].to_pylist()
    assert [row["source"] for row in rows] == tokens["source"].to_pylist()
    masks = tokens["response_mask"].to_pylist()
    assert [row["num_response_tokens"] for row in rows] == [sum(mask) for mask in masks]
    losses = np.array([row["loss_nats"] for row in rows])
    assert results(run, "full")["more"]["micro"] == pytest.approx(losses.mean(), abs=1e-6)
