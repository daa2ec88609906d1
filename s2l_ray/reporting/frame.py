"""Combines charts into one picture with title and legend, for standalone files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from s2l_ray.reporting.look import INK, PAPER, look_of
from s2l_ray.reporting.names import selector_name
from s2l_ray.text.display import printable, shorten

_CHARACTER = 6.2
"""Approximate width of a character (pixels), an overestimate for long names."""


def framed(
    charts: Sequence[Any],
    title: str,
    selectors: Sequence[str],
    titles: Sequence[str] = (),
    *,
    names: Mapping[str, str] | None = None,
    columns: int = 3,
) -> dict[str, Any]:
    """A Vega-Lite specification: the charts in rows, their legend above them.

    Args:
        selectors: of the legend.
        titles: of each chart, or none at all.
        names: what the legend calls the selectors, if not by their own names.
        columns: charts of a row.
    """
    datasets: dict[str, Any] = {}
    config: dict[str, Any] = {}
    panels = []
    for i, chart in enumerate(charts):
        spec = chart.to_dict()
        config = spec.pop("config")
        datasets |= spec.pop("datasets", {})
        spec.pop("$schema", None)
        panels.append(spec | ({"title": shorten(printable(titles[i]), 40)} if titles else {}))
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": {"text": shorten(printable(title), 100), "anchor": "start", "fontSize": 14, "color": INK},
        "vconcat": [_legend(selectors, names or {}), {"concat": panels, "columns": min(columns, len(panels))}],
        "datasets": datasets, "config": config | {"background": PAPER}, "padding": 14,
    }  # fmt: skip


def _legend(selectors: Sequence[str], names: Mapping[str, str]) -> dict[str, Any]:
    rows, x = [], 8.0
    for selector in selectors:
        look, name = look_of(selector, selectors), names.get(selector) or selector_name(selector)
        rows.append({"x": x, "text": x + 10, "name": name, "colour": look.colour, "shape": look.shape})
        x += 34 + _CHARACTER * len(name)
    own = {"scale": None}
    shared = {"y": {"value": 8}, "color": {"field": "colour", "type": "nominal", **own}}
    return {
        "width": x, "height": 16, "data": {"values": rows}, "view": {"stroke": None},
        "layer": [
            {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1}, "encoding": {
                "x": {"field": "x", "type": "quantitative", **own, "axis": None},
                "shape": {"field": "shape", "type": "nominal", **own}, **shared}},
            {"mark": {"type": "text", "align": "left", "baseline": "middle"}, "encoding": {
                "x": {"field": "text", "type": "quantitative", **own, "axis": None},
                "text": {"field": "name", "type": "nominal"}, **shared}},
        ],
    }  # fmt: skip
