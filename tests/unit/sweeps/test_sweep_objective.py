"""A sweep that is judged by answers to test questions: what is refused before it starts, what is read and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.manifest import StageManifest, write_manifest
from s2l_ray.artifacts.models import EvaluationArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config import S2LConfig, load_config
from s2l_ray.config.load import ConfigError
from s2l_ray.evaluation.metrics import MetricError, figure_of_answers, get_metric
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.context import SweepContext, Upstream
from s2l_ray.sweeps.objective import asking, check_objective, value_of
from s2l_ray.sweeps.records import find_finished, objective_of, write_record
from s2l_ray.sweeps.results import Point, shortfall
from s2l_ray.sweeps.trials import Trial
from s2l_ray.testing.tiny import tiny_run_config

TRIAL = Trial("s2l", 0.1, 0)


def config(folder: Path, metric: str = "evaluation.mine.correct", **evaluation: Any) -> S2LConfig:
    tree = tiny_run_config(folder)
    asked: dict[str, Any] = {
        "tasks": ["gsm8k", "clinical", "mine"], "data": {"folder": "data", "files": {"gsm8k": ["x.jsonl"]}},
        "custom": {"mine": {"files": ["mine.jsonl"], "rule": "number"}, "other": {"files": ["other.jsonl"]}},
        "generation": {"max_new_tokens": {"gsm8k": 9, "default": 7}}, "subsets": ["full"],
    }  # fmt: skip
    tree |= {"target": tree["proxy"], "sweep": {"metric": metric}, "evaluation": asked | evaluation}
    return load_config(tree)


def test_a_figure_of_answers_has_a_description_and_more_of_it_is_better():
    assert figure_of_answers("evaluation.gsm8k.correct") == ("gsm8k", "correct")
    assert figure_of_answers("macro") is None
    metric = get_metric("evaluation.gsm8k.correct")
    assert (metric.full_label, metric.shown_unit, metric.more_is_better) == ("accuracy (gsm8k)", "% of questions", True)
    assert get_metric("evaluation.clinical.rougeL").facts()["is_share"] is False
    full, less = (Point("s2l", 0.1, share, (value,), 1.0) for share, value in ((1.0, 0.5), (0.1, 0.4)))
    assert shortfall(less, full, "evaluation.gsm8k.correct") == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["evaluation.gsm8k", "evaluation.gsm8k.right", "evaluation..correct", "evaluation."])
def test_what_names_no_figure_is_refused_with_those_that_there_are(tmp_path, name):
    with pytest.raises(MetricError, match=r"write evaluation\.<task>\.<metric>"):
        get_metric(name)
    with pytest.raises(ConfigError, match=r"evaluation\.gsm8k\.correct"):
        config(tmp_path, name)


@pytest.mark.parametrize(
    ("metric", "change", "said"),
    [
        ("evaluation.svamp.correct", {}, r"'svamp', which is not one of evaluation\.tasks \(gsm8k, clinical, mine\)"),
        ("evaluation.gsm8k.bleu", {}, "have no such metric; use correct"),
        ("evaluation.mine.correct_published", {}, "published rules only for gsm8k, .*; use correct"),
        ("evaluation.gsm8k.first", {}, "is not one of several numbers"),
        ("evaluation.clinical.correct", {}, "have no such metric; use bleu"),
        ("evaluation.clinical.bertscore", {"bertscore": {"model": None}}, "name an encoder"),
    ],
)
def test_a_figure_that_no_trial_will_have_is_refused(tmp_path, metric, change, said):
    with pytest.raises(ConfigError, match=said):
        check_objective(config(tmp_path, metric, **change))


def test_without_questions_and_with_a_scheduler_it_is_refused(tmp_path):
    known = config(tmp_path)
    check_objective(known)
    with pytest.raises(ConfigError, match="there is no section `evaluation`"):
        check_objective(known.model_copy(update={"evaluation": None}))
    early = known.sweep.model_copy(update={"asha": {"grace_steps": 5}})
    with pytest.raises(ConfigError, match=r"remove sweep\.asha"):
        check_objective(known.model_copy(update={"sweep": early}))


def test_trials_ask_the_deciding_task_alone_and_of_every_target(tmp_path):
    asked = asking(config(tmp_path, "evaluation.gsm8k.correct")).evaluation
    assert asked is not None
    assert (asked.tasks, asked.subsets, asked.custom) == (["gsm8k"], None, {})
    assert asked.generation.max_new_tokens == {"gsm8k": 9, "default": 7}
    mine = asking(config(tmp_path)).evaluation
    assert mine is not None
    assert (list(mine.custom), mine.data.files, mine.generation.max_new_tokens) == (["mine"], {}, {"default": 7})
    assert asking(config(tmp_path, "macro")).evaluation is None


def a_stage(storage: Storage, name: str, inputs: dict[str, str], extra: dict[str, Any] | None = None) -> Stage:
    manifest = StageManifest(stage=name, key="k", inputs=inputs, content_fingerprint=name, extra=extra or {},
                             row_counts={"examples": 60, "trajectories": 600})  # fmt: skip
    return Stage(name, name, storage.sub(name), write_manifest(storage.sub(name), manifest))


def test_a_trial_is_finished_with_its_answers_and_done_again_where_others_decide(tmp_path):
    by_answers, storage = config(tmp_path), Storage.open(tmp_path)
    made = EvaluationArtifact(
        model="s2l-0.1", task="mine", form="cot", engine="transformers", dtype="float32", device="cpu",
        rules_version=1, num_questions=4, figures={"correct": {"value": 0.75}}, shares={},
    )  # fmt: skip
    target = a_stage(storage, "target/s2l-0.1-01234567", {})
    evaluation = a_stage(storage, "heldout_evaluation/s2l-0.1-76543210", {"target": target.content})
    answers = a_stage(storage, "evaluation/s2l-0.1-mine-0a0b0c0d", {"model": target.content}, made.model_dump())
    stages = {name: a_stage(storage, name, {}) for name in ("trajectories", "subset/s2l-0.1")}

    def found(of: S2LConfig) -> Any:
        return find_finished(of, storage, TRIAL, Upstream("content"), "target", lambda text: None)

    def write(of: S2LConfig, said: Stage | None) -> None:
        shared = SweepContext(of, storage, {}, True, "target", Upstream("content"))
        write_record(shared, TRIAL, Run(of, storage, stages), target, evaluation, said)

    write(by_answers, answers)
    one = found(by_answers)
    assert one.answers.folder == answers.folder
    assert objective_of(by_answers, one.evaluation, one.answers) == value_of(by_answers, answers) == 0.75
    assert found(config(tmp_path, limit=3)) is None, "other questions"
    assert found(config(tmp_path, "macro")) is None, "a sweep that asks nothing has records of its own"
    write(by_answers, a_stage(storage, "evaluation/s2l-0.1-mine-99999999", {"model": "another's"}, made.model_dump()))
    assert found(by_answers) is None
    with pytest.raises(ConfigError, match="has no metric correct_published"):
        value_of(config(tmp_path, "evaluation.mine.correct_published"), answers)
