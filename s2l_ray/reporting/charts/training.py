"""Charts of losses over training."""

from __future__ import annotations

from typing import Any

import altair as alt

from s2l_ray.reporting.facts import Curve, Training
from s2l_ray.reporting.look import (
    INK,
    WIDTH,
    Rows,
    data,
    dressed,
    log_axis,
)
from s2l_ray.reporting.numbers import loss

DASHES = ("1,0", "6,3", "2,2", "8,2,2,2")
"""Dash patterns of lines with the same colour."""


def training(
    t: Training, curves: list[Curve], snapshots: bool, title: str, colours: list[str], dashes: list[str] | None = None
) -> Any:
    """Losses over steps; ticks where snapshots were taken. `dashes`: each curve's, else all lines are solid."""
    dashes = dashes or [DASHES[0]] * len(curves)
    rows: Rows = [
        {"step": s, "loss": max(v, 1e-5), "name": c.name, "colour": colours[i % len(colours)], "dash": dashes[i],
         "tip": f"{c.name}, step {s:,}: {loss(v)}"}
        for i, c in enumerate(curves) for s, v in c.points
    ]  # fmt: skip
    ticks: Rows = [
        {"step": s, "loss": max(v, 1e-5), "tip": f"snapshot at step {s:,}: mean loss {loss(v)}"}
        for s, v in (t.snapshots if snapshots else [])
    ]
    values = [r["loss"] for r in [*rows, *ticks]]
    x = alt.X("step:Q", axis=alt.Axis(title="optimiser steps", tickCount=4, grid=False))
    y = alt.Y("loss:Q", **log_axis(min(values) * 0.9, max(values) * 1.1, title, 5))
    colour = alt.Color("colour:N", scale=None)
    layers = [
        alt.Chart(data([r for r in rows if r["dash"] == dash]))
        .mark_line(strokeWidth=1.6, strokeDash=[float(length) for length in dash.split(",")])
        .encode(x=x, y=y, detail=alt.Detail("name:N"), color=colour)
        for dash in dict.fromkeys(dashes)
    ]
    layers.append(alt.Chart(data(rows if len(rows) < 120 else [])).mark_point(filled=True, size=30, opacity=1).encode(
        x=x, y=y, color=colour, description=alt.Description("tip:N")))  # fmt: skip
    layers.append(alt.Chart(data(ticks)).mark_point(filled=True, size=60, shape="diamond", color=INK, opacity=1).encode(
        x=x, y=y, description=alt.Description("tip:N")))  # fmt: skip
    return dressed(alt.layer(*layers), WIDTH, 180)


def rates(curves: list[Curve], colours: list[str]) -> Any:
    """Learning rates over steps."""
    rows: Rows = [
        {"step": s, "rate": v, "name": c.name, "colour": colours[i], "tip": f"step {s:,}: {v:.3g}"}
        for i, c in enumerate(curves) for s, v in c.points
    ]  # fmt: skip
    x = alt.X("step:Q", axis=alt.Axis(title="optimiser steps", tickCount=4, grid=False))
    y = alt.Y("rate:Q", axis=alt.Axis(title="learning rate", tickCount=4, labelExpr="format(datum.value, '~g')"))
    lines = alt.Chart(data(rows)).mark_line(strokeWidth=1.6).encode(
        x=x, y=y, detail=alt.Detail("name:N"), color=alt.Color("colour:N", scale=None)
    )  # fmt: skip
    return dressed(lines, WIDTH, 180)
