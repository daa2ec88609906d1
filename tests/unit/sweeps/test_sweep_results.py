"""A sweep without Ray: its table, curves, costs, answers and words."""

from __future__ import annotations

import json
import math

import pytest

from s2l_ray.config import load_config
from s2l_ray.sweeps.report import PREDICTED, TARGET, make_report
from s2l_ray.sweeps.results import (
    Cost,
    Point,
    bisect,
    break_even,
    points,
    rank_correlation,
    result_schema,
    result_table,
    shortfall,
    smallest_good_enough,
)
from s2l_ray.sweeps.text import report_lines
from s2l_ray.sweeps.trials import FULL, Trial, full_trials
from tests.support.sweep_config import RATES, config, tree
from tests.support.sweep_results import a_run, curve, finished


def test_a_point_is_the_mean_over_seeds_with_its_spread():
    with_settings = finished(Trial("s2l", 0.1, 0, (("clusters.num_clusters", 4),)), 0.1, 99.0)
    found = points(config(), [*curve(), with_settings])
    assert [(p.selector, p.budget) for p in found] == [
        (FULL, 1.0), ("random", 0.1), ("random", 0.3), ("random", 0.5), ("s2l", 0.1), ("s2l", 0.3), ("s2l", 0.5),
    ]  # fmt: skip
    full = found[0]
    assert full.mean == pytest.approx(4.0)
    assert full.spread == pytest.approx(0.02 * math.sqrt(2))
    assert Point("s2l", 0.1, 0.1, (4.0,), 1.0).spread == 0


@pytest.mark.parametrize(
    ("heldout_set", "metric", "value"),
    [(None, "macro", 4.0), ("test", "micro", 4.01), ("other", "macro", 5.0), (None, "exact_match", 0.25)],
)
def test_the_metric_and_the_set_that_were_asked_for_decide(heldout_set, metric, value):
    one = finished(Trial(FULL, 1.0, 0), 1.0, 4.0, exact_match=0.25)
    [point] = points(config(heldout_set=heldout_set, metric=metric), [one])
    assert point.mean == pytest.approx(value)


def test_shortfall_is_relative_and_more_exact_matches_are_better():
    full = Point(FULL, 1.0, 1.0, (4.0,), 1.0)
    worse = Point("s2l", 0.1, 0.1, (4.4,), 1.0)
    assert shortfall(worse, full, "macro") == pytest.approx(0.1)
    assert shortfall(worse, full, "exact_match") == pytest.approx(-0.1)
    assert shortfall(worse, Point(FULL, 1.0, 1.0, (0.0,), 1.0), "exact_match") == 0


@pytest.mark.parametrize(
    ("selector", "within", "budget"),
    [("s2l", 0.01, 0.3), ("s2l", 0.06, 0.1), ("s2l", 0.001, None), ("random", 0.03, 0.5), ("random", 0.01, None)],
)
def test_the_smallest_budget_that_is_good_enough(selector, within, budget):
    found = points(config(), curve())
    best = smallest_good_enough(found, selector, "macro", within)
    assert (best.budget if best else None) == budget
    assert smallest_good_enough([p for p in found if p.selector != FULL], selector, "macro", within) is None


def test_bisection_finds_the_boundary_and_a_right_guess_takes_two_looks():
    for num in range(1, 10):
        for boundary in range(num + 1):
            for guess in range(num):
                looked: list[int] = []

                def is_good(at: int, looked: list[int] = looked, boundary: int = boundary) -> bool:
                    looked.append(at)
                    return at >= boundary

                assert bisect(num, guess, is_good) == (boundary if boundary < num else None)
                assert len(looked) == len(set(looked)) <= 2 + math.ceil(math.log2(num + 1))
                if guess == boundary:
                    assert len(looked) <= 2
    assert bisect(5, 2, lambda at: None) is None
    assert bisect(0, -1, lambda at: True) is None


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # the example of scipy.stats.spearmanr
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 1, 2, 2], [1, 2, 3, 4], 0.8944271909999159),  # ties by mean rank
        ([1, 2], [1, 2], None),  # two points are always in order
        ([1, 2, 3], [7, 7, 7], None),
    ],
)
def test_rank_correlation_is_spearmans(a, b, value):
    assert rank_correlation(a, b) == (None if value is None else pytest.approx(value))


def test_selecting_pays_below_the_break_even_share():
    assert break_even(Cost(1e9, 0), 4e9, 1) == pytest.approx(0.75)
    assert break_even(Cost(1e9, 0), 4e9, 10) == pytest.approx(0.975)
    assert break_even(Cost(5e9, 0), 4e9, 1) is None
    share = break_even(Cost(1e9, 0), 4e9, 3)
    assert share is not None
    assert 1e9 + 3 * share * 4e9 == pytest.approx(3 * 4e9), "at the break-even both cost the same"


def test_the_table_has_a_row_per_trial_and_heldout_set_and_one_per_source():
    trial = Trial("s2l", 0.3, 1, (("clusters.num_clusters", 4),))
    table = result_table({TARGET: [finished(trial, 0.3, 4.0)], PREDICTED: [finished(Trial(FULL, 1.0, 0), 1.0, 5.0)]})
    assert table.schema == result_schema()
    assert table.num_rows == 2 * 2 * (1 + 2)
    rows = [r for r in table.to_pylist() if r["phase"] == TARGET]
    assert [(r["heldout_set"], r["source"]) for r in rows] == [
        (name, source) for name in ("test", "other") for source in (None, "a", "b")
    ]
    whole, source = rows[0], rows[1]
    assert {k: whole[k] for k in ("selector", "budget", "num_examples", "share", "seed", "steps", "tokens")} == {
        "selector": "s2l", "budget": 0.3, "num_examples": 300, "share": 0.3, "seed": 1, "steps": 20, "tokens": 640,
    }  # fmt: skip
    assert (whole["loss"], whole["macro"], whole["per_token"], whole["loss_before"]) == (4.01, 4.0, 4.02, 6.01)
    assert (whole["wall_seconds"], whole["device_seconds"], whole["flops"]) == (3.0, 6.0, 1e9)
    assert json.loads(whole["parameters"]) == {"clusters.num_clusters": 4}
    assert (source["loss"], source["macro"], source["loss_before"]) == (3.9, None, 5.9)
    assert rows[3]["loss_before"] is None, "nothing was evaluated before"
    assert result_table({}).schema == result_schema()


@pytest.mark.thorough
def test_the_report_says_answer_prediction_and_costs():
    asked = load_config(tree(within=0.01) | {"estimates": {"price_per_worker_hour": 36.0}})
    predicted = [finished(t.trial, t.share, t.evaluation.manifest.extra["results"]["test"]["macro"] + 1)
                 for t in curve() if t.trial.selector != "random"]  # fmt: skip
    again = [*curve(), finished(Trial("s2l", 0.3, 0), 0.3, 4.02, 1.2e9)]  # an equal trial: the same folder
    report = make_report(a_run(), asked, {TARGET: again, PREDICTED: predicted}, {"target: x": "why"}, ["s2l 0.1"])
    json.dumps(report, allow_nan=False)
    assert report["smallest"]["s2l"]["budget"] == 0.3
    assert report["smallest"]["random"] is None
    assert report["prediction"]["points"] == 4
    assert report["prediction"]["rank_correlation"] == pytest.approx(1.0)
    assert report["prediction"]["largest_gap_to_full"] == pytest.approx(0.05 - 0.04)
    assert report["cost"]["selection"] == {"flops": 1e9, "device_seconds": 26.0, "money": pytest.approx(0.26)}
    assert report["cost"]["targets"][TARGET]["num"] == 14, "the equal trial was counted twice"
    assert report["cost"]["targets"][TARGET]["device_seconds"] == 14 * 6.0
    assert report["break_even_share"] == {"1": 0.75, "3": pytest.approx(11 / 12), "10": 0.975}
    assert (report["failed"], report["stopped_early"]) == ({"target: x": "why"}, ["s2l 0.1"])
    text = "\n".join(report_lines(report, "/somewhere/sweep", ["budget.png"], report["failed"]))
    for told in (
        "s2l: 30.0% of the data is the smallest budget tried within 1.00%", "random: no budget tried is within 1.00%",
        "rank correlation 1.00", "largest gap 1.00%", "1.00e+09 FLOPs", "0.26", "1 target: below 75%",
        "failed: target: x: why", "1 trial was stopped early", "/somewhere/sweep/results.parquet", "budget.png",
    ):  # fmt: skip
        assert told in text


def test_a_selector_that_was_not_tried_is_not_judged():
    """A search may never have drawn it."""
    report = make_report(a_run(), config(), {TARGET: [t for t in curve() if t.trial.selector != "random"]}, {}, [])
    assert list(report["smallest"]) == ["s2l"]
    assert "random" not in "\n".join(report_lines(report, "x", [], {}))


def test_further_parameters_are_compared_the_best_first():
    found = [finished(Trial(FULL, 1.0, 0), 1.0, 4.0)]
    for clusters, loss in ((4, 4.3), (8, 4.1)):
        found += [finished(Trial("s2l", 0.3, n, (("clusters.num_clusters", clusters),)), 0.3, loss) for n in (0, 1)]
    report = make_report(a_run(), config(), {TARGET: found}, {}, [])
    told = [(p["parameters"]["clusters.num_clusters"], len(p["values"])) for p in report["parameters"]]
    assert told == [(8, 2), (4, 2)]
    assert report["parameters"][0]["worse_than_full"] == pytest.approx(0.025)
    assert "s2l 0.3, clusters.num_clusters=8" in "\n".join(report_lines(report, "x", [], {}))
    assert report["smallest"] == {}, "they are no curve over budgets"


def test_a_sweep_in_which_everything_failed_has_a_report():
    report = make_report(a_run(), config(), {TARGET: []}, {"target: full, seed 0": "diverged"}, [])
    assert report["curves"] == report["smallest"] == report["break_even_share"] == {}
    assert any("diverged" in line for line in report_lines(report, "x", [], report["failed"]))


def test_full_trials_alone_are_those_of_a_search():
    assert full_trials(config(search="random", num_samples=1, parameters=RATES)) == [
        Trial(FULL, 1.0, 0), Trial(FULL, 1.0, 1),
    ]  # fmt: skip
