"""Charts of answers to test questions: figures of models with intervals, and differences paired by question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s2l_ray.reporting.charts.worth import dots
from s2l_ray.reporting.facts_tasks import Judged, TaskMetric
from s2l_ray.reporting.intervals import Estimate
from s2l_ray.reporting.look import MUTED, Rows, look_of

_MAX_HEADING = 40
"""Maximum length of a heading (characters)."""
_UNITS = {"share": "% of questions", "percent": "0 to 100"}


@dataclass(frozen=True)
class Line:
    """A dot with its interval: of a model, or of a trivial summary."""

    model: str
    name: str
    estimate: Estimate
    text: str
    """Text next to the dot."""
    tip: str


Block = tuple[str, Sequence[Line]]
"""Heading and lines; an empty heading takes no room."""


def figures(judged: Judged, metric: TaskMetric, blocks: Sequence[Block]) -> Any:
    """Models' results with intervals, one line each."""
    unit = f"{_UNITS[metric.unit]}; " if metric.unit in _UNITS else ""
    return dots(*_placed(judged, metric, blocks), f"{metric.label} ({unit}higher is better)")


def differences(judged: Judged, metric: TaskMetric, blocks: Sequence[Block]) -> Any:
    """Differences to a baseline; the text of a line is what its interval says."""
    unit = "points; " if metric.unit == "share" else ""
    return dots(*_placed(judged, metric, blocks), f"{metric.label}: difference ({unit}right is better)", zero=True)


def _placed(judged: Judged, metric: TaskMetric, blocks: Sequence[Block]) -> tuple[Rows, Rows]:
    selectors = {model.label: model.selector for model in judged.models}
    factor = 100 if metric.unit == "share" else 1
    rows: Rows = []
    headings: Rows = []
    at = 0
    for heading, lines in blocks:
        if heading:
            headings.append({"at": at, "text": heading[:_MAX_HEADING]})
            at += 1
        for line in lines:
            look = look_of(selectors[line.model], selectors.values()) if line.model in selectors else None
            told = line.estimate
            low, high = (told.value if bound is None else bound for bound in (told.low, told.high))
            rows.append({
                "at": at, "name": line.name, "value": told.value * factor, "low": low * factor, "high": high * factor,
                "colour": look.colour if look else MUTED, "shape": look.shape if look else "circle", "text": line.text,
                "tip": line.tip,
            })  # fmt: skip
            at += 1
    return rows, headings
