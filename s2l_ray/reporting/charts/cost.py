"""Charts of the cost of selecting and training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt

from s2l_ray.reporting.facts_worth import SCORING, TARGET, TRAINING, Cost, WallClock
from s2l_ray.reporting.look import (
    INK,
    LOOKS,
    MUTED,
    STEPS,
    WIDTH,
    Rows,
    data,
    dressed,
    log_axis,
    si,
)
from s2l_ray.reporting.numbers import compact
from s2l_ray.text.formats import format_duration


def cost_bars(cost: Cost, names: dict[str, str]) -> Any:
    """FLOPs of selecting and of one target, stacked, one bar per model."""
    parts = [(p.selector, p.part, p.flops) for p in cost.parts]
    colours = {TRAINING: STEPS[4], SCORING: STEPS[2], TARGET: MUTED}
    what = "selecting and one target" if any(part == TARGET for _, part, _ in parts) else "selecting"
    title = f"FLOPs, {what} (lower is better)"
    return _stacked(parts, colours, names, title, compact, " FLOPs")


def wall_clock_bars(clocks: Sequence[WallClock], names: dict[str, str]) -> Any:
    """Seconds that each selector took, stacked, one bar per selector."""
    colours = {"reference training": STEPS[4], "scoring": STEPS[2], "selection": MUTED}
    parts = [(clock.subset, part, seconds) for clock in clocks for part, seconds in
             zip(colours, (clock.training_s, clock.scoring_s, clock.selection_s), strict=True)]  # fmt: skip
    return _stacked(parts, colours, names, "wall-clock seconds (lower is better)", format_duration, "")


def _stacked(
    parts: Sequence[tuple[str, str, float]],
    colours: dict[str, str],
    names: dict[str, str],
    title: str,
    said: Callable[[float], str],
    unit: str,
) -> Any:
    """`parts`: (label, part, value); one bar per label."""
    labels = list(dict.fromkeys(label for label, _, _ in parts))
    rows: Rows = []
    totals: Rows = []
    for at, label in enumerate(labels):
        start = 0.0
        for _, part, value in (p for p in parts if p[0] == label):
            tip = f"{names.get(label, label)}, {part}: {said(value)}{unit}"
            rows.append({"at": at, "from": start, "to": start + value, "colour": colours[part], "tip": tip})
            start += value
        totals.append({"at": at, "to": start, "name": names.get(label, label), "text": said(start)})
    lines = len(labels)
    y = alt.Y("at:Q", scale=alt.Scale(domain=[lines - 0.3, -0.8], nice=False), axis=None)
    most = max(t["to"] for t in totals) * 1.3 or 1
    x = alt.X("from:Q", scale=alt.Scale(domain=[0, most], nice=False), axis=alt.Axis(
        title=title, labelExpr=si(), tickCount=4))  # fmt: skip
    bars = alt.Chart(data(rows)).mark_bar(height=14, orient="horizontal").encode(
        y=y, x=x, x2=alt.X2("to:Q"), color=alt.Color("colour:N", scale=None),
        description=alt.Description("tip:N")
    )  # fmt: skip
    base = alt.Chart(data(totals)).encode(y=y)
    texts = base.mark_text(align="left", dx=5).encode(x=alt.X("to:Q"), text=alt.Text("text:N"))
    heads = base.mark_text(align="left", dy=-16).encode(x=alt.value(0), text=alt.Text("name:N"))
    return dressed(alt.layer(bars, texts, heads), WIDTH + 40, 44 * lines)


def break_even(cost: Cost, flops: dict[str, float], names: dict[str, str]) -> Any:
    """Total cost against the number of targets trained from one selection.

    Args:
        flops: model → FLOPs of one target trained on it, `full` included.
    """
    crossings = [n for n in cost.break_even.values() if n is not None]
    most = min(1000.0, max([4.0, *(2 * n for n in crossings)]))
    rows: Rows = []
    for label, each in flops.items():
        first = 0.0 if label == "full" else cost.choosing[label]
        look = LOOKS["full"] if label == "full" else LOOKS["s2l"]
        tip = f"{names.get(label, label)}: {compact(each)} FLOPs per target, {compact(first)} once"
        rows += [
            {"n": n, "flops": first + n * each, "label": label, "colour": look.colour, "tip": tip} for n in (0, most)
        ]
    x = alt.X("n:Q", scale=alt.Scale(domain=[0, most], nice=False), axis=alt.Axis(
        title="targets trained from one selection", tickCount=5))  # fmt: skip
    y = alt.Y("flops:Q", axis=alt.Axis(title="total FLOPs (lower is better)", labelExpr=si(), tickCount=5))
    lines = alt.Chart(data(rows)).mark_line(strokeWidth=2).encode(
        x=x, y=y, detail=alt.Detail("label:N"), color=alt.Color("colour:N", scale=None),
        description=alt.Description("tip:N")
    )  # fmt: skip
    crossed = [
        {"n": n, "flops": cost.choosing[label] + n * flops[label], "text": f"{n:.1f}"}
        for label, n in cost.break_even.items() if n is not None and n <= most and label in flops
    ]  # fmt: skip
    base = alt.Chart(data(crossed)).encode(x=alt.X("n:Q"), y=alt.Y("flops:Q"))
    points = base.mark_point(filled=True, size=70, color=INK, opacity=1)
    texts = base.mark_text(align="left", dx=7, dy=10).encode(text=alt.Text("text:N"))
    return dressed(alt.layer(lines, points, texts), WIDTH, 180)


def reference_cost(cost: Cost) -> Any:
    """FLOPs of a reference model by its size, and this run's."""
    rows: Rows = [{"p": p, "f": f} for p, f in cost.reference]
    spent = cost.proxy_flops
    own: Rows = [{"p": float(cost.proxy_parameters or 0), "f": spent, "tip": f"this run: {compact(spent)} FLOPs"}]
    sizes = [r["p"] for r in [*rows, *own] if r["p"] > 0]
    flops = [r["f"] for r in [*rows, *own] if r["f"] > 0]
    x = alt.X("p:Q", **log_axis(min(sizes) * 0.5, max(sizes), "parameters of the reference model", 5, si("B")))
    y = alt.Y("f:Q", **log_axis(min(flops) * 0.5, max(flops), "FLOPs (lower is better)", 5, si()))
    line = alt.Chart(data(rows)).mark_line(color=MUTED, strokeDash=[4, 3]).encode(x=x, y=y)
    point = alt.Chart(data(own)).mark_point(filled=True, size=90, color=LOOKS["s2l"].colour, opacity=1).encode(
        x=x, y=y, description=alt.Description("tip:N")
    )  # fmt: skip
    return dressed(alt.layer(line, point), WIDTH, 180)
