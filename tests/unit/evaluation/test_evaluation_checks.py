"""What an evaluation is refused for before anything starts, in words that name the value and the cure."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.models import GenerationArtifact
from s2l_ray.cli import parse
from s2l_ray.config import ConfigError, S2LConfig, load_config
from s2l_ray.errors import UserError
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.sandbox import SandboxSettings, check_node
from s2l_ray.evaluation.sandbox.probe import no_server
from s2l_ray.execution.placement import Placement, PlacementError, place
from s2l_ray.stages.evaluation import build, tasks
from s2l_ray.stages.evaluation.describe import warnings_of
from s2l_ray.stages.evaluation.models import check_subsets
from s2l_ray.stages.evaluation.tasks import check_evaluation, read_tasks
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl
from s2l_ray.workflow.evaluate import EvaluationRequest

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4"}]
ANY_CPU = Placement("cpu", 1, 1.0, 0.0, None, 1, {})


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    write_jsonl(tmp_path / "eval/gsm8k.jsonl", ROWS)
    write_jsonl(tmp_path / "mine.jsonl", ROWS)
    made = tiny_run_config(tmp_path / "run")
    made["target"] = {**made["proxy"], "subsets": ["full"]}
    made["evaluation"] = {
        "tasks": ["gsm8k", "mine"], "data": {"folder": str(tmp_path / "eval")},
        "custom": {"mine": {"files": [str(tmp_path / "mine.jsonl")], "rule": "number"}},
    }  # fmt: skip
    return made


def changed(tree: dict[str, Any], *overrides: str) -> S2LConfig:
    return load_config(tree, overrides)


def test_what_can_be_used_is_read_once_and_sorted_by_id(tree, tmp_path):
    config = changed(tree, "evaluation.limit=1", "evaluation.generation.max_new_tokens={default: 7, mine: 9}")
    check_evaluation(config)
    gsm8k, mine = read_tasks(config, Storage.open(tmp_path / "run"), lambda text: None)
    assert [len(task.questions) for task in (gsm8k, mine)] == [1, 1]
    assert (gsm8k.max_new_tokens, mine.max_new_tokens) == (7, 9)
    assert gsm8k.content != mine.content
    assert not (tmp_path / "run").exists()
    whole = read_tasks(changed(tree), Storage.open(tmp_path / "run"), lambda text: None)[0]
    assert whole.questions[0] == gsm8k.questions[0]
    assert whole.max_new_tokens == 512


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluation.tasks=[gsm9k]", "'gsm9k' is not a task; use gsm8k"),
        ("evaluation.tasks=[svamp]", "svamp.jsonl"),
        ("evaluation.tasks=[quickstart, mine]", None),
        ("evaluation.generation.max_new_tokens={maths: 9}", "names 'maths', which is none of the tasks"),
        ("evaluation.data.files={svamp: [x.jsonl]}", "names 'svamp', which is none of the tasks"),
        ("evaluation.custom.mine.metric=no_such_package:f", "cannot be imported"),
        ("evaluation.custom.mine.metric=json:no_such", "json has no function no_such"),
        ("evaluation.custom.mine.gold={nothing}", "there is no column 'nothing'"),
        ("evaluation.custom.mine.rule=choice", "'2' is not the letter of an option"),
    ],
)
def test_what_is_refused_before_anything_starts(tree, override, said):
    config = changed(tree, override)
    if said is None:
        check_evaluation(config)
        return
    with pytest.raises(UserError, match=said):
        check_evaluation(config)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluation.tasks=[]", "evaluation.tasks"),
        ("evaluation.tasks=[mine, mine]", "twice"),
        ("evaluation.form=program", "evaluation.form"),
        ("evaluation.generation.samples=3", "the same completion 3 times"),
        ("evaluation.generation.max_new_tokens={mine: 0}", "not a valid completion length"),
        ("evaluation.sandbox.mode=off", "--i-know-programs-run-with-my-rights"),
        ("evaluation.subsets=[]", "nothing would be evaluated"),
        ("evaluation.custom.mine.metric=length", "write package.module:function"),
        ("evaluation.confidence.level=1", "evaluation.confidence.level"),
        ("evaluation.engine=vllm", "unknown key"),
    ],
)
def test_settings_that_cannot_be(tree, override, said):
    with pytest.raises(ConfigError, match=said):
        changed(tree, override)


def test_libraries_that_are_missing_are_named_with_the_extra(tree, monkeypatch):
    real = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name in ("sympy", "math_verify", "sacrebleu") else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    check_evaluation(changed(tree))
    for override, package in (("evaluation.form=hybrid", "sympy"), ("evaluation.custom.mine.rule=math", "math_verify"),
                              ("evaluation.custom.mine.rule=summary", "sacrebleu")):  # fmt: skip
        with pytest.raises(EvaluationError, match=rf"{package}, which is not installed.*s2l_ray\[evaluate\]"):
            check_evaluation(changed(tree, override))


def test_the_quickstarts_test_is_of_no_other_corpus(tree, tmp_path):
    tree["corpus"] = {"paths": [str(tmp_path / "mine.jsonl")]}
    with pytest.raises(EvaluationError, match=r"corpus\.quickstart is not set"):
        check_evaluation(changed(tree, "evaluation.tasks=[quickstart]"))


def test_targets_that_there_will_not_be(tree):
    check_subsets(changed(tree, "evaluation.subsets=[full]"))
    with pytest.raises(EvaluationError, match=r"names 's2l-0.3', but no target of this run.*there will be full, base"):
        check_subsets(changed(tree, "evaluation.subsets=[s2l-0.3]"))
    with pytest.raises(EvaluationError, match="this run's target starts from random weights"):
        check_subsets(changed(tree, "evaluation.subsets=[base]"))


def test_what_a_command_changes(tree):
    config = load_config(tree)
    made = EvaluationRequest(["full"], ["mine"], "hybrid", 3, overrides=["resources.evaluation.workers=2"]).config(
        config
    )
    assert made.evaluation is not None
    assert (made.evaluation.tasks, made.evaluation.form, made.evaluation.limit) == (["mine"], "hybrid", 3)
    assert made.resources.evaluation.workers == 2
    with pytest.raises(ConfigError, match="trains no target, so it only changes evaluation, resources, estimates"):
        EvaluationRequest(overrides=["target.epochs=3"]).config(config)
    with pytest.raises(ConfigError, match="give one or the other"):
        EvaluationRequest(["full"], model="x").config(config)
    del tree["evaluation"]
    with pytest.raises(ConfigError, match="it is unknown which questions to ask"):
        EvaluationRequest().config(load_config(tree))


def test_a_node_that_cannot_isolate_ends_it_before_anything_is_generated(monkeypatch):
    monkeypatch.setattr(build, "probe_node", lambda settings: no_server(settings.mode, "Landlock: ENOSYS"))
    with pytest.raises(
        EvaluationError, match=r"cannot isolate programs \(Landlock: ENOSYS\); they would run with your"
    ):
        build.check_nodes(SandboxSettings(), ANY_CPU, embedded=True)
    explicit = SandboxSettings(mode="off", programs_run_with_my_rights=True)
    assert [report.fault for report in build.check_nodes(explicit, ANY_CPU, embedded=True)] == ["Landlock: ENOSYS"]


def test_a_node_that_lacks_what_programs_import_is_named(monkeypatch):
    lacks = replace(no_server("auto", ""), packages={"sympy": None, "numpy": "2.4", "math_verify": None})
    monkeypatch.setattr(build, "probe_node", lambda settings: lacks)
    with pytest.raises(EvaluationError, match=rf"node {lacks.node} lacks the package sympy, .*s2l_ray\[evaluate\]"):
        build.check_nodes(SandboxSettings(), ANY_CPU, embedded=True)
    check_node(lacks, SandboxSettings(packages=("numpy",)))


def test_latex_that_this_machine_cannot_compare_is_refused_before_anything_is_generated(tree, monkeypatch):
    monkeypatch.setattr(tasks, "probe_node", lambda settings: no_server(settings.mode, "Landlock: ENOSYS"))
    check_evaluation(changed(tree))  # numbers need no sandbox
    with pytest.raises(EvaluationError, match=r"task mine: answers in LaTeX .*\(Landlock: ENOSYS\).*mode=external"):
        check_evaluation(changed(tree, "evaluation.custom.mine.rule=math"))
    check_evaluation(changed(tree, "evaluation.custom.mine.rule=math", "evaluation.sandbox.mode=external"))


def test_only_programs_that_ran_are_warned_of(tree):
    facts: dict[str, Any] = {
        "model": "full", "task": "mine", "form": "pot", "engine": "transformers", "dtype": "float32",
        "num_questions": 2, "num_parts": 1, "num_new_tokens": 9, "finish": {"eos": 2},
    }  # fmt: skip
    config = changed(tree, "evaluation.sandbox.mode=external").evaluation
    assert config is not None
    for outcomes, count in (({"no_program": 2}, 0), ({"no_program": 1, "ok": 1}, 1)):
        assert len(warnings_of(GenerationArtifact(**facts, outcomes=outcomes), config)) == count


def test_workers_of_the_evaluation_have_places_of_their_own(tree):
    resources = changed(tree, "resources.evaluation={workers: 2, cpus_per_worker: 3}").resources
    placement = place(resources, [{"CPU": 8}], 8, "evaluation")
    assert (placement.num_workers, placement.cpus_per_worker, placement.threads) == (2, 3, 3)
    with pytest.raises(PlacementError, match=r"Lower resources\.evaluation\.workers"):
        place(resources, [{"CPU": 4}], 4, "evaluation")


def test_the_command_line_gives_what_it_was_given():
    arguments = parse(
        ["evaluate", "runs/x", "--tasks", "a, b", "--limit", "3", "--compare", "full,s2l-0.3", "--rescore",
         "evaluation.limit=4"]
    )  # fmt: skip
    assert (arguments.tasks, arguments.limit, arguments.rescore) == (["a", "b"], 3, True)
    with pytest.raises(SystemExit):
        parse(["evaluate", "runs/x", "--rescore", "--dry-run"])
    with pytest.raises(SystemExit):
        parse(["evaluate", "runs/x", "--form", "both"])
