"""Texts of several engines in one run: judged again without the engine, compared only where that is asked for; and an
engine that is not here is refused before anything starts."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import s2l_ray
from s2l_ray.artifacts.manifest import read_manifest, write_manifest
from s2l_ray.artifacts.models import ContaminationArtifact
from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.artifacts.runner import open_runner
from s2l_ray.artifacts.stage import Stage, StageResult
from s2l_ray.cli import main
from s2l_ray.config.load import load_config
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.execution.placement import Placement
from s2l_ray.lm.generate import Decoding, Generator
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.evaluation import generate_vllm
from s2l_ray.stages.evaluation.build import OVERLAP
from s2l_ray.stages.evaluation.engine_choice import EngineChoice
from s2l_ray.stages.evaluation.engines import Engine
from s2l_ray.stages.evaluation.generate_vllm import VllmTask, answer
from s2l_ray.stages.evaluation.models import models_of
from s2l_ray.stages.evaluation.overlap import contamination_spec
from s2l_ray.stages.evaluation.stage import Evaluation
from s2l_ray.stages.evaluation.tasks import read_tasks
from s2l_ray.stages.layout import Layout
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import write_jsonl
from s2l_ray.workflow.differences import compare_evaluations
from s2l_ray.workflow.evaluate import EvaluationResult
from s2l_ray.workflow.overview import overview
from tests.support.answering_model import questions
from tests.support.judged_runs import JudgedModels
from tests.support.report_runs import MadeRun

VLLM = Engine("vllm", "bfloat16", "0.29.0", True)
NUM = 24


def made_run(folder: Path, **more: Any) -> MadeRun:
    settings: dict[str, Any] = {"num_examples": 150, "num_clusters": 2, "budgets": (0.5,), "targets": (), "heldout": {},
                                "topics": ("add",), "sources": ("books",), **more}  # fmt: skip
    made = MadeRun(folder / "run", **settings)
    made.make()
    return made


# Texts that vLLM has generated, as far as the run can tell.


class Answering:
    """In the place of vLLM's engines, where there is none: the same requests in, the same rows out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, tables: Any, config: Any, request: Any, options: Any, what: str) -> Iterator[Any]:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        for row in pa.concat_tables(tables).to_pylist():
            sent = request(row)
            sampling = sent["sampling_params"]
            decoding = Decoding(sampling["max_tokens"], tuple(sampling["stop_token_ids"]), 0)
            [done] = Generator(model, decoding, torch.device("cpu"))([sent["tokenized_prompt"]])
            end = sampling["stop_token_ids"][:1] if done.finish == "eos" else []
            made = answer({"row": row["row"], "generated_tokens": [*done.ids, *end]})
            yield made["row"], made["new_ids"]


def generated_by_vllm(run: Run, overrides: list[str], model: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """What the stage itself writes where vLLM was its engine."""
    config = load_config(run.config.model_dump(mode="json", exclude_none=True), overrides)
    assert config.evaluation is not None
    monkeypatch.setattr(EngineChoice, "of", lambda *_: VLLM)
    monkeypatch.setattr(EngineChoice, "card", "NVIDIA H100")
    monkeypatch.setattr(generate_vllm, "VllmTask", partial(VllmTask, generated=Answering(model)))
    with open_runner(run, Quiet()) as runner:
        placements = {"evaluation": Placement("gpu", 1, 1.0, 1.0, None, 1, {})}
        context = RunContext(config, runner, Layout(config.resources, True, placements))
        [task] = read_tasks(config, run.storage, lambda text: None)
        [asked] = models_of(run, config, None, str(model))
        ids = [question.id for question in task.questions]

        def found_nothing(out: Storage) -> StageResult:
            nothing = {name: [False] * len(ids) for name in ("exact", "ngram", "template")}
            out.write_table(OVERLAP, pa.table({"question_id": pa.array(ids, pa.binary(16)), **nothing}))
            artifact = ContaminationArtifact(task=task.name, exact=0, ngram=0, template=0)
            return StageResult("nothing", {"questions": len(ids)}, artifact)

        spec = contamination_spec(context, config.evaluation, run.stage("corpus"), task, True)
        runner.ensure(replace(spec, build=found_nothing))
        with Evaluation(context, [task]) as evaluation:
            made = evaluation._generation(asked, task)
    monkeypatch.undo()
    return made


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("s2l_ray.execution.session.ray_session", lambda *_: pytest.fail("a Ray was started"))
    return monkeypatch


@pytest.mark.thorough
@pytest.mark.parametrize("engine", ["auto", "vllm"])
def test_texts_of_vllm_are_judged_again_where_there_is_no_vllm(answering_model, tmp_path, monkeypatch, engine, capsys):
    run = load_run(str(made_run(tmp_path).folder))
    files = write_jsonl(tmp_path / "mine.jsonl", questions(NUM))
    task = {"files": [str(files)], "rule": "number", "max_new_tokens": 24}
    overrides = ["evaluation.tasks=[mine]", f"evaluation.custom.mine={json.dumps(task)}"]
    generation = generated_by_vllm(run, overrides, answering_model, monkeypatch)
    written = bytes_in(generation.storage)
    monkeypatch.setattr("s2l_ray.execution.session.ray_session", lambda *_: pytest.fail("a Ray was started"))

    def rescored(engine: str) -> s2l_ray.EvaluationResult:
        asked = [*overrides, f"evaluation.generation.engine={engine}"]
        return s2l_ray.evaluate(run.uri, None, None, asked, model=str(answering_model), rescore=True, progress=Quiet())

    [evaluation] = rescored(engine).evaluations
    assert evaluation.figures["correct"]["value"] == 0.75  # three of four sentences are right
    report = evaluation.report
    assert (report["engine"], report["engine_version"], report["batch_invariant"]) == ("vllm", "0.29.0", True)
    assert (report["dtype"], report["device"]) == ("bfloat16", "NVIDIA H100")
    assert bytes_in(generation.storage) == written
    assert len(written) == 1
    with pytest.raises(EvaluationError, match="--rescore judges existing answers, but model-model has not"):
        rescored("transformers")
    command = ["evaluate", run.uri, "--model", str(answering_model), "--rescore", "--json", *overrides]
    capsys.readouterr()
    assert main([*command, f"evaluation.generation.engine={engine}"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["models"]["model-model"]["tasks"]["mine"]["figures"]["correct"]["value"] == 0.75
    assert told["comparisons"] == []


def bytes_in(generation: Storage) -> dict[str, bytes]:
    return {entry.name: generation.read_bytes(entry.name) for entry in generation.list("generations")}


def test_vllm_that_is_not_installed_is_refused_before_anything_starts(answering_model, tmp_path, no_ray, capsys):
    no_ray.setattr("importlib.util.find_spec", partial(_find_spec_without_vllm, importlib.util.find_spec))
    folder = made_run(tmp_path).folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files = write_jsonl(tmp_path / "mine.jsonl", questions(3))
    task = json.dumps({"files": [str(files)], "rule": "number"})
    command = ["evaluate", str(folder), "--model", str(answering_model), "evaluation.tasks=[mine]",
               f"evaluation.custom.mine={task}", "evaluation.generation.engine=vllm"]  # fmt: skip
    for more in ([], ["--dry-run"]):
        assert main([*command, *more]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "engine=vllm, but the package vllm is not installed on this machine" in said
        assert "set evaluation.generation.engine=transformers" in said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def _find_spec_without_vllm(find_spec: Any, name: str, *rest: Any) -> Any:
    return None if name == "vllm" else find_spec(name, *rest)


def test_a_dry_run_gives_its_estimate_as_json(answering_model, tmp_path, no_ray, capsys):
    folder = made_run(tmp_path).folder
    task = json.dumps({"files": [str(write_jsonl(tmp_path / "mine.jsonl", questions(5)))], "rule": "number"})
    command = ["evaluate", str(folder), "--model", str(answering_model), "evaluation.tasks=[mine]",
               f"evaluation.custom.mine={task}"]  # fmt: skip
    assert main([*command, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    [answers] = told["answers"]
    assert (answers["model"], answers["task"], answers["num_questions"]) == ("model-model", "mine", 5)
    assert answers["tokens"] > 0
    assert told["seconds"] * told["num_workers"] == pytest.approx(answers["seconds"])
    assert (told["sandbox"], told["complete"]) == (None, [])  # no programs are asked for
    assert main([*command, "--export-lm-eval", str(tmp_path / "out"), "--json"]) == 2
    assert "has no results, so --json would do nothing here; leave it out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Comparisons.


def test_comparisons_fit_into_json(tmp_path):
    made = made_run(tmp_path, targets=("full", "s2l-0.5"), heldout={"split": 20})
    JudgedModels(made, num_questions=20).judge()
    run = load_run(str(made.folder))
    compared = compare_evaluations(run, run.config, ["full", "s2l-0.5"])
    told = json.loads(
        json.dumps(EvaluationResult(run, [], overview(run, run.config), compared).plain(), allow_nan=False)
    )
    assert set(told["models"]) >= {"full", "s2l-0.5"}
    [one] = told["comparisons"]
    assert (one["first"], one["second"], sorted(one["tasks"])) == ("full", "s2l-0.5", ["gsm8k", "svamp"])


def changed(run: Run, model: str, change: dict[str, Any]) -> Run:
    """As if this model's texts had come about otherwise."""
    for one in [one for (label, _), one in run.evaluations.items() if label == model]:
        manifest = read_manifest(one.storage)
        assert manifest is not None
        write_manifest(one.storage.recording(), manifest.model_copy(update={"extra": manifest.extra | change}))
    return load_run(run.uri)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"engine": "vllm", "engine_version": "0.29.0", "batch_invariant": False}, "vllm 0.29.0, float32, cpu"),
        ({"dtype": "bfloat16"}, "transformers, bfloat16, cpu"),
        ({"device": "NVIDIA H100"}, "transformers, float32, NVIDIA H100"),
    ],
)
def test_texts_that_came_about_otherwise_are_compared_only_where_that_is_asked_for(tmp_path, change, told, capsys):
    made = made_run(tmp_path, targets=("full", "s2l-0.5"), heldout={"split": 20})
    JudgedModels(made, num_questions=40).judge()
    run = load_run(str(made.folder))
    models = ["full", "s2l-0.5"]
    alike = compare_evaluations(run, run.config, models)
    run = changed(run, "full", change)
    with pytest.raises(EvaluationError) as error:
        compare_evaluations(run, run.config, models)
    assert f"with {told}, s2l-0.5 with transformers, float32, cpu" in str(error.value)
    assert "generate both in the same way, or add --across-engines" in str(error.value)
    assert compare_evaluations(run, run.config, models, across_engines=True) == alike


@pytest.mark.thorough
def test_across_engines_does_not_reach_across_forms(tmp_path):
    made = made_run(tmp_path, targets=("full", "s2l-0.5"), heldout={"split": 20})
    JudgedModels(made, num_questions=20).judge()
    run = changed(load_run(str(made.folder)), "full", {"form": "pot"})
    with pytest.raises(EvaluationError, match=r"in different forms \(pot and cot\)"):
        compare_evaluations(run, run.config, ["full", "s2l-0.5"], across_engines=True)
