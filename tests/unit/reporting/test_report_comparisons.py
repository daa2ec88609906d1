"""Answers on the page that are not compared, or compared without an interval."""

from __future__ import annotations

import pytest

from s2l_ray.artifacts.run import load_run
from s2l_ray.reporting.write import facts_of
from tests.support.judged_runs import found, judged_run, tasks_page
from tests.support.report_pages import Page


@pytest.mark.thorough
def test_what_other_engines_said_is_not_compared_and_says_so(tmp_path):
    models = judged_run(tmp_path, num_questions=30, tasks=("gsm8k",), engines={"full": "vllm"})
    text, facts = tasks_page(models.made.folder)
    pairs = {(d["model"], d["baseline"]) for d in facts["judged"]["differences"]}
    assert pairs == {("s2l-0.1", "random-0.1")}
    [note] = [n for n in facts["judged"]["notes"] if n.startswith("s2l-0.1 and full are not compared on gsm8k")]
    assert f"{note[:1].upper()}{note[1:]}." in "".join(Page(text).texts)


def test_few_questions_are_not_told_apart(tmp_path):
    models = judged_run(tmp_path, num_questions=15, tasks=("gsm8k",), skills={"full": 0.0, "s2l": 1.0})
    facts = facts_of(load_run(str(models.made.folder))).plain()
    told = found(facts, "differences", model="s2l-0.1", baseline="full", task="gsm8k")
    assert told["estimate"]["low"] is None
    assert told["verdict"] == "not told apart"
    assert any("15 questions are too few" in line for line in facts["verdict"])


@pytest.mark.thorough
def test_a_bootstrap_of_few_questions_has_no_interval(tmp_path):
    models = judged_run(tmp_path, both=True, num_questions=15, tasks=("gsm8k", "clinical"))
    judged = facts_of(load_run(str(models.made.folder))).plain()["judged"]
    for metric, task, known in (("correct", "gsm8k", True), ("rougeL", "clinical", False)):
        told = next(s for s in judged["scores"] if (s["metric"], s["task"], s["model"]) == (metric, task, "full"))
        assert (told["estimate"]["low"] is not None) == known  # Wilson's holds for few questions, too
    assert judged["budgets"]
    for point in (p for budgets in judged["budgets"] for p in budgets["points"]):
        every = [point[name] for name in ("estimate", "relative", "against_random") if point[name] is not None]
        assert [one["low"] for one in every] == [None] * len(every)


@pytest.mark.thorough
def test_answers_of_another_engine_are_on_no_curve_relative_to_the_full_datas(tmp_path):
    models = judged_run(tmp_path, both=True, num_questions=30, tasks=("gsm8k",), engines={"full": "vllm"})
    text, facts = tasks_page(models.made.folder)
    [budgets] = facts["judged"]["budgets"]
    assert {p["selector"]: p["relative"] is None for p in budgets["points"]} == {
        "full": False, "s2l": True, "random": True,
    }  # fmt: skip
    assert "Not every budget can be compared with the full data" in "".join(Page(text).texts)


@pytest.mark.thorough
def test_seeds_that_do_not_differ_have_a_deviation_of_nothing(tmp_path):
    models = judged_run(tmp_path, seeds=(0, 1), num_questions=30, tasks=("gsm8k",), skills={"full": 9.0})
    text, _ = tasks_page(models.made.folder)
    assert ">± 0.0\u00a0points<" in text
