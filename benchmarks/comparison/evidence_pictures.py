"""Draw the manual's pictures of the evidence: losses relative to random's, by selector and by budget."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from comparison.evidence_page import BALANCED, BASELINE, DISTRIBUTED, MAIN_BUDGET, in_order, picture_name
from comparison.statistics import paired_difference
from s2l_ray.reporting.frame import framed
from s2l_ray.reporting.look import INK, LOOKS, MUTED, VARIABLES, Rows, data, dressed, look_of
from s2l_ray.reporting.svg import to_files

_WIDTH, _LINE = 330, 26
"""Width of a panel, and height of an arm's line (pixels)."""
_TICKS = {1.3: [0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2], 2.5: [0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2],
          math.inf: [0.5, 0.8, 1, 1.5, 2, 3, 5]}  # fmt: skip
"""Ticks of axes whose ends have this ratio at most."""
_KINDS = {0.0: "s2l", 0.1: "random"}
"""Share of wrong answers → the selector whose look its marks have."""
_WORDS = {"s2l": "no wrong answers", "random": "10 % wrong answers"}
_ARMS = ["random_per_source", "s2l", "s2l_robust"]
"""Arms that are drawn against the budget."""
_FEWEST = 3
"""Seeds below which an interval says nothing, so that the arm is left out."""
_LARGEST = 8.0
"""Ratios beyond it are drawn at the edge."""


def write(rows: Sequence[dict[str, Any]], folder: Path) -> list[str]:
    """Write the pictures of all corpora, light and dark → names of the files."""
    names = []
    for name, chart in pictures(rows).items():
        spec = json.dumps(chart)
        for scheme in ("light", "dark"):
            names.append(f"{name}_{scheme}.svg")
            (folder / names[-1]).write_bytes(to_files(json.loads(spec))["svg"])
            for light, (_, dark) in VARIABLES.items():
                spec = spec.replace(light, dark)
    return names


def pictures(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Draw what there are rows for → name → Vega-Lite specification."""
    found = {}
    for corpus in dict.fromkeys(row["corpus"] for row in rows):
        of = [row for row in rows if row["corpus"] == corpus and row["settings"]["set"]]
        if any(row["budget"] == MAIN_BUDGET for row in of):
            found[picture_name(corpus, "selectors")] = by_selector(of, corpus, MAIN_BUDGET)
        if len({row["budget"] for row in of if row["budget"] < 1}) > 1:
            found[picture_name(corpus, "budgets")] = by_budget(of, corpus)
    return found


def relative(rows: Sequence[dict[str, Any]], column: str) -> Iterator[dict[str, Any]]:
    """Yield each arm's loss divided by random's: the geometric mean over seeds, with a 95 % interval (Student's t);
    nothing for arms with fewer than three seeds.

    Args:
        rows: of one corpus, share of wrong answers and budget, and those of the whole corpus.
        column: the loss.
    """
    baseline = {row["seed"]: row[column] for row in rows if row["arm"] == BASELINE}
    for arm in {row["arm"]: None for row in rows}:
        pairs = [
            (math.log(row[column]), math.log(baseline[row["seed"]]))
            for row in rows
            if row["arm"] == arm and row["seed"] in baseline
        ]
        if len(pairs) >= _FEWEST:
            found = paired_difference(pairs)
            half = found.half_width or 0.0
            ratio, low, high = (math.exp(found.mean + sign * half) for sign in (0, -1, 1))
            yield {"arm": arm, "n": found.num_seeds, "ratio": ratio, "low": low, "high": high}


def _panels(corpus: str) -> list[tuple[str, str]]:
    return [("balanced_loss", BALANCED[corpus]), ("distributed_loss", DISTRIBUTED[corpus])]


def by_selector(rows: Sequence[dict[str, Any]], corpus: str, budget: float) -> dict[str, Any]:
    """Plot all arms at one budget, with and without wrong answers."""
    of = [row for row in rows if row["budget"] in (budget, 1)]
    drawn = {
        (column, wrong): list(relative([row for row in of if row["wrong_answers"] == wrong], column))
        for column, _ in _panels(corpus)
        for wrong in _KINDS
    }
    arms = list(in_order({one["arm"] for these in drawn.values() for one in these}))
    panels: list[Any] = []
    for column, _ in _panels(corpus):
        points: Rows = []
        for wrong, kind in _KINDS.items():
            for one in drawn[column, wrong]:
                at = arms.index(one["arm"]) + (0.17 if wrong else -0.17)
                points.append(_clipped(one) | {"at": at, "colour": LOOKS[kind].colour, "shape": LOOKS[kind].shape})
        names = [{"at": i, "name": arm} for i, arm in enumerate(arms)] if not panels else []
        panels.append(_selector_panel(points, names, len(arms)))
    title = f"Held-out loss relative to random's, {budget:.0%} of the corpus"
    spec = framed(panels, title, list(_KINDS.values()), [words for _, words in _panels(corpus)], names=_WORDS)
    # The names to the left are wider in browsers than Vega reckons.
    return spec | {"padding": {"left": 48, "right": 14, "top": 14, "bottom": 14}}


def _selector_panel(points: Rows, names: Rows, num: int) -> Any:
    y = alt.Y("at:Q", scale=alt.Scale(domain=[num - 0.4, -0.6], nice=False), axis=None)
    colour = alt.Color("colour:N", scale=None)
    base = alt.Chart(data(points)).encode(y=y)
    layers = [
        alt.Chart(data([{"x": 1}])).mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x=_x(points)),
        base.mark_rule(strokeWidth=2).encode(x=_x(points, "low"), x2="high:Q", color=colour),
        base.mark_point(filled=True, size=55, opacity=1).encode(
            x=_x(points, "ratio"), color=colour, shape=alt.Shape("shape:N", scale=None)
        ),
    ]
    if names:
        layers.append(
            alt.Chart(data(names)).mark_text(align="right", dx=-10, color=INK)
            .encode(y=y, x=alt.value(0), text="name:N")
        )  # fmt: skip
    return dressed(alt.layer(*layers), _WIDTH, _LINE * num)


def by_budget(rows: Sequence[dict[str, Any]], corpus: str) -> dict[str, Any]:
    """Plot the main arms against the budget: a panel for each test set and share of wrong answers."""
    budgets = sorted({row["budget"] for row in rows if row["budget"] < 1})
    panels, titles = [], []
    for wrong, kind in _KINDS.items():
        for column, title in _panels(corpus):
            points: Rows = []
            for i, budget in enumerate(budgets):
                of = [r for r in rows if r["wrong_answers"] == wrong and r["budget"] == budget]
                for one in relative(of, column):
                    if one["arm"] in _ARMS:
                        look = look_of(one["arm"])
                        points.append(_clipped(one) | {
                            "at": i + (_ARMS.index(one["arm"]) - 1) * 0.07, "colour": look.colour, "shape": look.shape,
                        })  # fmt: skip
            if points:
                panels.append(_budget_panel(points, budgets))
                titles.append(f"{title}, {_WORDS[kind]}")
    return framed(panels, "Held-out loss relative to random's, by budget", _ARMS, titles, columns=2)


def _budget_panel(points: Rows, budgets: Sequence[float]) -> Any:
    labels = " : ".join(f"datum.value == {i} ? '{budget:.0%}'" for i, budget in enumerate(budgets)) + " : ''"
    axis = alt.Axis(
        values=list(range(len(budgets))), labelExpr=labels, title="subset (share of the corpus)", grid=False
    )
    x = alt.X("at:Q", scale=alt.Scale(domain=[-0.3, len(budgets) - 0.7], nice=False), axis=axis)
    y = alt.Y(
        "ratio:Q", scale=_scale(points), axis=alt.Axis(values=_ticks(points), title="loss / random's (lower is better)")
    )
    colour = alt.Color("colour:N", scale=None)
    base = alt.Chart(data(points)).encode(x=x, color=colour)
    layers = [
        alt.Chart(data([{"y": 1}]))
        .mark_rule(color=MUTED, strokeDash=[3, 3])
        .encode(y=alt.Y("y:Q", scale=_scale(points))),
        base.mark_line(strokeWidth=1.5).encode(y=y),
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", scale=_scale(points)), y2="high:Q"),
        base.mark_point(filled=True, size=55, opacity=1).encode(y=y, shape=alt.Shape("shape:N", scale=None)),
    ]
    return dressed(alt.layer(*layers), _WIDTH, 240)


def _clipped(one: dict[str, Any]) -> dict[str, Any]:
    return {key: min(value, _LARGEST) if key in ("ratio", "low", "high") else value for key, value in one.items()}


def _ends(points: Rows) -> tuple[float, float]:
    found = [point[key] for point in points for key in ("low", "high")]
    return min(found) * 0.97, max(found) * 1.03


def _scale(points: Rows) -> Any:
    return alt.Scale(type="log", domain=list(_ends(points)), nice=False)


def _ticks(points: Rows) -> list[float]:
    low, high = _ends(points)
    return next(ticks for most, ticks in _TICKS.items() if high / low <= most)


def _x(points: Rows, field: str = "x") -> Any:
    axis = alt.Axis(values=_ticks(points), title="loss / random's loss (log scale; lower is better)")
    return alt.X(f"{field}:Q", scale=_scale(points), axis=axis)
