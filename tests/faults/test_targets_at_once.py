"""Targets that train at once, and one of them beside the proxy: the same results as one after another, also where a
process is killed or the command is interrupted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2l_ray.observability.metrics_log import read_metrics
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.faults.disturbed import Workplace, assert_nothing_left, contents, differences, workplace
from s2l_ray.testing.faults.fault_plan import Fault
from s2l_ray.testing.tiny import tiny_run_config

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="on one core they train one after another"),
]
COMPLETE = "complete"
SUBSETS = ["s2l-0.3", "full", "random-0.3"]


@pytest.fixture(scope="module")
def place() -> Iterator[Workplace]:
    """With a complete run, of which there is a copy."""
    with workplace() as place:
        tree = tiny_run_config(place.run, 200, selection__budgets=[0.3], selection__selectors=["s2l", "random"])
        tree["target"] = {
            "from_config": tree["proxy"]["from_config"], "train_tokenizer": {"vocab_size": 300}, "render": "plain",
            "max_length": 64, "max_steps": 60, "global_batch_size": 32, "learning_rate": 3e-3, "subsets": SUBSETS,
            "checkpoint_every_steps": 5, "log_every_steps": 1,
        }  # fmt: skip
        outcome = place.s2l("run", place.config(tree))
        assert outcome.code == 0, outcome.output
        shutil.copytree(place.run, place.base / COMPLETE)
        yield place


def without(place: Workplace, *stages: str) -> Path:
    """The configuration; the complete run now lacks those stages."""
    place.delete_run()
    shutil.copytree(place.base / COMPLETE, place.run)
    for stage in stages:
        shutil.rmtree(place.run / stage)
    return place.base / "config.json"


def assert_the_same(place: Workplace) -> None:
    told = differences(contents(place.run), contents(place.base / COMPLETE))
    assert not told, told[:20]
    assert_nothing_left(place)


def test_the_target_on_everything_trains_beside_the_proxy(place):
    events = [(e["event"], e["stage"]) for e in read_metrics(Storage.open(str(place.base / COMPLETE)))]
    began, built = events.index(("stage_started", "target/full")), events.index(("stage_done", "proxy"))
    assert began < built < events.index(("train", "target/s2l-0.3"))
    assert events.index(("stage_started", "target/random-0.3")) < events.index(("stage_done", "target/s2l-0.3"))


def test_the_first_that_trains_scores_the_model_that_all_begin_as(place):
    """Beside its training: workers of its own would have a peak of memory."""
    [base] = (place.base / COMPLETE).glob("heldout_evaluation/base-*/manifest.json")
    assert json.loads(base.read_text())["peak_memory_bytes"] is None


@pytest.mark.slow
def test_one_after_another_they_are_the_same(place):
    without(place, "target", "heldout_evaluation")
    for name in SUBSETS:
        outcome = place.s2l("finetune", place.run, "--subset", name)
        assert outcome.code == 0, outcome.output
    targets = {name: one for name, one in contents(place.run).items() if "target" in name or "heldout_ev" in name}
    alone = {name: one for name, one in contents(place.base / COMPLETE).items() if name in targets}
    assert targets
    told = differences(targets, alone)
    assert not told, told[:20]


def test_a_killed_process_is_replaced_and_the_others_go_on(place):
    config = without(place, "proxy", "target", "heldout_evaluation")
    fault = Fault("target/full-*/ray_train", "alone", 4, 0.0, "self")
    outcome = place.s2l("run", config, faults=[fault])
    assert list(outcome.struck) == [fault], outcome.output
    assert outcome.code == 0, outcome.output
    assert_the_same(place)


@pytest.mark.parametrize("victim", ["SIGINT", pytest.param("driver", marks=pytest.mark.slow)])
def test_who_is_stopped_goes_on_from_the_checkpoints(place, victim):
    config = without(place, "target", "heldout_evaluation")
    fault = Fault("target/s2l-0.3-*/ray_train", "alone", 6, 0.0, victim)
    outcome = place.s2l("run", config, faults=[fault])
    assert fault in outcome.struck, outcome.output
    assert outcome.code == (130 if victim == "SIGINT" else -9), outcome.output
    assert "Traceback" not in outcome.output, outcome.output
    assert list(place.run.glob("target/s2l-0.3-*/ray_train/step-*"))
    outcome = place.s2l("run", config)
    assert outcome.code == 0, outcome.output
    assert_the_same(place)
