"""What selecting took by the clock, by the manifests of a run's stages: nothing is counted for who does not need it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from s2l_ray.config import load_config
from s2l_ray.reporting.charts.cost import wall_clock_bars
from s2l_ray.reporting.facts_worth import Cost
from s2l_ray.reporting.parts import Drawing
from s2l_ray.reporting.sections.cost import _wall_clock_figure
from s2l_ray.reporting.wall_clock import wall_clocks


def stage(name: str, wall_s: float, *reads: str, **extra: Any) -> Any:
    manifest = SimpleNamespace(wall_seconds=wall_s, inputs=dict.fromkeys(reads, "x"), extra=extra)
    return SimpleNamespace(name=name, manifest=manifest)


def run_of(by_target: bool) -> Any:
    config = load_config(
        {
            "corpus": {"paths": ["x"], "source_column": "source"}, "proxy": {"model": "m"}, "target": {"model": "m"},
            "selection": {
                "selectors": ["s2l", "facility_location", "random"],
                "reference": {"model": "target" if by_target else "proxy"},
            },
        }
    )  # fmt: skip
    embedding = f"signals/{'target-1a2b3c4d-' if by_target else ''}embedding@40"
    subsets = {
        "s2l-0.1": stage("subset/s2l-0.1", 2, "corpus", "trajectories", "clusters", selector="s2l"),
        "s2l-0.3": stage("subset/s2l-0.3", 1, "corpus", "trajectories", "clusters", selector="s2l"),
        "facility_location-0.1": stage("s", 9, "corpus", "trajectories", embedding, selector="facility_location"),
        "random-0.1": stage("subset/random-0.1", 0.5, "corpus", "trajectories", selector="random"),
        "theirs-0.1": stage("subset/theirs-0.1", 1, "corpus", selector="theirs"),
    }
    proxy = stage("proxy", 130, summary={"train_seconds": 100.0, "score_seconds": 20.0})
    of_embedding = stage(embedding, 6, "target" if by_target else "proxy")
    stages = {"proxy": proxy, "clusters": stage("clusters", 3), embedding: of_embedding,
              "target/full": stage("target/full", 4000)}  # fmt: skip
    return SimpleNamespace(config=config, subsets=subsets, stages=stages)


@pytest.mark.parametrize("by_target", [False, True])
def test_each_selector_is_charged_with_what_it_needs(by_target: bool) -> None:
    found = {clock.subset: clock for clock in wall_clocks(run_of(by_target))}
    assert set(found) == {"s2l-0.1", "facility_location-0.1", "random-0.1"}
    parts = {name: (clock.training_s, clock.scoring_s, clock.selection_s) for name, clock in found.items()}
    assert parts["s2l-0.1"] == (100, 20, 2 + 3)
    assert parts["random-0.1"] == (0, 0, 0.5)
    assert parts["facility_location-0.1"] == (4000 if by_target else 100, 6, 9)
    assert found["facility_location-0.1"].by_target == by_target


def test_the_figure_says_which_part_is_which() -> None:
    clocks = wall_clocks(run_of(True))
    cost = Cost([], 0.0, None, None, False, {}, [], None, clocks)
    drawing = Drawing(SimpleNamespace(subsets=[], worth=None), lambda chart, prefix, label: "svg")  # type: ignore[arg-type]
    (figure,) = _wall_clock_figure(cost, drawing)
    assert "The slowest, facility_location-0.1, by the target, takes" in figure.caption
    assert "most of it training the reference model" in figure.caption
    assert figure.table is not None
    assert figure.table.headings == ["selector", "reference training", "scoring", "selection", "total"]
    assert len(figure.table.rows) == 3
    assert "reference training" in wall_clock_bars(clocks, {}).to_json()
    assert _wall_clock_figure(Cost([], 0.0, None, None, False, {}, [], None, clocks[:1]), drawing) == []
