"""Answers to test questions on the page: figures equal to those of the judging, paired differences, words, texts that
mean harm."""

from __future__ import annotations

import re
import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.artifacts.run import load_run
from s2l_ray.config.custom_task import CustomTaskConfig
from s2l_ray.config.evaluation import ConfidenceConfig, EvaluationConfig
from s2l_ray.config.load import to_yaml
from s2l_ray.evaluation import statistics
from s2l_ray.reporting.charts.worth import _MOST_NAMES, _NAMES, _WHOLE, _ticks, label_width
from s2l_ray.reporting.sweep_results import present_sweep
from s2l_ray.reporting.write import facts_of
from tests.support.judged_runs import LABELS, JudgedModels, found, judged_run, tasks_page
from tests.support.report_pages import HOSTILE, Page
from tests.support.report_runs import MadeRun


@pytest.fixture(scope="module")
def one(tmp_path_factory: Any) -> JudgedModels:
    return judged_run(tmp_path_factory.mktemp("one"), both=True, tasks=("gsm8k", "numglue", "clinical"), form="hybrid",
                      num_questions=120)  # fmt: skip


@pytest.fixture(scope="module")
def whole(one: JudgedModels) -> tuple[str, dict[str, Any]]:
    return tasks_page(one.made.folder)


@pytest.fixture(scope="module")
def several(tmp_path_factory: Any) -> JudgedModels:
    return judged_run(tmp_path_factory.mktemp("several"), both=True, seeds=(0, 1, 2), num_questions=60)


@pytest.mark.thorough
def test_accuracies_have_the_intervals_of_the_judging(one, whole):
    _, facts = whole
    assert facts["judged"]["num_seeds"] == 1
    for (model, task), evaluation in load_run(str(one.made.folder)).evaluations.items():
        for metric in ("correct", "correct_published") if task != "clinical" else ():
            told = found(facts, "scores", model=model, task=task, metric=metric, part="")
            figure = evaluation.figures[metric]
            assert told["estimate"] == {name: figure[name] for name in ("value", "low", "high")}
            assert told["num_questions"] == 120
        clean = evaluation.figures.get("correct_clean")
        if clean is not None:
            told = found(facts, "scores", model=model, task=task, metric="correct", part="clean")
            assert told["estimate"]["value"] == pytest.approx(clean["value"])
            assert told["num_questions"] == clean["num_questions"] == 108


def test_differences_are_paired_and_holm_is_over_the_tasks_of_a_pair(one, whole):
    _, facts = whole
    p_values = {}
    for task in ("gsm8k", "numglue"):
        right = [np.array(one.right[label, task, 0]) for label in ("s2l-0.1", "full")]
        told = found(facts, "differences", model="s2l-0.1", baseline="full", task=task)
        assert told["estimate"]["value"] == pytest.approx(right[0].mean() - right[1].mean())
        p_values[task] = statistics.mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
    for task, p_value in statistics.holm(p_values).items():
        told = found(facts, "differences", model="s2l-0.1", baseline="full", task=task)
        assert told["p_value"] == pytest.approx(p_value)
        assert told["verdict"] == "better"
    mean = found(facts, "differences", model="s2l-0.1", baseline="full", task="")
    values = [
        found(facts, "differences", model="s2l-0.1", baseline="full", task=t)["estimate"]["value"] for t in p_values
    ]
    assert mean["estimate"]["value"] == pytest.approx(np.mean(values))
    pairs = {(d["model"], d["baseline"]) for d in facts["judged"]["differences"]}
    assert pairs == {("full", "base"), *((label, "full") for label in LABELS), ("s2l-0.1", "random-0.1"),
                     ("s2l-0.2", "random-0.2")}  # fmt: skip


def test_a_test_that_is_not_passed_decides_against_an_interval():
    from s2l_ray.reporting.intervals import Estimate
    from s2l_ray.reporting.judged_pairs import _Compared, _difference

    compared = _Compared(Estimate(0.1, 0.01, 0.2), 0.01, None, 100, 1)
    words = [_difference("t", "correct", "a", "b", compared, p, 0.95).verdict for p in (0.01, 0.06, None)]
    assert words == ["better", "not told apart", "better"]


def test_summaries_stand_beside_trivial_ones_and_the_page_says_when_those_are_as_good(one, whole):
    text, facts = whole
    reports = {m: e.report for (m, task), e in load_run(str(one.made.folder)).evaluations.items() if task == "clinical"}
    for name in ("constant", "first_sentence"):
        told = found(facts, "scores", model=name, task="clinical", metric="rougeL")
        assert told["estimate"]["value"] == reports["full"]["yardsticks"][name]["rougeL"]["value"]
    for metric in ("bleu", "rougeL"):
        told = found(facts, "scores", model="full", task="clinical", metric=metric, part="")
        assert told["estimate"]["value"] == pytest.approx(reports["full"]["figures"][metric]["value"])
        assert told["estimate"]["low"] < told["estimate"]["value"] < told["estimate"]["high"]
    assert {"normal", "abnormal"} <= {s["part"] for s in facts["judged"]["scores"]}
    shown = " ".join(Page(text).texts)
    assert "constant summary" in shown
    assert "first sentence" in shown
    assert "less than a trivial summary" not in shown


def test_groups_shares_and_overlap_with_the_corpus_are_told(one, whole):
    text, facts = whole
    groups = [g for g in facts["judged"]["groups"] if g["task"] == "numglue" and g["model"] == "full"]
    assert {(g["column"], g["value"], g["num_questions"]) for g in groups} == {
        ("type", "algebra", 60), ("type", "geometry", 60),
    }  # fmt: skip
    shares = found(facts, "shares", task="gsm8k", model="base")
    assert shares["program_failed"] == {"exception": 0.25}
    assert (shares["fell_back"], shares["contaminated"]) == (0.25, 0.1)
    section = re.findall(r'<section id="tasks".*?</section>', text, re.DOTALL)[0]
    assert "program: exception" in section
    assert "not in the corpus (108)" in section
    assert "NumGLUE by type" in section
    assert "10.0\u00a0% of GSM8K" in section


def test_every_table_of_the_section_holds_the_numbers_of_the_facts(whole):
    text, facts = whole
    section = re.findall(r'<section id="tasks".*?</section>', text, re.DOTALL)[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", section)]
    titles = {t["name"]: t["title"] for t in facts["judged"]["tasks"]} | {"": "mean"}
    names = {m["label"]: m["name"] for m in facts["judged"]["models"]}
    for d in facts["judged"]["differences"]:
        rows = [c for c in cells if c[:3] == [titles[d["task"]], names[d["model"]], names[d["baseline"]]]]
        assert any(c[-1] == d["verdict"] and c[4] == f"{d['num_questions']:,}" for c in rows), (d, rows)
    for s in facts["judged"]["scores"]:
        if s["metric"] == "correct" and not s["part"]:
            value = f"{s['estimate']['value'] * 100:.1f}\u00a0%"
            assert any(c[:1] == [titles[s["task"]]] and value in c for c in cells), s


def test_the_verdict_names_every_metric_and_only_numbers_of_the_facts(whole):
    text, facts = whole
    said = [line for line in facts["verdict"] if line.startswith("By its answers")]
    assert len(said) == 2
    assert "better than the full data on “GSM8K” (accuracy" in said[0]
    assert "BLEU" in said[0]
    assert "ROUGE-L" in said[0]
    known = [abs(v) for d in facts["judged"]["differences"] for v in d["estimate"].values()]
    for number in re.findall(r"[+−](\d+\.\d)", " ".join(said)):
        assert any(abs(float(number) - v * scale) < 0.051 for v in known for scale in (1, 100)), number
    assert facts["judged"]["budgets"]
    assert "Accuracy against budget" in text


def test_quality_against_budget_is_relative_to_the_full_data_by_task_and_in_the_mean(one, whole):
    _, facts = whole
    accuracy, rouge = facts["judged"]["budgets"]
    assert [b["metric"]["key"] for b in (accuracy, rouge)] == ["correct", "rougeL"]
    points = {(p["selector"], round(p["share"], 1), p["heldout_set"]): p for p in accuracy["points"]}
    ratios = []
    for task in ("gsm8k", "numglue"):
        right = {label: np.mean(one.right[label, task, 0]) for label in ("s2l-0.1", "full", "random-0.1")}
        point = points["s2l", 0.1, task]
        ratios.append(right["s2l-0.1"] / right["full"] * 100)
        assert point["relative"]["value"] == pytest.approx(ratios[-1])
        assert point["relative"]["low"] < ratios[-1] < point["relative"]["high"]
        assert point["against_random"]["value"] == pytest.approx(right["s2l-0.1"] - right["random-0.1"])
        full = points["full", 1.0, task]["relative"]
        assert full == {"value": 100.0, "low": 100.0, "high": 100.0}
    assert points["s2l", 0.1, ""]["relative"]["value"] == pytest.approx(np.mean(ratios))
    assert {p["selector"] for p in accuracy["points"]} == {"full", "s2l", "random"}
    assert accuracy["smallest"] == {"s2l": points["s2l", 0.1, ""]["share"], "random": None}


@pytest.mark.thorough
def test_a_sweep_that_answers_decided_has_their_curve_with_intervals_and_pictures(one):
    report = {"metric": "evaluation.gsm8k.correct", "cost": {"selection": {"flops": 4e9}}}
    made, lines = present_sweep(load_run(str(one.made.folder)), pa.table({}), report)
    assert set(made) == {"budget.png", "budget.svg", "cost.png", "cost.svg"}
    assert b"gsm8k" in made["budget.svg"]
    value = f"{np.mean(one.right['s2l-0.1', 'gsm8k', 0]) * 100:.1f}\u00a0%"
    assert any("s2l 10" in line and value in line for line in lines), lines
    other = report | {"metric": "evaluation.gsm8k.first"}
    assert present_sweep(load_run(str(one.made.folder)), pa.table({}), other) == ({}, [])


@pytest.mark.thorough
def test_several_seeds_are_drawn_before_questions(several):
    page, facts = tasks_page(several.made.folder)
    judged = facts["judged"]
    assert judged["num_seeds"] == 3
    by_seed = np.array([several.right["s2l-0.1", "gsm8k", seed] for seed in range(3)], float)
    told = found(facts, "scores", model="s2l-0.1", task="gsm8k", metric="correct", part="")
    assert told["num_seeds"] == 3
    assert told["estimate"]["value"] == pytest.approx(by_seed.mean())
    assert told["deviation"] == pytest.approx(by_seed.mean(axis=1).std(ddof=1))
    assert found(facts, "scores", model="base", task="gsm8k", metric="correct", part="")["num_seeds"] == 1
    full = np.array([several.right["full", "gsm8k", seed] for seed in range(3)], float)
    difference = found(facts, "differences", model="s2l-0.1", baseline="full", task="gsm8k")
    assert difference["num_seeds"] == 3
    assert difference["estimate"]["value"] == pytest.approx(by_seed.mean() - full.mean())
    assert difference["p_value"] is not None
    assert {p["num_seeds"] for p in judged["budgets"][0]["points"]} == {3}
    assert "standard deviation over seeds" in page
    assert "over questions and 3 seeds" in page


@pytest.mark.thorough
def test_texts_of_models_and_questions_mean_no_harm(tmp_path):
    custom = {"mine": CustomTaskConfig(files=["x.jsonl"], rule="number", group_by=["topic"])}
    models = judged_run(tmp_path, num_questions=40, tasks=("mine",), custom=custom, topics=HOSTILE, text=HOSTILE[0])
    text, facts = tasks_page(models.made.folder)
    page = Page(text)
    assert len(page.all("script")) == 2  # the page's own, and its data
    assert not page.all("img")
    assert {g["value"] for g in facts["judged"]["groups"]} >= {"<svg onload=window.hit=1>"}
    assert "{{ 7*7 }}" in "".join(page.texts)
    assert "\u202e" not in text
    assert "\x1b" not in text


@pytest.mark.thorough
def test_a_curve_has_every_target_and_the_page_says_what_its_pictures_leave_out(one, monkeypatch):
    monkeypatch.setattr("s2l_ray.reporting.judged.MAX_MODELS", 2)
    text, facts = tasks_page(one.made.folder)
    assert [m["label"] for m in facts["judged"]["models"]] == ["base", "full"]
    assert len({(p["selector"], p["share"]) for p in facts["judged"]["budgets"][0]["points"]}) == 5
    assert "2 of 6 models are shown" in "".join(Page(text).texts)


@pytest.mark.thorough
def test_what_answered_no_task_that_is_shown_is_left_out(tmp_path, monkeypatch):
    models = judged_run(tmp_path, num_questions=30)
    [gone] = (models.made.folder / "evaluation").glob("full-gsm8k-*")
    shutil.rmtree(gone)
    monkeypatch.setattr("s2l_ray.reporting.judged.MAX_TASKS", 1)
    facts = facts_of(load_run(str(models.made.folder))).plain()["judged"]
    assert [m["label"] for m in facts["models"]] == ["base", "s2l-0.1", "random-0.1"]
    assert [note.partition(";")[0] for note in facts["notes"]] == ["3 of 4 models are shown", "1 of 2 tasks are shown"]


@pytest.mark.thorough
def test_a_curve_in_the_terminal_names_the_level_and_what_was_sampled(one, tmp_path):
    shutil.copytree(one.made.folder, tmp_path / "run")
    run = load_run(str(tmp_path / "run"))
    asked = EvaluationConfig(tasks=["gsm8k"], confidence=ConfidenceConfig(level=0.9))
    run.storage.write_bytes("config.yaml", to_yaml(run.config.model_copy(update={"evaluation": asked})).encode())
    report = {"metric": "evaluation.gsm8k.correct", "cost": {"selection": {"flops": 4e9}}}
    _, lines = present_sweep(load_run(run.uri), pa.table({}), report)
    assert "90 % intervals over questions (one seed)" in " ".join(line.strip() for line in lines)


def test_the_sets_of_questions_stand_in_the_table_of_data_sets(whole):
    text, facts = whole
    asked = {d["name"]: d for d in facts["data_sets"] if d["role"] == "test questions"}
    assert set(asked) == {"GSM8K", "NumGLUE", "Clinical summaries"}
    assert (asked["GSM8K"]["num_examples"], asked["GSM8K"]["published"]) == (120, 1319)
    assert asked["GSM8K"]["level"] == "early algebra"
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    row = next(c for c in cells if c[:2] == ["GSM8K", "test questions"])
    assert row[2:7] == ["early algebra", "a number", "in the training data’s", "120", "1,319"]


def test_a_run_that_asked_nothing_says_how_to_ask(tmp_path):
    text, facts = tasks_page(MadeRun(tmp_path / "run", num_examples=100, only_corpus=True).make())
    assert facts["judged"] is None
    assert "s2l evaluate RUN" in "".join(Page(text).texts)


@pytest.mark.parametrize("panel", [_WHOLE - _NAMES, _WHOLE - _MOST_NAMES])
@pytest.mark.parametrize(
    ("low", "high", "room"),
    [(0, 100, 142), (55, 98, 116), (0.80, 0.84, 0.86), (-30, 8, 46), (-0.39, 0, 0.39), (-12_000, 3, 12_000)],
)
def test_an_axis_names_no_value_far_beyond_the_figures_and_no_two_in_one_place(low, high, room, panel):
    domain = [low - 0.1 * (high - low), room]
    ticks = _ticks(low, high, domain, panel)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= 6
    assert max(ticks) <= high + step / 2
    assert not [t for t in ticks if t > 100]
    assert label_width(ticks, step) < step / (domain[1] - domain[0]) * panel
