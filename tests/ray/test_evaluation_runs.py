"""Evaluation on real Ray: the quickstart's exact answers, hybrid on a pool of actors, interruptions, verdicts again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import s2l_ray
from s2l_ray.artifacts.evaluations import read_scores
from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.artifacts.verify import verify_run
from s2l_ray.cli import main
from s2l_ray.data.example_id import content_id
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.execution.actor_pool import ActorPool
from s2l_ray.testing.quiet import Quiet
from s2l_ray.testing.tiny import tiny_run_config, write_jsonl
from tests.support.answering_model import questions

pytestmark = pytest.mark.usefixtures("ray_cluster")

NUM = 64
FULL = "full"


@pytest.fixture(scope="module")
def model(answering_model: Path) -> Path:
    return answering_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Run:
    """One run with a target that has learnt a little, which its configuration evaluates."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_jsonl(folder / "mine.jsonl", questions(NUM))
    tree = tiny_run_config(folder / "run", proxy__epochs=1, trajectories__num_snapshots=2, clusters__num_clusters=5,
                           selection__budgets=[0.3])  # fmt: skip
    tree["proxy"]["from_config"]["max_position_embeddings"] = 96
    tree["target"] = {**tree["proxy"], "subsets": [FULL], "epochs": 6, "learning_rate": 1e-2}
    tree["evaluation"] = {
        "tasks": ["quickstart"], "generation": {"questions_per_part": 400, "tokens_per_batch": 8192},
        "custom": {"mine": {"files": [str(folder / "mine.jsonl")], "rule": "number", "group_by": ["kind"],
                            "max_new_tokens": 24}},
    }  # fmt: skip
    tree["resources"]["evaluation"] = {"workers": 2, "cpus_per_worker": 1}
    return s2l_ray.run(tree, progress=Quiet())


def test_greedy_answers_are_exact_where_every_response_token_is_the_first_choice(run):
    """What generation gives, and what the held-out evaluation has told without generating anything."""
    judged = {
        content_id([{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["gold"]}]): row
        for row in run.evaluations[FULL, "quickstart"].answers().to_pylist()
    }
    target = run.target(FULL)
    assert target.heldout_evaluation is not None
    told = read_scores(target.heldout_evaluation).to_pylist()
    told = [row for row in told if row["heldout_set"] == "balanced"]
    assert len(told) == len(judged) == 1350
    differ = [row for row in told if judged[row["example_id"]]["correct"] is not row["exact_match"]]
    # The same text in other tokens ("r" "e" "v" for "r" "ev") is the right answer, but not the response's own tokens.
    spelt = [row for row in differ if judged[row["example_id"]]["num_new_tokens"] != row["num_response_tokens"]]
    assert differ == [row for row in spelt if judged[row["example_id"]]["correct"]]
    figure = run.evaluations[FULL, "quickstart"].figures["correct"]
    assert 0 < figure["value"] < 1
    exact = target.evaluation["balanced"]["after"]["exact_match"]
    assert figure["value"] == pytest.approx(exact + len(differ) / len(told))
    assert len(differ) < 5


def test_the_run_knows_its_evaluations_and_skips_them(run):
    found = load_run(str(run.storage.local_path()))
    assert list(found.evaluations) == [(FULL, "quickstart")]
    progress = Quiet()
    again = s2l_ray.evaluate(str(run.storage.local_path()), progress=progress)
    assert all(stage.reused for stage in again.evaluations)
    assert "[generation/full/quickstart] unchanged, skipped" in progress.lines()
    assert again.figure(FULL, "quickstart") == run.evaluations[FULL, "quickstart"].figures["correct"]["value"]
    checked = verify_run(run.storage, Quiet())
    assert checked.problems == []
    assert not any("answers.parquet" in line for line in checked.unverified)


def hybrid(run: Run | str, model: Path, **options: Any) -> s2l_ray.EvaluationResult:
    changes = ["evaluation.generation.questions_per_part=16", "evaluation.sandbox.seconds=60"]
    options = {"progress": Quiet(), **options}
    return s2l_ray.evaluate(run, None, ["mine"], changes, form="hybrid", model=str(model), **options)


@pytest.fixture(scope="module")
def undisturbed(run: Run, model: Path) -> s2l_ray.EvaluationResult:
    return hybrid(str(run.storage.local_path()), model)


@pytest.mark.thorough
def test_hybrid_on_two_actors(undisturbed):
    [evaluation] = undisturbed.evaluations
    assert evaluation.model == "model-model"
    assert undisturbed.figure("model-model", "mine") == 0.75
    report = evaluation.report
    assert {g["name"]: g["value"] for g in report["groups"]} == {"A": 1.0, "B": 1.0, "C": 1.0, "D": 0.0}
    assert report["shares"]["fell_back"] == 0.5
    generation = undisturbed.run.storage.sub(report["generation"])
    manifest = generation.read_json("manifest.json")["extra"]
    assert (manifest["form"], manifest["num_parts"], manifest["finish"]) == ("hybrid", 4, {"eos": NUM + NUM // 2})
    [probe] = manifest["sandbox"]
    assert probe["isolated"]
    assert set(probe["attempts"]) >= {"read", "write", "socket", "fork"}
    assert "model-model" in undisturbed.run.storage.read_bytes("evaluation/report.md").decode()


def texts_of(result: s2l_ray.EvaluationResult) -> dict[str, bytes]:
    folder = result.run.storage.sub(result.evaluations[0].report["generation"])
    return {entry.name: folder.read_bytes(entry.name) for entry in folder.list("generations")}


@pytest.mark.thorough
def test_stopped_half_way_and_then_bereft_of_an_actor(run, model, undisturbed, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(run.storage.local_path(), copy, ignore=lambda at, names: {"generation", "evaluation"} & set(names))
    real = ActorPool.map
    done: list[int] = []

    def stopped(pool: ActorPool, items: Any, on_done: Any) -> Any:
        def stop(row: Any) -> None:
            on_done(row)
            raise KeyboardInterrupt

        return real(pool, items, stop)

    def bereft(pool: ActorPool, items: Any, on_done: Any) -> Any:
        import ray

        def kill(row: Any) -> None:
            on_done(row)
            done.append(row["part"])
            if len(done) == 1:
                ray.kill(next(actor for actor in pool._all if actor not in pool._idle))

        return real(pool, items, kill)

    monkeypatch.setattr(ActorPool, "map", stopped)
    with pytest.raises(KeyboardInterrupt):
        hybrid(str(copy), model)
    [left] = (copy / "generation").iterdir()
    assert not (left / "manifest.json").exists()
    assert list(left.rglob("pot-*.parquet"))
    monkeypatch.setattr(ActorPool, "map", bereft)
    progress = Quiet()
    again = hybrid(str(copy), model, progress=progress)
    assert sorted(done) == [0, 1, 2, 3]
    assert "a process was lost" in progress.lines()
    assert texts_of(again) == texts_of(undisturbed)
    assert again.figure("model-model", "mine") == 0.75


@pytest.mark.thorough
def test_verdicts_again_without_ray_and_comparisons(undisturbed, run, model, monkeypatch, capsys):
    where = str(undisturbed.run.storage.local_path())
    monkeypatch.setattr("s2l_ray.execution.session.ray_session", lambda *_: pytest.fail("a Ray was started"))
    again = hybrid(where, model, rescore=True)
    assert not again.evaluations[0].reused
    assert again.evaluations[0].content == undisturbed.evaluations[0].content
    with pytest.raises(EvaluationError, match="--rescore judges existing answers, but model-model has not"):
        s2l_ray.evaluate(where, None, ["mine"], form="pot", model=str(model), rescore=True, progress=Quiet())
    assert main(["evaluate", where, "--rescore", "--compare", f"{FULL},model-model"]) == 2
    assert "no question in common" in capsys.readouterr().err
    assert main(["evaluate", where, "--rescore", "--compare", f"{FULL},other"]) == 2
    assert "other has not been evaluated" in capsys.readouterr().err


def test_dry_run_and_export_start_nothing(run, model, tmp_path, monkeypatch, capsys):
    where = str(run.storage.local_path())
    monkeypatch.setattr("s2l_ray.execution.session.ray_session", lambda *_: pytest.fail("a Ray was started"))
    assert main(["evaluate", where, "--tasks", "mine,quickstart", "--form", "hybrid", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "mine: 64 questions, pot then cot, at most 128 completions of 24 new tokens" in said
    assert "quickstart: 1,350 questions, cot" in said
    assert "isolates programs" in said
    assert main(["evaluate", where, "--tasks", "mine", "--export-lm-eval", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"--tasks s2l_mine --include_path {tmp_path / 'out'}" in said
    names: dict[str, Any] = {"__name__": "rules"}
    exec((tmp_path / "out/s2l_rules.py").read_text(), names)
    rows = [eval(line, {}) for line in (tmp_path / "out/mine.jsonl").read_text().splitlines()]
    assert len(rows) == NUM
    assert names["judge"](rows[0], ["The answer is 42."]) == {"correct": 1.0}
    assert names["judge"](rows[0], ["The answer is 43."]) == {"correct": 0.0}
    assert "process_results: !function s2l_rules.judge" in (tmp_path / "out/mine.yaml").read_text()
