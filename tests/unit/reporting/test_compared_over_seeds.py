"""`s2l evaluate --compare` over training seeds, beside the page."""

from __future__ import annotations

import re
from typing import Any

import pytest

from s2l_ray.artifacts.run import load_run
from s2l_ray.evaluation.comparison import comparison_lines
from s2l_ray.reporting.write import facts_of
from s2l_ray.workflow.differences import compare_evaluations
from tests.support.judged_runs import JudgedModels
from tests.support.report_runs import MadeRun


@pytest.fixture
def judged(tmp_path: Any) -> JudgedModels:
    made = MadeRun(
        tmp_path / "run", num_examples=150, num_clusters=2, budgets=(0.1,), targets=("full", "s2l-0.1"),
        seeds=(0, 1, 2), heldout={"split": 20}, topics=("add",), sources=("books",),
    )  # fmt: skip
    made.make()
    models = JudgedModels(made, num_questions=60)
    models.judge()
    return models


def found(facts: dict[str, Any], what: str, **wanted: Any) -> dict[str, Any]:
    [row] = [row for row in facts["judged"][what] if wanted.items() <= row.items()]
    return dict(row)


@pytest.mark.thorough
def test_the_command_compares_over_seeds_as_the_page_does(judged: JudgedModels) -> None:
    run = load_run(str(judged.made.folder))
    config = run.config
    [made] = compare_evaluations(run, config, ["s2l-0.1", "full"])
    facts = facts_of(run).plain()
    for task, one in [*made["over_seeds"]["tasks"].items(), ("", {"correct": made["over_seeds"]["average"]})]:
        page = found(facts, "differences", task=task, metric="correct", model="s2l-0.1", baseline="full")
        told = one["correct"]
        assert page["estimate"] == {"value": told["difference"], "low": told["low"], "high": told["high"]}
        assert page["p_value"] == told.get("p_holm", page["p_value"])
        assert (told["num_seeds"], told["num_questions"]) == (3, page["num_questions"])
    lines = comparison_lines("s2l-0.1", "full", made)
    at = lines.index("  over training seeds (drawn first, then the questions):")
    assert len(lines) == at + 4
    assert re.match(r"    gsm8k +[+-].*% ± .*% \(.* to .*\), p=.*, with Holm .*; 3 seeds, 60 questions", lines[at + 1])
    assert "mean of the sets" in lines[at + 3]
    [alone] = compare_evaluations(run, config, ["s2l-0.1", "base"])  # of which there is one
    assert alone["over_seeds"] == {"tasks": {}, "average": None}
    assert not any("over training seeds" in line for line in comparison_lines("s2l-0.1", "base", alone))
