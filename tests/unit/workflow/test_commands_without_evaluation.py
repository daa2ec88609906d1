"""Commands that ask no test questions are not refused for what the section `evaluation` says; and what compares models
is refused before a question is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.run import Run, RunError
from s2l_ray.config import ConfigError, load_config
from s2l_ray.data.sources import SourceError
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.execution.placement import Placement
from s2l_ray.stages.layout import precisions_of
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
    assert precisions_of(load_config(tree), placements, True, [], None, print) == {}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (EvaluationRequest(compare=["full"]), "--compare full has nothing to compare 'full' with"),
        (EvaluationRequest(compare=["full", "full"]), "name at least two different models"),
        (EvaluationRequest(across_engines=True), "without --compare it would do nothing"),
    ],
)
def test_a_comparison_of_nothing_is_refused_first(request_, said):
    with pytest.raises(ConfigError, match=said):
        request_.check_comparison()
    EvaluationRequest(compare=["full", "base"], across_engines=True).check_comparison()


def test_models_that_nobody_evaluates_are_not_compared():
    check_evaluated(["full", "base"], {"base", "full"})
    with pytest.raises(EvaluationError, match=r"s2l-0\.5 was not evaluated.*\(evaluated: base, full\)"):
        check_evaluated(["full", "s2l-0.5"], {"base", "full"})
