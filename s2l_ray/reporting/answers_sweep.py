"""Sweeps whose trials were judged by answers to test questions."""

from __future__ import annotations

import json
from typing import Any

from s2l_ray.evaluation.metrics import figure_of_answers
from s2l_ray.reporting.facts import TunedPoint
from s2l_ray.reporting.facts_worth import MetricFacts
from s2l_ray.text.display import printable


def is_by_answers(metric: MetricFacts) -> bool:
    """Whether the metric comes from evaluations rather than a column of the sweep's table."""
    return figure_of_answers(metric.key) is not None


def tuned_of_answers(report: dict[str, Any], metric: MetricFacts) -> list[TunedPoint]:
    """Trials with one further setting from the sweep's report, averaged over seeds, by the setting's value."""
    figure = figure_of_answers(metric.key)
    assert figure is not None
    found = []
    for point in report["parameters"]:
        if len(point["parameters"]) == 1:
            [(name, value)] = point["parameters"].items()
            found.append(
                TunedPoint(
                    printable(name), printable(json.dumps(value)), printable(point["selector"]), point["share"],
                    printable(figure[0]), point["mean"], point["values"],
                )
            )  # fmt: skip
    return sorted(found, key=lambda t: (t.parameter, number_of(t.value), t.value, t.selector, t.share))


def number_of(value: str) -> float:
    """A setting's value, as JSON, to sort by: numbers by size, others after them."""
    known = json.loads(value)
    return float(known) if isinstance(known, (int, float)) else float("inf")
