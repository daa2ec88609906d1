"""Charts of metrics with intervals and of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from s2l_ray.reporting.facts_worth import Difference, MetricFacts, Score, Worth
from s2l_ray.reporting.intervals import Estimate
from s2l_ray.reporting.look import (
    INK,
    MUTED,
    Rows,
    data,
    dressed,
    look_of,
    padded,
)
from s2l_ray.reporting.numbers import figure, metric_title, signed

_ROW, _WHOLE = 24, 338
"""Height of a line of dots, and width of the names and dots together (pixels)."""
_NAMES, _MOST_NAMES = 118, 190
"""Width of the names to the left of the dots (pixels): at least, and at most."""
_LETTER, _DIGIT, _GAP = 6.8, 7, 8
"""Width of a character of a name and of a tick's label, and the space between two labels (pixels)."""
_TAIL = 7
"""Characters at the end of a name that is too long that remain: ` 12.5 %`, which tells subsets of a selector apart."""


def _scaled(estimate: Estimate, metric: MetricFacts) -> dict[str, Any]:
    factor = 100 if metric.is_share else 1
    low, high = (estimate.value if bound is None else bound for bound in (estimate.low, estimate.high))
    return {"value": estimate.value * factor, "low": low * factor, "high": high * factor}


def _between(estimate: Estimate, metric: MetricFacts) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"95\u00a0% {figure(estimate.low, metric)} to {figure(estimate.high, metric)}"


def dots(rows: Rows, headings: Rows, title: str, zero: bool = False) -> Any:
    """Dots with intervals. Rows have at (line from above), name, value, low, high, colour, shape, text, tip."""
    lines = max(r["at"] for r in rows) + 1
    room = min(_MOST_NAMES, max(_NAMES, 12 + _LETTER * max(len(r["name"]) for r in rows)))
    rows = [r | {"name": shortened(r["name"], int((_MOST_NAMES - 12) / _LETTER))} for r in rows]
    panel = round(_WHOLE - room)
    y = alt.Y("at:Q", scale=alt.Scale(domain=[lines - 0.4, -0.6], nice=False), axis=None)
    ends = [r[k] for r in rows for k in ("low", "high")] + ([0.0] if zero else [])
    domain = padded(ends, 0.08, 1.0 if zero else 0.42)  # space for the words to the right
    x = alt.X(
        "value:Q",
        scale=alt.Scale(domain=domain, nice=False, zero=False),
        axis=alt.Axis(title=title, titleAnchor="end", values=_ticks(min(ends), max(ends), domain, panel)),
    )
    colour = alt.Color("colour:N", scale=None)
    base = alt.Chart(data(rows)).encode(y=y)
    layers = [
        base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), color=colour),
        base.mark_point(filled=True, size=85, opacity=1).encode(
            x=x, color=colour, shape=alt.Shape("shape:N", scale=None),
        description=alt.Description("tip:N")
        ),
        (base.mark_text(align="right").encode(x=alt.value(panel), text=alt.Text("text:N"), color=colour) if zero
         else base.mark_text(align="left", dx=8).encode(x=alt.X("high:Q"), text=alt.Text("text:N"), color=colour)),
        base.mark_text(align="right", dx=-8).encode(x=alt.value(0), text=alt.Text("name:N"), color=colour),
        alt.Chart(data(headings)).mark_text(align="left", color=INK).encode(
            y=y, x=alt.value(panel - _WHOLE + 6), text=alt.Text("text:N")
        ),
    ]  # fmt: skip
    if zero:
        layers.insert(0, alt.Chart(data([{"x": 0}])).mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x=alt.X("x:Q")))
    return dressed(alt.layer(*layers), panel, _ROW * lines, 20)


def shortened(name: str, most: int) -> str:
    """A name of at most `most` characters, without a part of its middle if it is longer."""
    return name if len(name) <= most else f"{name[: most - _TAIL - 1].rstrip()}…{name[-_TAIL:]}"


def _ticks(low: float, high: float, domain: Sequence[float], panel: int) -> list[float]:
    """Round tick values in the range of the data, far enough apart for their labels; the space for words to its right
    gets no ticks, which could exceed 100 %."""
    steps = (m * 10.0**e for e in range(-12, 16) for m in (1, 2, 5))
    span = (high - low) or domain[1] - domain[0]
    candidates = ((step, _multiples(step, low, high, domain)) for step in steps if span / step <= 4)
    pixels = panel / (domain[1] - domain[0])
    return next(ticks for step, ticks in candidates if label_width(ticks, step) + _GAP <= step * pixels)


def _multiples(step: float, low: float, high: float, domain: Sequence[float]) -> list[float]:
    first, last = math.ceil(max(domain[0], low - step / 2) / step), math.floor((high + step / 2) / step)
    return [round(i * step, 12) for i in range(first, last + 1) if i * step <= domain[1]]


def label_width(ticks: Sequence[float], step: float) -> float:
    """Return the width of the longest label (pixels)."""
    decimals = max(0, -math.floor(math.log10(step)))
    return _DIGIT * max((len(f"{tick:,.{decimals}f}") for tick in ticks), default=0)


def scores(worth: Worth, metric: MetricFacts, names: dict[str, str]) -> Any:
    """Metrics of all models on every held-out set, with intervals."""
    rows: Rows = []
    headings = []
    at = 0
    selectors = {m.label: m.selector for m in worth.models}
    for held_out in worth.sets:
        headings.append({"at": at, "text": held_out[:40]})
        for score in _scores_of(worth, metric, held_out):
            at += 1
            look = look_of(selectors[score.label], selectors.values())
            text = figure(score.estimate.value, metric)
            tip = f"{names[score.label]} on {held_out}: {text}, {_between(score.estimate, metric)}"
            rows.append(_scaled(score.estimate, metric) | {
                "at": at, "name": names[score.label], "colour": look.colour, "shape": look.shape,
                "text": text, "tip": tip,
            })  # fmt: skip
        at += 1
    return dots(rows, headings, metric_title(metric))


def _scores_of(worth: Worth, metric: MetricFacts, held_out: str, source: str | None = None) -> list[Score]:
    return [s for s in worth.scores if (s.metric, s.heldout_set, s.source) == (metric.key, held_out, source)]


def differences(worth: Worth, metric: MetricFacts, baselines: Sequence[str], names: dict[str, str]) -> Any:
    """Paired differences to the full data, or to random subsets of the same sizes."""
    rows: Rows = []
    headings = []
    at = 0
    selectors = {m.label: m.selector for m in worth.models}
    for held_out in worth.sets:
        found = differences_of(worth, metric, baselines, held_out)
        headings += [{"at": at, "text": held_out[:40]}] if found else []
        for difference in found:
            at += 1
            look = look_of(selectors[difference.label], selectors.values())
            told = difference.estimate
            who = f"{names[difference.label]} minus {names[difference.baseline]}"
            tip = f"{who} on {held_out}: {signed(told.value, metric)}, "
            rows.append(_scaled(told, metric) | {
                "at": at, "name": names[difference.label], "colour": look.colour, "shape": look.shape,
                "text": difference.verdict,
                "tip": tip + difference.verdict,
            })  # fmt: skip
        at += 1 if found else 0
    unit = "points" if metric.is_share else metric.unit
    better = "right" if metric.more_is_better else "left"
    return dots(rows, headings, f"{metric.label}: difference ({unit}; {better} is better)", zero=True)


def differences_of(worth: Worth, metric: MetricFacts, baselines: Sequence[str], held_out: str) -> list[Difference]:
    wanted = (metric.key, held_out)
    return [d for d in worth.differences if (d.metric, d.heldout_set) == wanted and d.baseline in baselines]


def source_scores(worth: Worth, metric: MetricFacts, held_out: str, source: str, names: dict[str, str]) -> Any:
    """Metrics of all models on the examples of one source."""
    selectors = {m.label: m.selector for m in worth.models}
    rows: Rows = []
    for at, score in enumerate(_scores_of(worth, metric, held_out, source)):
        look = look_of(selectors[score.label], selectors.values())
        text = figure(score.estimate.value, metric)
        tip = f"{names[score.label]} on {source}: {text}, {_between(score.estimate, metric)}"
        rows.append(_scaled(score.estimate, metric) | {
            "at": at, "name": names[score.label], "colour": look.colour, "shape": look.shape, "text": text, "tip": tip,
        })  # fmt: skip
    return dots(rows, [], f"{metric.label} ({metric.unit})")
