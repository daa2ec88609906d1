"""One part of a test set by one worker, without Ray: programs first, chains of thought where they fail, verdicts; and
what an interrupted attempt has left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.prompts import PROGRAM_STEM
from s2l_ray.evaluation.questions import Question, first_by_id, read_questions
from s2l_ray.evaluation.sandbox import SandboxSettings
from s2l_ray.evaluation.scoring import NO_PROGRAM
from s2l_ray.evaluation.tasks import Task
from s2l_ray.lm.exported import ModelSource
from s2l_ray.stages.evaluation.part import PartJob, generations_name, programs_name
from s2l_ray.stages.evaluation.score import Flags, judge
from s2l_ray.stages.evaluation.tasks import AskedTask
from s2l_ray.stages.evaluation.worker import EvaluationWorker, ModelJob
from s2l_ray.storage.folder import Storage
from tests.support.answering_model import KINDS, questions

NUM = 24
TASK = Task("mine", "number", group_by=("kind",), title="Mine", metric=None)


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return first_by_id(read_questions(TASK, [json.dumps(row) for row in questions(NUM)], "made up"), None)


@pytest.fixture(scope="module")
def worker(answering_model: Path) -> Any:
    source = ModelSource(TargetConfig(model=str(answering_model), render="plain", max_length=64))
    settings = SandboxSettings(seconds=30, processes=2, packages=())
    made = EvaluationWorker(ModelJob(source, "plain", {}, False, "float32", "cpu", 1, settings))
    yield made
    made.sandbox().close()


def part(asked: list[Question], out: Storage, **changes: Any) -> PartJob:
    fields: dict[str, Any] = {
        "key": "a key", "part": 0, "questions": asked, "passes": ("pot", "cot"), "program_stem": PROGRAM_STEM,
        "max_new_tokens": 24, "tokens_per_batch": 400, "samples": 1, "temperature": 0.0, "seed": 0, "out": out,
    }  # fmt: skip
    return PartJob(**{**fields, **changes})


@pytest.fixture(scope="module")
def answered(worker: EvaluationWorker, asked: list[Question], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(folder, statistics) of an undisturbed part."""
    out = Storage.open(tmp_path_factory.mktemp("part")).recording()
    return out, worker.run(part(asked, out))


def texts(out: Storage, kind: str) -> dict[bytes, str]:
    return {row["question_id"]: row["text"] for row in out.read_table(generations_name(kind, 0)).to_pylist()}


@pytest.mark.thorough
def test_programs_first_and_a_chain_of_thought_where_they_give_no_answer(answered, asked):
    out, statistics = answered
    kinds = {question.id: question.groups["kind"] for question in asked}
    assert texts(out, "pot") == {id: KINDS[kind][0] for id, kind in kinds.items()}
    assert texts(out, "cot") == {id: KINDS[kind][1] for id, kind in kinds.items() if kind in "BC"}
    outcomes = {row["question_id"]: row["outcome"] for row in out.read_table(programs_name(0)).to_pylist()}
    expected = {"A": {"ok"}, "B": {NO_PROGRAM, "syntax_error"}, "C": {"no_output"}, "D": {"ok"}}
    assert all(outcomes[id] in expected[kind] for id, kind in kinds.items())
    assert statistics["finish"] == {"eos": NUM + NUM // 2}
    assert statistics["probe"]["isolated"]
    assert statistics["probe"]["mode"] == "auto"
    assert {file["name"] for file in statistics["written"]} >= {generations_name("cot", 0), programs_name(0)}


def test_prompts_are_stored_and_are_those_of_training(answered, worker, asked):
    out, _ = answered
    [row] = [r for r in out.read_table(generations_name("pot", 0)).to_pylist() if r["question_id"] == asked[0].id]
    assert worker.tokenizer.decode(row["prompt_ids"]) == asked[0].text + PROGRAM_STEM + "\n"
    assert row["num_new_tokens"] == len(worker.tokenizer(row["text"])["input_ids"]) + 1  # and its end


@pytest.mark.parametrize("lost", ["nothing", "cot", "programs", "everything"])
def test_what_lies_there_is_kept_and_the_rest_ends_in_the_same_bytes(answered, worker, asked, tmp_path, lost):
    out, statistics = answered
    copy = Storage.open(tmp_path).recording()
    for entry in out.list(recursive=True):
        copy.write_bytes(entry.name, out.read_bytes(entry.name))
    for entry in copy.list(recursive=True):
        if lost == "everything" or (lost != "nothing" and lost in entry.name):
            copy.delete(entry.name)
    copy.take_written()
    again = worker.run(part(asked, copy))
    for kind in ("pot", "cot"):
        assert copy.read_bytes(generations_name(kind, 0)) == out.read_bytes(generations_name(kind, 0))
    assert again["content"] == statistics["content"]
    assert again["probe"] == statistics["probe"]
    made = {file["name"].split("/")[0] for file in again["written"]}
    assert made == {"nothing": set(), "cot": {"generations", "quarantine"}, "programs": {"programs"},
                    "everything": {"generations", "programs", "quarantine"}}[lost]  # fmt: skip


@pytest.mark.parametrize("harm", ["torn", "another key", "other texts", "other questions"])
def test_what_is_not_this_parts_is_made_again(answered, worker, asked, tmp_path, harm):
    out, statistics = answered
    copy = Storage.open(tmp_path).recording()
    for entry in out.list(recursive=True):
        content = out.read_bytes(entry.name)
        copy.write_bytes(entry.name, content[:-50] if harm == "torn" else content)
    if harm == "torn":
        assert worker.run(part(asked, copy))["content"] == statistics["content"]
    elif harm == "another key":
        copy.take_written()
        again = worker.run(part(asked, copy, key="b"))
        assert again["content"] == statistics["content"]
        assert generations_name("pot", 0) in {file["name"] for file in again["written"]}
    elif harm == "other texts":
        changed = copy.read_table(programs_name(0))
        metadata = changed.schema.metadata
        sources = [source and source + "  # of another text" for source in changed["source"].to_pylist()]
        place = changed.schema.get_field_index("source")
        changed = changed.set_column(place, changed.schema.field("source"), pa.array(sources, pa.string()))
        copy.write_table(programs_name(0), changed.replace_schema_metadata(metadata))
        copy.take_written()
        again = worker.run(part(asked, copy))
        assert again["content"] == statistics["content"]
        assert programs_name(0) in {file["name"] for file in again["written"]}
    else:
        fewer = worker.run(part(asked[:5], copy))
        assert fewer["rows"] == 5
        assert texts(copy, "pot").keys() == {question.id for question in asked[:5]}


def test_a_prompt_that_does_not_fit_is_named_and_never_cut(worker, asked, tmp_path):
    out = Storage.open(tmp_path).recording()
    longest = max(len(ids) for ids in worker.prompts(asked, part(asked, out), "pot"))
    statistics = worker.run(part(asked, out, passes=("pot",), max_new_tokens=96 - longest + 1))
    assert 0 < statistics["quarantined"] < NUM
    rows = out.read_table("quarantine/pot-00000.parquet").to_pylist()
    assert len(rows) == statistics["quarantined"]
    assert "longer than the model's window of 96; lower evaluation.generation.max_new_tokens" in rows[0]["reason"]
    assert texts(out, "pot").keys() == {q.id for q in asked} - {row["question_id"] for row in rows}


def test_a_prompt_with_a_token_without_an_embedding_is_named(worker, asked, tmp_path, monkeypatch):
    job = part(asked, Storage.open(tmp_path).recording())
    prompts = worker.prompts(asked, job, "pot")
    largest = max(max(ids) for ids in prompts)
    fewer = torch.nn.Embedding(largest, 4)
    monkeypatch.setattr(worker.model, "get_input_embeddings", lambda: fewer)
    again = worker.prompts(asked, job, "pot")
    for ids, now in zip(prompts, again, strict=True):
        if max(ids) < largest:
            assert now == ids
        else:
            assert f"(id {largest:,}), but none of the model's {largest:,} embeddings is for it" in str(now)
    assert any(max(ids) == largest for ids in prompts)


def test_verdicts_and_report(answered, asked, tmp_path):
    out, _ = answered
    known = [question.id for question in asked if question.groups["kind"] == "A"][:2]
    flags = Flags({q.id: q.id in known for q in asked}, {q.id: False for q in asked})
    task = AskedTask(TASK, asked, ("pot", "cot"), 24)
    config = EvaluationConfig(tasks=["mine"])
    scores = Storage.open(tmp_path)
    made = judge(task, out, flags, config, 0, {"model": "tiny", "form": "hybrid"}, scores)
    report = scores.read_json("report.json")
    assert report == json.loads(json.dumps(made.report))
    assert report["figures"]["correct"]["value"] == 0.75  # a wrong program is no reason to fall back
    assert report["figures"]["correct_clean"]["num_questions"] == NUM - 2
    assert {g["name"]: g["value"] for g in report["groups"]} == {"A": 1.0, "B": 1.0, "C": 1.0, "D": 0.0}
    assert report["shares"]["fell_back"] == 0.5
    assert report["shares"]["contaminated"] == pytest.approx(2 / NUM)
    assert report["shares"]["program_failed"].keys() >= {"no_output"}
    rows = scores.read_table("answers.parquet").to_pylist()
    assert {(row["form_used"], row["correct"]) for row in rows} == {("pot", True), ("cot", True), ("pot", False)}
    assert {row["extracted"] for row in rows} == {"42", "41"}
    page = scores.read_bytes("report.md").decode()
    assert "| correct | 75.0% |" in page
    assert "kind = D" in page


def most(table: Any) -> dict[str, Any]:
    """A metric of a user's."""
    assert set(table.column_names) == {"question_id", "question", "gold", "text", "form_used", "groups"}
    return {"length": [len(text) for text in table["text"].to_pylist()], "rows": table.num_rows}


def broken(table: Any) -> dict[str, Any]:
    return {"length": [1, 2, 3]}


def test_a_metric_of_ones_own_stands_beside_the_rules(answered, asked, tmp_path):
    out, _ = answered
    flags = Flags({q.id: False for q in asked}, {q.id: False for q in asked})
    config = EvaluationConfig(tasks=["mine"])
    for name, fails in (("most", False), ("broken", True)):
        task = AskedTask(replace(TASK, metric=f"{__name__}:{name}"), asked, ("pot", "cot"), 24)
        facts = {"model": "tiny", "form": "hybrid"}
        if fails:
            with pytest.raises(EvaluationError, match=r"'length' has shape \(3,\)"):
                judge(task, out, flags, config, 0, facts, Storage.open(tmp_path))
            continue
        report = judge(task, out, flags, config, 0, facts, Storage.open(tmp_path)).report
        assert report["figures"]["own/rows"]["value"] == NUM
        length = report["figures"]["own/length"]
        assert length["low"] < length["value"] < length["high"]
        assert "own/length" in Storage.open(tmp_path).read_table("answers.parquet").column_names


@pytest.mark.thorough
def test_most_of_several_samples_decide(worker, asked, tmp_path):
    """Drawn at a temperature: the same texts again, and verdicts by the answer that most samples give."""
    runs = []
    for name in ("one", "two"):
        out = Storage.open(tmp_path / name).recording()
        budget = 4000 if name == "one" else 1
        hot = part(asked[:4], out, passes=("cot",), samples=5, temperature=1.5, tokens_per_batch=budget)
        runs.append((out, worker.run(hot)))
    assert runs[0][1]["content"] == runs[1][1]["content"]
    rows = runs[0][0].read_table(generations_name("cot", 0)).to_pylist()
    assert len({row["text"] for row in rows}) > 2
    assert sorted({row["sample"] for row in rows}) == [0, 1, 2, 3, 4]
