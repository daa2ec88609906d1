"""Charts that relate clusters and embeddings to the examples' known attributes."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from s2l_ray.reporting.facts_meaning import Projection, Purity
from s2l_ray.reporting.look import LETTERS, LOOKS, MUTED, PAPER, TOPICS, WIDTH, Rows, data, dressed
from s2l_ray.reporting.meaning import TRAJECTORIES
from s2l_ray.reporting.numbers import percent
from s2l_ray.reporting.projection import ASPECT, RADIUS

_HEXAGON = "M0,-1L0.866,-0.5L0.866,0.5L0,1L-0.866,0.5L-0.866,-0.5Z"
_LEAST = 0.45
"""Radius of a hexagon with one example, where that of the fullest is 1."""


def purity(p: Purity) -> Any:
    """Clusters by the share of their most common value, compared with randomly filled clusters of the same sizes."""
    rows: Rows = []
    for i in range(20):
        low, high = i * 5, i * 5 + 5
        for values, colour, who in (
            (p.random_values, MUTED, "at random"),
            (p.values, purity_colour(p), p.clusters_of),
        ):
            count = sum(low <= v * 100 < high or (i == 19 and v >= 1) for v in values)
            if count:
                left = low + (0.3 if who == "at random" else 2.6)
                rows.append({"low": left, "high": left + 2.2, "zero": 0, "count": count, "colour": colour,
                             "tip": f"{count} clusters ({who}) of {low} to {high} %"})  # fmt: skip
    x = alt.X("low:Q", scale=alt.Scale(domain=[0, 100], nice=False), axis=alt.Axis(
        title=f"share of the most common {p.column[:30]} (%)", tickCount=5))  # fmt: skip
    bars = alt.Chart(data(rows)).mark_rect().encode(
        x=x, x2=alt.X2("high:Q"), y=alt.Y("count:Q", axis=alt.Axis(title="clusters", tickCount=4)), y2=alt.Y2("zero:Q"),
        color=alt.Color("colour:N", scale=None),
        description=alt.Description("tip:N"),
    )  # fmt: skip
    return dressed(bars, WIDTH, 150)


def purity_colour(p: Purity) -> str:
    return LOOKS["s2l" if p.clusters_of == TRAJECTORIES else "embedding_kmeans"].colour


def projection(of: Projection) -> Any:
    """Hexagons over the two principal components, by the most common value of the examples in them: colour and letter.
    The larger one is, the more examples it holds."""
    most = max(cell.count for cell in of.cells)
    width, height = 308, 308 * ASPECT
    largest = RADIUS * width
    rows: Rows = []
    for cell in of.cells:
        share = math.log(cell.count) / math.log(most) if most > 1 else 1.0
        radius = largest * (_LEAST + (1 - _LEAST) * share)
        known = cell.commonest >= 0
        rows.append({
            "x": cell.x, "y": cell.y, "size": 4 * radius**2, "letter": LETTERS[cell.commonest] if known else "·",
            "colour": TOPICS[cell.commonest][0] if known else MUTED, "font": radius * 1.15,
            "tip": f"{cell.count:,} examples, {percent(cell.share)} of them {cell.name}",
        })  # fmt: skip
    scale = alt.Scale(domain=[0, 1], nice=False)
    x, y = (
        alt.Axis(title=f"component {n} ({percent(part)} of variance)", labels=False, ticks=False, grid=False)
        for n, part in enumerate(of.explained, 1)
    )
    base = alt.Chart(data(rows)).encode(x=alt.X("x:Q", scale=scale, axis=x), y=alt.Y("y:Q", scale=scale, axis=y))
    cells = base.mark_point(filled=True, shape=_HEXAGON, opacity=1, strokeWidth=0).encode(
        size=alt.Size("size:Q", scale=None), color=alt.Color("colour:N", scale=None),
        description=alt.Description("tip:N"),
    )  # fmt: skip
    letters = base.mark_text(color=PAPER, baseline="middle", dy=0.5, fontWeight="bold").encode(
        text=alt.Text("letter:N"), size=alt.Size("font:Q", scale=None)
    )  # fmt: skip
    return dressed(alt.layer(cells, letters), width, round(height))
