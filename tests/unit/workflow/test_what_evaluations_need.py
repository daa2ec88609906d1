"""Commands that ask no test questions are not refused for what the section `evaluation` says; and what compares models
is refused before a question is answered. An evaluation needs no place for the proxy, and is keyed by what its outcome
depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.manifest import StageManifest
from s2l_ray.artifacts.models import GenerationArtifact
from s2l_ray.artifacts.run import Run, RunError
from s2l_ray.artifacts.runner import StageRunner
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config import ConfigError, S2LConfig, load_config
from s2l_ray.config.target import TargetConfig
from s2l_ray.data.sources import SourceError
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.tasks import tasks_of
from s2l_ray.execution.placement import Placement
from s2l_ray.lm.exported import ModelSource
from s2l_ray.observability.metrics_log import MetricsLog
from s2l_ray.observability.progress import Progress
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.evaluation.engines import Engine
from s2l_ray.stages.evaluation.models import AskedModel
from s2l_ray.stages.evaluation.stage import Evaluation
from s2l_ray.stages.evaluation.tasks import AskedTask
from s2l_ray.stages.layout import Layout, precisions_of
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.run import sweep
from s2l_ray.testing.tiny import tiny_run_config
from s2l_ray.workflow import commands
from s2l_ray.workflow.differences import check_evaluated
from s2l_ray.workflow.evaluate import EvaluationRequest
from s2l_ray.workflow.preflight import preflight

NOT_HERE = {
    "subsets": {"tasks": ["quickstart"], "subsets": ["s2l-0.77"]},
    "files": {"tasks": ["gsm8k"], "data": {"folder": "/nowhere"}},
}


@pytest.fixture(params=NOT_HERE)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    made = tiny_run_config(tmp_path / "run")
    made["target"] = {**made["proxy"], "subsets": ["full"]}
    return made | {"evaluation": NOT_HERE[request.param]}


def test_a_whole_run_is_refused_for_what_it_could_not_evaluate(tree):
    with pytest.raises((EvaluationError, SourceError), match=r"s2l-0\.77|gsm8k"):
        preflight(load_config(tree))


def test_finetune_comes_as_far_as_the_selection(tree, tmp_path):
    with pytest.raises(RunError, match="corpus"):  # this run has none
        commands.finetune(Run(load_config(tree), Storage.open(tmp_path / "run")))


@pytest.mark.parametrize("command", [lambda config: commands.run(config, select_only=True), sweep])
def test_selections_and_sweeps_come_as_far_as_the_corpus(tree, tmp_path, command):
    tree["corpus"] = {"paths": [str(tmp_path / "no corpus.jsonl")]}
    tree["heldout"] = {"share": 0.5}
    with pytest.raises(SourceError, match=r"no corpus\.jsonl"):
        command(load_config(tree))


def test_a_layout_without_the_proxy_chooses_no_precision_for_it(tmp_path):
    tree = tiny_run_config(tmp_path / "run")
    tree["proxy"]["precision"] = "bf16"  # refused on CPUs
    placements = {"evaluation": Placement("cpu", 1, 1.0, 0.0, None, 1, {})}
    config = load_config(tree)
    assert precisions_of(config, placements, True, [], None, print) == {}
    context = context_of(config, evaluation=Placement("cpu", 1, 1.0, 0.0, None, 7, {}))
    assert context.parallelism == 7


def context_of(config: S2LConfig, **placements: Placement) -> RunContext:
    run = Run(config, Storage.open(config.run_uri))
    runner = StageRunner(run, Progress(), MetricsLog(run.storage, "log.jsonl"))
    return RunContext(config, runner, Layout(config.resources, True, placements))


SANDBOX = ("seconds=9", "memory_mb=99", "mode=external", "processes=3", "i_know_programs_run_with_my_rights=true")


@pytest.mark.parametrize(("rule", "counts"), [("math", 3), ("number", 0)])
def test_verdicts_depend_on_the_sandbox_where_it_compares(tmp_path, monkeypatch, rule, counts):
    """And texts on it where programs ran; neither on how many run at once, nor on a consent."""
    tree = tiny_run_config(tmp_path / "run")
    tree["evaluation"] = {"tasks": ["mine"], "custom": {"mine": {"files": ["x.jsonl"], "rule": rule}}}
    monkeypatch.setattr(Evaluation, "_rendering", lambda *_: {"style": "plain", "with_thoughts": False,
                                                              "render_options": {"date": None}})  # fmt: skip
    verdicts, texts = [], []
    for override in ("seconds=5", *SANDBOX):
        config = load_config(tree, [f"evaluation.sandbox.{override}"])
        assert config.evaluation is not None
        [task] = tasks_of(config.evaluation.tasks, config.evaluation.custom)
        asked = AskedTask(task, [], ("pot",), 9)
        context = context_of(config)
        made = GenerationArtifact(model="full", task="mine", form="pot", engine="transformers", dtype="float32",
                                  num_questions=0, num_parts=0, num_new_tokens=0, finish={})  # fmt: skip
        storage = context.run.storage
        stage = Stage("x", "x", storage, StageManifest(stage="x", key="k", extra=made.model_dump()))
        context.run.stages["corpus"] = stage
        model = AskedModel("full", "c", ModelSource(TargetConfig(model="m")))
        evaluation = Evaluation(context, [asked])
        verdicts.append(evaluation.evaluation_spec(model, asked, stage, stage).key)
        texts.append(evaluation.generation_spec(model, asked, Engine("transformers", "float32")).key)
    assert [key != verdicts[0] for key in verdicts[1:]] == [i < counts for i in range(len(SANDBOX))]
    assert [key != texts[0] for key in texts[1:]] == [i < 3 for i in range(len(SANDBOX))]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (EvaluationRequest(compare=["full"]), "--compare full has nothing to compare 'full' with"),
        (EvaluationRequest(compare=["full", "full"]), "name at least two different models"),
        (EvaluationRequest(across_engines=True), "would do nothing without --compare"),
    ],
)
def test_a_comparison_of_nothing_is_refused_first(request_, said):
    with pytest.raises(ConfigError, match=said):
        request_.check_comparison()
    EvaluationRequest(compare=["full", "base"], across_engines=True).check_comparison()


@pytest.mark.thorough
def test_models_that_nobody_evaluates_are_not_compared():
    check_evaluated(["full", "base"], {"base", "full"})
    with pytest.raises(EvaluationError, match=r"s2l-0\.5 has not been evaluated.*\(evaluated: base, full\)"):
        check_evaluated(["full", "s2l-0.5"], {"base", "full"})
