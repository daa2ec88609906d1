"""Budgets in counts and in shares, the smallest for every selector, and the snapshots that are clustered by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from s2l_ray.artifacts.points import snapshot_steps
from s2l_ray.config import load_config
from s2l_ray.data.trajectories import snapshot_columns
from s2l_ray.sweeps.records import TrialResult
from s2l_ray.sweeps.report import PREDICTED, TARGET, curves_of
from s2l_ray.sweeps.results import result_table
from s2l_ray.sweeps.run import _find_smallest, predicting
from s2l_ray.sweeps.text import report_lines
from s2l_ray.sweeps.trials import FULL, Trial, could_propose, grid, num_possible
from s2l_ray.sweeps.tune import _space, draw
from s2l_ray.workflow.commands import _selecting
from tests.support.selection_file import FILE, file
from tests.support.sweep_config import config
from tests.support.sweep_results import a_run, curve, finished

# --- a count and a share ----------------------------------------------------------------------------------------------

BOTH: list[int | float] = [1, 1.0]


def test_one_example_and_all_of_them_are_two_subsets_everywhere():
    made = load_config(
        file(budgets=BOTH, selectors=["s2l"]) | {"target": {"model": "n", "subsets": ["s2l-1", "s2l-1.0"]}}
    )
    assert list(made.subset_budgets()) == ["s2l-1", "s2l-1.0"]
    swept = config(budgets=BOTH, selectors=["s2l"], full=False, num_seeds=1)
    trials = grid(swept)
    assert [t.describe() for t in trials] == ["s2l 1, seed 0", "s2l 1.0, seed 0"]
    assert num_possible(swept) == 2
    assert len({t.config(swept).target_subsets()[0] for t in trials}) == 2
    assert not could_propose(config(budgets=[1]), Trial("s2l", 1.0, 0))
    assert could_propose(config(budgets=[1]), Trial("s2l", 1, 0))
    drawn = draw(config(budgets=BOTH, selectors=["s2l"], search="random", num_samples=9, num_seeds=1))
    assert {repr(t.budget) for t in drawn} == {"1", "1.0"}


def test_a_searcher_can_tell_them_apart():
    """Optuna looks categories up by ==."""
    categories = _space(config(budgets=BOTH))["budget"].categories
    assert len(set(categories)) == 2
    assert [Trial.of({"selector": "s2l", "budget": c, "seed": 0}).budget for c in categories] == BOTH
    assert [type(Trial.of({"selector": "s2l", "budget": c, "seed": 0}).budget) for c in categories] == [int, float]


def both_finished() -> list[TrialResult]:
    return [finished(Trial("s2l", 1, 0), 0.001, 6.0), finished(Trial("s2l", 1.0, 0), 1.0, 4.0),
            finished(Trial(FULL, 1.0, 0), 1.0, 4.0)]  # fmt: skip


def test_tables_curves_reports_and_words_keep_them_apart():
    from s2l_ray.sweeps.report import make_report

    rows = [r for r in result_table({TARGET: both_finished()}).to_pylist() if r["source"] is None]
    assert {(r["selector"], r["budget"], r["budget_unit"]) for r in rows} == {
        ("s2l", 1.0, "examples"), ("s2l", 1.0, "share"), ("full", 1.0, "share")
    }  # fmt: skip
    swept = config(budgets=BOTH, selectors=["s2l"])
    curves = curves_of(swept, {TARGET: both_finished()})
    assert [p.subset for p in curves[TARGET] if p.selector == "s2l"] == [("s2l", "1"), ("s2l", "1.0")]
    report = make_report(a_run(), swept, {TARGET: both_finished(), PREDICTED: both_finished()}, {}, [])
    assert report["prediction"]["points"] == 3
    units = [(p["budget"], p["budget_unit"]) for p in report["curves"][TARGET] if p["selector"] == "s2l"]
    assert units == [(1, "examples"), (1.0, "share")]
    text = "\n".join(report_lines(report, "x", [], {}))
    assert "s2l 1  " in text
    assert "s2l 1.0  " in text


def test_budgets_of_numpy_have_plain_names():
    base = load_config(FILE)
    budgets: dict[str, Any] = {"s2l-0.25": np.float64(0.25), "s2l-7": np.int64(7), "s2l-0.5": np.float32(0.5)}
    for name, budget in budgets.items():
        assert list(_selecting(base, budget, "s2l").subset_budgets()) == [name]


# --- the smallest budget, for every selector --------------------------------------------------------------------------


class Runner:
    """Finishes every trial at once: the target's losses are those of `curve`, the prediction's the same."""

    def __init__(self, asked: Any) -> None:
        self.base = {TARGET: asked, PREDICTED: predicting(asked)}
        self.finished = {PREDICTED: curve(), TARGET: []}
        self.tried: list[Trial] = []

    def run(self, phase: str, trials: list[Trial]) -> None:
        self.tried += trials
        known = {one.trial for one in self.finished[phase]}
        self.finished[phase] += [one for one in curve() if one.trial in trials and one.trial not in known]


@pytest.mark.thorough
@pytest.mark.parametrize("selectors", [["s2l", "random"], ["random", "s2l"], ["random"]])
def test_the_smallest_budget_is_confirmed_for_every_selector(selectors):
    budgets = sorted({one.trial.budget for one in curve() if one.trial.selector == "s2l"})
    asked = config(selectors=selectors, budgets=budgets, within=0.01)
    runner = Runner(asked)
    _find_smallest(runner, asked)  # type: ignore[arg-type]
    assert {t.selector for t in runner.tried} == {FULL, *selectors}


# --- snapshots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "used", "which", "columns"),
    [
        (12, 1, "even", [11]), (2, 1, "even", [1]), (12, 1, "first", [0]), (12, 2, "even", [0, 11]),
        (12, 3, "even", [0, 6, 11]), (12, 12, "even", list(range(12))), (12, None, "even", list(range(12))),
        (5, 4, "first", [0, 1, 2, 3]),
    ],
)  # fmt: skip
def test_one_even_snapshot_is_the_last(recorded, used, which, columns):
    assert snapshot_columns(recorded, used, which).tolist() == columns


def test_evenly_spaced_steps_end_with_the_last():
    for number in (1, 2, 3, 7):
        for start in (False, True):
            steps = snapshot_steps(100, number, start)
            assert len(set(steps)) == number
            assert steps[-1] == 100
            assert number == 1 or steps[0] == (0 if start else 1)
