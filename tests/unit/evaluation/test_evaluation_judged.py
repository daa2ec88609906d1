"""Verdicts on texts that lie in the artifact, without a model: LaTeX in the sandbox, summaries beside their yardsticks,
differences of two models' summaries."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from s2l_ray.artifacts.manifest import StageManifest
from s2l_ray.artifacts.results import Evaluation
from s2l_ray.config.evaluation import BertScoreConfig, ConfidenceConfig, EvaluationConfig
from s2l_ray.evaluation.comparison import comparison_lines
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.questions import first_by_id, read_questions
from s2l_ray.evaluation.tasks import BUILT_IN
from s2l_ray.stages.evaluation.part import GENERATION_SCHEMA, generations_name
from s2l_ray.stages.evaluation.score import Flags, Judgement, judge
from s2l_ray.stages.evaluation.tasks import AskedTask
from s2l_ray.storage.folder import Storage
from s2l_ray.workflow.differences import compare_summaries

CONFIDENCE = ConfidenceConfig(resamples=500)


def judged(name: str, rows: list[dict[str, Any]], texts: list[str | None], folder: Path) -> Judgement:
    """As if a model had said `texts` to the questions of `rows`; None: it was not asked."""
    task = BUILT_IN[name]
    questions = read_questions(task, [json.dumps(row) for row in rows], "made up")
    generation = Storage.open(folder / "generation")
    said = [
        {"question_id": question.id, "task": name, "pass": "cot", "sample": 0, "prompt_ids": [1], "text": text,
         "num_new_tokens": 9, "finish": "length" if text.endswith("…") else "eos"}
        for question, text in zip(questions, texts, strict=True) if text is not None
    ]  # fmt: skip
    generation.write_table(generations_name("cot", 0), pa.Table.from_pylist(said, GENERATION_SCHEMA))
    flags = Flags({q.id: False for q in questions}, {q.id: False for q in questions})
    config = EvaluationConfig(tasks=[name], bertscore=BertScoreConfig(model=None), confidence=CONFIDENCE)
    asked = AskedTask(task, first_by_id(questions, None), ("cot",), 100)
    facts = {"model": "x", "form": "cot"}
    return judge(asked, generation, flags, config, 0, facts, Storage.open(folder / "scores"))


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
def test_latex_is_compared_in_the_sandbox(tmp_path):
    rows = [
        {"question": "1?", "answer": r"\frac{x}{2}+\sqrt{y}", "topic": "Algebra", "level": "Level 5"},
        {"question": "2?", "answer": r"\frac{x}{2}", "topic": "Algebra", "level": "Level 1"},
        {"question": "3?", "answer": "7", "topic": "Numbers", "level": "Level 1"},
    ]
    texts = [r"So it is $\boxed{\sqrt{y}+0.5x}$.", r"The answer is $\boxed{\frac{x}{3}}$.", "It is \\boxed{7} and …"]
    made = judged("math", rows, list(texts), tmp_path)
    answers = {
        row["question"]: row for row in Storage.open(tmp_path / "scores").read_table("answers.parquet").to_pylist()
    }
    assert [answers[f"{i}?"]["correct"] for i in (1, 2, 3)] == [True, False, True]
    assert made.sandbox is not None
    assert made.sandbox["isolated"]
    assert made.report["figures"]["correct"]["value"] == pytest.approx(2 / 3)
    assert {group["name"] for group in made.report["groups"]} == {"Algebra", "Numbers", "Level 1", "Level 5"}


REPORTS = [
    {
        "findings": "Lungs are clear. Heart is normal.",
        "impression": "No acute cardiopulmonary process.",
        "source": "iu",
    },
    {"findings": "There is a left effusion. Heart is large.", "impression": "Left effusion.", "source": "iu"},
    {"findings": "Rib fracture on the right. Lungs clear.", "impression": "Right rib fracture.", "source": "iu"},
]


@pytest.mark.thorough
def test_summaries_stand_beside_trivial_ones(tmp_path):
    made = judged("clinical", REPORTS, ["No acute cardiopulmonary process.", "Left effusion.", ""], tmp_path)
    report = made.report
    assert report["unit"] == "percent"
    figures = report["figures"]
    assert figures["rougeL"]["value"] == pytest.approx(200 / 3)
    assert 0 < figures["bleu"]["value"] < 100
    assert set(report["yardsticks"]) == {"constant", "first_sentence"}
    assert report["yardsticks"]["constant"]["rougeL"]["value"] < figures["rougeL"]["value"]
    assert set(report["splits"]) == {"normal", "abnormal"}
    assert report["splits"]["normal"]["rougeL"]["value"] == 100
    assert report["shares"]["no_answer"] == pytest.approx(1 / 3)
    assert any(note.startswith("BLEU: nrefs:1|case:mixed") for note in report["notes"])
    page = Storage.open(tmp_path / "scores").read_bytes("report.md").decode()
    assert "| constant: rougeL |" in page


def test_what_was_not_asked_is_counted_and_nothing_asked_is_refused(tmp_path):
    made = judged("clinical", REPORTS, ["No acute cardiopulmonary process.", None, None], tmp_path / "some")
    assert (made.num_questions, made.report["num_not_asked"]) == (1, 2)
    assert "2 of 3 questions were not asked" in made.report["notes"][-1]
    assert made.warnings == made.report["notes"][-1:]  # that of BLEU's signature warns of nothing
    with pytest.raises(EvaluationError, match="none of 3 prompts fits in the model's window"):
        judged("clinical", REPORTS, [None, None, None], tmp_path / "none")


def test_two_models_summaries_are_compared_on_the_reports_of_both(tmp_path):
    rows = [{**REPORTS[1], "findings": f"Number {i}."} for i in range(30)]
    sides = []
    for name, texts in (("good", ["Left effusion."] * 30), ("poor", [None, *["Right effusion."] * 29])):
        made = judged("clinical", rows, list(texts), tmp_path / name)
        extra = {"version": 1, "model": name, "task": "clinical", "form": "cot", "engine": "transformers",
                 "dtype": "float32", "device": "cpu", "rules_version": 1, "num_questions": made.num_questions,
                 "figures": made.report["figures"], "shares": {}}  # fmt: skip
        manifest = StageManifest(stage=f"evaluation/{name}/clinical", key="k", extra=extra)
        stage = Evaluation(f"evaluation/{name}/clinical", "x", Storage.open(tmp_path / name / "scores"), manifest)
        sides.append({"clinical": stage})
    difference = compare_summaries(sides[0], sides[1], 0, CONFIDENCE)["clinical"]
    assert set(difference) == {"bleu", "rouge1", "rouge2", "rougeL"}
    assert difference["rougeL"]["value"] == pytest.approx(50)
    assert difference["rougeL"]["num_questions"] == 29
    lines = comparison_lines("good", "poor", {"tasks": {}, "averages": {}, "summaries": {"clinical": difference}})
    assert "rougeL +50.00 (+50.00 to +50.00)" in lines[1]
