"""Pages of runs with many targets, and with none: names, their order, what is not shown, costs."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from s2l_ray.artifacts.run import load_run
from s2l_ray.reporting.charts.sweep import cost
from s2l_ray.reporting.charts.worth import shortened
from s2l_ray.reporting.facts_meaning import Purity
from s2l_ray.reporting.main_subset import main_subset
from s2l_ray.reporting.names import names_of
from s2l_ray.reporting.sections.budgets import _caption
from s2l_ray.reporting.sections.meaning import _all_said
from s2l_ray.reporting.write import facts_of, page_of
from s2l_ray.text.order import by_numbers
from tests.support.report_runs import MadeRun

SELECTORS, BUDGETS = ("s2l", "random", "random_per_source"), (0.05, 0.1, 0.2, 0.4)
LABELS = tuple(f"{selector}-{budget}" for selector in SELECTORS for budget in BUDGETS)


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> MadeRun:
    made = MadeRun(
        tmp_path_factory.mktemp("many") / "run", budgets=BUDGETS, selectors=SELECTORS, targets=("full", *LABELS),
        heldout={"split": 40},
    )  # fmt: skip
    made.make()
    made.sweep()
    return made


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Any:
    made = MadeRun(tmp_path_factory.mktemp("none") / "run", targets=())
    made.make()
    return facts_of(load_run(str(made.folder)))


def worth_only(facts: Any) -> str:
    """The page without the sections that take time to draw."""
    rest: dict[str, Any] = dict.fromkeys(("contents", "clusters", "space", "meaning", "stability", "training"))
    return page_of(dataclasses.replace(facts, **rest, examples=[]))


def test_subsets_of_one_selector_can_be_told_apart_and_keep_their_order(swept):
    """Long names were cut before their size: three lines read `random per sourc…`."""
    facts = facts_of(load_run(str(swept.folder)))
    assert facts.worth is not None
    names = [
        "full data",
        *(f"{who} {size} %" for size in (5, 10, 20) for who in ("S2L", "random", "random per source")),
    ]
    names_of_labels = names_of(facts.subsets, facts.worth)
    assert [names_of_labels[m.label].replace("\u00a0", " ") for m in facts.worth.models] == names
    page = worth_only(facts).replace("\u00a0", " ")
    first = page[page.index("Held-out results of every model") :].partition("</figure>")[0]
    drawn = re.findall(r">([^<>]+)</text>", first.partition("</svg>")[0])
    assert [text for text in drawn if text in names] == names
    assert "3 more targets are not shown" in first


@pytest.mark.parametrize(
    ("name", "most", "shown"),
    [
        ("random per source 10 %", 22, "random per source 10 %"),
        ("a selector of another package 12.5 %", 20, "a selector o… 12.5 %"),
        ("one, that is long, stratified", 20, "one, that is…atified"),
    ],
)
def test_names_that_are_too_long_keep_their_end(name, most, shown):
    assert shortened(name, most) == shown
    assert len(shown) <= most


def test_costs_without_targets_are_those_of_the_subset(untrained):
    """The bar was called `s2l`, and the legend spoke of a target."""
    assert {part.selector for part in untrained.cost.parts} == {"s2l-0.2"}
    page = worth_only(untrained)
    section = page[page.index('id="cost"') :].partition("</section>")[0]
    assert ">S2L 20\u00a0%<" in section
    assert "one target" not in section
    assert "FLOPs, selecting (lower is better)" in section


def test_a_page_without_targets_says_what_is_missing(untrained):
    page = worth_only(untrained)
    assert "No target has been evaluated, so nothing says what the subsets are worth" in page
    table = page[page.index("Compare all subsets</h2>") :].partition("</table>")[0]
    assert "target’s" not in table


@pytest.mark.parametrize(
    ("selectors", "targets", "main"),
    [
        (
            ("random", "s2l", "random_per_source"),
            ("full", "random_per_source-0.2", "random-0.2"),
            "random_per_source-0.2",
        ),
        (("random", "s2l", "random_per_source"), ("full", "random_per_source-0.2", "s2l-0.2"), "s2l-0.2"),
        (("random", "s2l"), ("full", "random-0.2"), "s2l-0.2"),
        (("random",), ("full", "random-0.2"), "random-0.2"),
    ],
)
def test_the_main_subset_is_one_that_was_trained_on(tmp_path, selectors, targets, main):
    made = MadeRun(tmp_path / "run", selectors=selectors, targets=targets, heldout={"split": 30})
    made.make()
    assert main_subset(load_run(str(made.folder))) == main


def test_each_selector_of_a_sweep_costs_what_it_reads(swept):
    """One cost was drawn for all selectors: that of the run's dearest."""
    budgets = facts_of(load_run(str(swept.folder))).budgets
    assert budgets is not None
    assert budgets.choosing == {"s2l": 4e9}
    dearer = dataclasses.replace(budgets, choosing={"s2l": 1e9}, deciding="split")
    points = [p for p in dearer.points if p.heldout_set == "split"]
    rows = cost(dearer).to_dict()["data"]["values"]
    drawn = {row["tip"].partition(":")[0]: row["flops"] for row in rows}
    wanted = {p.selector: p.flops for p in points if abs(p.share - 0.1) < 1e-6}
    assert drawn["S2L 10\u00a0%"] == pytest.approx(1e9 + wanted["s2l"])
    assert drawn["random 10\u00a0%"] == pytest.approx(wanted["random"])


def test_a_page_says_that_trials_failed(swept):
    budgets = facts_of(load_run(str(swept.folder))).budgets
    assert budgets is not None
    assert "failed" not in _caption(budgets, "held-out set", 0)
    assert "one trial failed and is missing" in _caption(dataclasses.replace(budgets, num_failed=1), "held-out set", 0)
    report = swept.storage.read_json("sweep/report.json")
    swept.storage.write_json("sweep/report.json", report | {"failed": {"s2l 5 %": "loss is not finite", "random": "x"}})
    failed = facts_of(load_run(str(swept.folder)))
    assert "2 trials failed and are missing (sweep/report.json)." in worth_only(failed)
    swept.storage.write_json("sweep/report.json", report)


@pytest.mark.parametrize(
    ("targets", "heldout", "told", "untold"),
    [
        (
            ("s2l-0.2",),
            150,
            "Only one target was trained, so there is nothing to compare it with.",
            "distinguished from",
        ),
        (("full", "s2l-0.2"), 8, "no intervals for sets of fewer than 20 examples", "An interval that contains zero"),
        (("full", "s2l-0.2"), 150, "An interval that contains zero", "no intervals for sets"),
    ],
)
def test_captions_fit_few_targets_and_few_examples(tmp_path, targets, heldout, told, untold):
    made = MadeRun(tmp_path / "run", targets=targets, heldout={"split": heldout})
    made.make()
    page = worth_only(facts_of(load_run(str(made.folder))))
    section = page[page.index("What is it worth?</h2>") :].partition("</section>")[0]
    assert told in section
    assert untold not in section


def test_groups_are_in_the_order_of_their_numbers():
    mixed = ["Level 10", "Level 2", "algebra", "Level 1", "9", "10", "", "07", "x" + "9" * 5000]
    assert sorted(mixed, key=by_numbers)[-4:] == ["Level 2", "Level 10", "algebra", "x" + "9" * 5000]
    assert sorted(["10", "9", "07"], key=by_numbers) == ["07", "9", "10"]


@pytest.mark.parametrize(
    ("means", "end"),
    [
        ((0.6, 0.7, 0.8), "sort 80\u00a0% (50\u00a0%)."),
        ((0.6, 0.5, 0.8), "kind 50\u00a0% (50\u00a0%). Kind is no more than expected by chance."),
        ((0.5, 0.5, 0.8), "kind 50\u00a0% (50\u00a0%). Topic and kind are no more than expected by chance."),
        ((0.5, 0.5, 0.5), "sort 50\u00a0% (50\u00a0%). None of them is more than expected by chance."),
    ],
)
def test_many_columns_purity_is_said_in_one_sentence(means, end):
    """With five columns, the caption repeated the same clause five times."""
    found = [
        Purity("trajectories", column, 900, mean, 0.5, 0.01, None, [], [])
        for column, mean in zip(("topic", "kind", "sort"), means, strict=True)
    ]
    assert _all_said(found).endswith(end)
