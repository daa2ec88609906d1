"""Colours, marks and fonts of all charts: the only place that defines colours. Charts use the light colours; in a page
each is replaced by a CSS variable, so that one drawing serves light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import altair as alt

from s2l_ray.artifacts.index import FULL

WIDTH = 262
"""Width of a panel without its axes (pixels); with them, it is at most 360 pixels wide."""
Rows = list[dict[str, Any]]
"""A chart's data."""

INK, MUTED, GRID, PAPER = "#1d2126", "#57606a", "#dfe3e8", "#ffffff"
STEPS = ("#eef2f5", "#c5dbe6", "#86b6cc", "#3f8cae", "#0a5a80")
"""Colours for shares from none to all, on the map."""
VARIABLES = {
    INK: ("ink", "#e6e9ec"), MUTED: ("muted", "#9aa4ae"), GRID: ("grid", "#2b3238"), PAPER: ("paper", "#0f1418"),
    **{colour: (f"step{i}", dark) for i, (colour, dark) in enumerate(zip(
        STEPS, ("#1c242a", "#1d4356", "#24698a", "#3e9ac1", "#9adcf7"), strict=True))},
}  # fmt: skip
"""Light colour → (CSS variable, dark twin)."""


@dataclass(frozen=True)
class Look:
    colour: str
    dark: str
    shape: str
    symbol: str
    """The shape as a character, for legends."""


BAR = "M-1,-0.35H1V0.35H-1Z"
"""A bar as a shape; Vega's own `stroke` has no area, so that filled marks of it are invisible."""
LOOKS = {
    FULL: Look("#4a4a4a", "#c3c9cf", "diamond", "◆"),
    "s2l": Look("#0b6e99", "#5db8e0", "circle", "●"),
    "random": Look("#b65e0b", "#f0a558", "square", "■"),
    "random_per_source": Look("#7d5ba6", "#b79be0", "triangle-up", "▲"),
    "s2l_robust": Look("#12304a", "#8fb4d9", "triangle-right", "▶"),
    "least_confidence": Look("#b5386b", "#ec8db2", "cross", "✚"),
    "middle_perplexity": Look("#6b6b00", "#c9c95a", "triangle-left", "◀"),
    "high_learnability": Look("#2a7f3f", "#7ccf91", "triangle-down", "▼"),
    "facility_location": Look("#00807a", "#5cc9c2", BAR, "▬"),
    "confidence_curriculum": Look("#8c4a2f", "#d79f87", "cross", "✚"),
    "embedding_kmeans": Look("#4053d3", "#9aa6ff", "diamond", "◆"),
    "ifd": Look("#8f2d56", "#e38fb0", "triangle-right", "▶"),
    "cartography_hard": Look("#6a4c2f", "#c4a482", "triangle-up", "▲"),
    "cartography_ambiguous": Look("#5f6b7a", "#aab6c4", "triangle-left", "◀"),
    "forgetting": Look("#7a2e00", "#e0a077", "square", "■"),
    "rds_plus": Look("#c2185b", "#ff8ab5", "circle", "●"),
}
OTHERS = (
    Look("#3d5a00", "#b6d36b", "triangle-down", "▼"), Look("#5b2c83", "#cba6ee", "cross", "✚"),
    Look("#005f8a", "#7cc4ee", BAR, "▬"),
)  # fmt: skip
"""Looks for selectors from other packages."""
for _i, _look in enumerate([*LOOKS.values(), *OTHERS]):
    VARIABLES[_look.colour] = (f"series{_i}", _look.dark)


TOPICS = (
    ("#1f6fb4", "#7ab8f0"), ("#a8500a", "#f5a65b"), ("#2e7d32", "#81c995"), ("#b0246b", "#f08abf"),
    ("#6a4bb5", "#b9a5f2"), ("#0f766e", "#5fd0c5"), ("#7a4b21", "#cfa27a"), ("#666b00", "#c8cc55"),
)  # fmt: skip
"""Colours (light, dark) for the values of a column, with letters on them: all are dark enough for white letters, or
light enough for black ones."""
LETTERS = "ABCDEFGH"
for _i, (_light, _dark) in enumerate(TOPICS):
    VARIABLES[_light] = (f"topic{_i}", _dark)


def look_of(selector: str, selectors: Iterable[str] = ()) -> Look:
    """The selector's own look; for selectors from other packages, one from a fixed list by their order."""
    if selector in LOOKS:
        return LOOKS[selector]
    others = sorted({s for s in selectors if s not in LOOKS} | {selector})
    return OTHERS[others.index(selector) % len(OTHERS)]


_CONFIG: dict[str, Any] = {
    "font": "sans-serif",
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelColor": MUTED, "titleColor": MUTED,
        "gridColor": GRID, "domainColor": GRID, "tickColor": GRID, "titlePadding": 8, "labelLimit": 150,
        "titleLimit": 330,
    },
    "text": {"fontSize": 12, "color": INK},
    "title": {"fontSize": 12, "fontWeight": "normal", "color": INK, "anchor": "start"},
}  # fmt: skip


def dressed(chart: Any, width: int, height: int, left: int = 6) -> Any:
    """The chart with this project's type and axes.

    Args:
        width, height: of the panel without its axes (pixels).
        left: more room to its left: text there is wider in browsers than Vega reckons.
    """
    config = {**_CONFIG, "padding": {"left": left, "right": 8, "top": 6, "bottom": 6}}
    # In one call, because every call that changes a chart copies it with its data.
    return chart.properties(width=width, height=height, config=config)


def data(rows: list[dict[str, Any]]) -> Any:
    """Rows as a chart's data."""
    return alt.Data(values=rows)


def marks_of(decades_low: float, high: float, most: int = 5) -> list[float]:
    """Values for the ticks of a log axis: powers of ten, and multiples of them if there are only a few."""
    low = max(decades_low, 1e-300)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices: tuple[list[float], ...] = ([1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1])
    found: list[float] = []
    for steps in choices:
        found = [s * 10.0**e for e in exponents for s in steps if low * 0.999 <= s * 10.0**e <= high * 1.001]
        if len(found) <= most:
            break
    if len(found) < 2:
        digits = 1 - math.floor(math.log10(max(high - low, 1e-300)))
        return sorted({round(low + (high - low) * share, digits) for share in (0.1, 0.5, 0.9)})
    every = -(-len(found) // most) if found else 1
    return found[::every] or [low]


def si(most: str = "G") -> str:
    """A Vega expression of an axis's labels: `0`, `10k`, `3T`. `most`: `B` of what is counted in billions."""
    text = "format(datum.value, '~s')" if most == "G" else f"replace(format(datum.value, '~s'), 'G', '{most}')"
    return f"datum.value == 0 ? '0' : {text}"


def log_axis(low: float, high: float, title: str | None, most: int = 5, label: str = "") -> dict[str, Any]:
    """Scale and axis of a log channel. `label`: a Vega expression of `datum.value`."""
    axis: dict[str, Any] = {"values": marks_of(low, high, most), "title": title}
    axis["labelExpr"] = label or "format(datum.value, '~g')"
    return {"scale": alt.Scale(type="log", domain=[low, high], nice=False), "axis": alt.Axis(**axis)}


def padded(values: Iterable[float | None], before: float = 0.08, after: float = 0.08) -> list[float]:
    """A domain for a linear axis that contains the values."""
    known = [v for v in values if v is not None]
    low, high = min(known), max(known)
    span = (high - low) or abs(high) or 1.0
    return [low - before * span, high + after * span]
