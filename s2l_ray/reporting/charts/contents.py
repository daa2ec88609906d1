"""Charts of what subsets contain and what was set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from s2l_ray.reporting.facts import SetAside
from s2l_ray.reporting.facts_contents import Contents, Histogram
from s2l_ray.reporting.look import (
    LOOKS,
    MUTED,
    STEPS,
    WIDTH,
    Rows,
    data,
    dressed,
    log_axis,
    look_of,
    si,
)
from s2l_ray.reporting.numbers import loss, percent


@dataclass(frozen=True)
class Mark:
    """How a population is drawn; "" is the corpus."""

    label: str
    colour: str
    shape: str
    symbol: str
    size: int = 75


def marks_of(contents: Contents, labels: Sequence[str]) -> list[Mark]:
    """The corpus, and subsets in the colours of their selectors."""
    selectors = {s.label: s.selector for s in contents.subsets}
    looks = [(label, look_of(selectors[label], selectors.values())) for label in labels]
    full = LOOKS["full"]
    return [Mark("", full.colour, full.shape, full.symbol)] + [
        Mark(label, look.colour, look.shape, look.symbol) for label, look in looks
    ]


def budget_marks(labels: Sequence[str]) -> list[Mark]:
    """The corpus and at most three budgets of one selector; larger budgets have darker and larger marks."""
    full = LOOKS["full"]
    shades = zip(labels, STEPS[-len(labels) :], (30, 70, 120), strict=False)
    return [Mark("", full.colour, full.shape, full.symbol)] + [Mark(n, c, "circle", "●", z) for n, c, z in shades]


def shares(contents: Contents, column: str, marks: Sequence[Mark], names: dict[str, str], lines: slice) -> Any:
    """Share of values in the corpus and in subsets, on a log scale that is the same for all lines.

    Args:
        lines: which of the values, the most common first.
    """
    rows = _share_rows(contents, column, marks, names)
    positive = [r["share"] for r in rows if r["share"] > 0]
    low, high = min(positive) * 0.8, max(positive) * 1.25
    shown = contents.columns[column][lines]
    first = lines.start or 0
    drawn: Rows = [
        r | {"share": max(r["share"], low), "at": r["at"] - first} for r in rows if 0 <= r["at"] - first < len(shown)
    ]
    spans: Rows = [
        {"at": at, "from": min(v), "to": max(v), "name": c.value}
        for at, c in enumerate(shown) for v in [[r["share"] for r in drawn if r["at"] == at]]
    ]  # fmt: skip
    y = alt.Y("at:Q", scale=alt.Scale(domain=[len(shown) - 0.4, -0.6], nice=False), axis=None)
    x = alt.X("share:Q", **log_axis(low, high, "% of the examples (log scale)"))
    base = alt.Chart(data(spans)).encode(y=y)
    span = base.mark_rule(color=MUTED, strokeWidth=1).encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"))
    name = base.mark_text(align="right", dx=-8, limit=126).encode(x=alt.value(0), text=alt.Text("name:N"))
    dots = alt.Chart(data(drawn)).mark_point(filled=True, opacity=1).encode(
        y=y, x=x, color=alt.Color("colour:N", scale=None), shape=alt.Shape("shape:N", scale=None),
        size=alt.Size("size:Q", scale=None), description=alt.Description("tip:N")
    )  # fmt: skip
    return dressed(alt.layer(span, dots, name), 200, 20 * len(shown) + 6, 20)


def _share_rows(contents: Contents, column: str, marks: Sequence[Mark], names: dict[str, str]) -> Rows:
    totals = {s.label: s.num_examples for s in contents.subsets} | {"": contents_total(contents, column)}
    rows: Rows = []
    for at, category in enumerate(contents.columns[column]):
        for mark in marks:
            count = category.chosen[mark.label] if mark.label else category.count
            share = count / max(1, totals[mark.label])
            who = names[mark.label] if mark.label else "corpus"
            rows.append({"at": at, "share": share * 100, "colour": mark.colour, "shape": mark.shape, "size": mark.size,
                         "tip": f"{category.value}: {percent(share)} of {who} ({count:,} examples)"})  # fmt: skip
    return rows


def contents_total(contents: Contents, column: str) -> int:
    """Number of examples in the corpus, including those with values that are not listed."""
    return sum(contents.histograms[0].counts[""]) if contents.histograms else sum(
        c.count for c in contents.columns[column]
    )  # fmt: skip


def histogram(h: Histogram, label: str, selector: str) -> Any:
    """Shares by bin: the subset as bars, the corpus as an outline; medians marked."""
    rows: Rows = []
    outline: Rows = []
    totals = {name: max(1, sum(h.counts[name])) for name in ("", label)}
    for i, (low, high) in enumerate(zip(h.edges, h.edges[1:], strict=False)):
        own, whole = (h.counts[name][i] / totals[name] * 100 for name in (label, ""))
        tip = f"{loss(low)} to {loss(high)} {h.unit}: {own:.1f} % of the subset, {whole:.1f} % of the corpus"
        rows.append({"low": low, "high": high, "share": own, "zero": 0, "tip": tip})
        outline += [{"x": low, "share": whole}, {"x": high, "share": whole}]
    x = alt.X("low:Q", **log_axis(h.edges[0], h.edges[-1], f"{h.what} ({h.unit}, log scale)", 4))
    y = alt.Y("share:Q", axis=alt.Axis(title="% of the examples", tickCount=4))
    colour = look_of(selector).colour
    bars = alt.Chart(data(rows)).mark_rect(color=colour, opacity=0.45).encode(
        x=x, x2=alt.X2("high:Q"), y=y, y2=alt.Y2("zero:Q"), description=alt.Description("tip:N")
    )  # fmt: skip
    line = alt.Chart(data(outline)).mark_line(color=LOOKS["full"].colour, strokeWidth=1.5).encode(
        x=alt.X("x:Q"), y=alt.Y("share:Q"), order=alt.value(0)
    )  # fmt: skip
    medians = [{"x": m, "colour": c} for m, c in (
        (h.medians[label], colour), (h.medians[""], LOOKS["full"].colour)) if m is not None and m > 0]  # fmt: skip
    rules = alt.Chart(data(medians)).mark_rule(strokeDash=[4, 3], strokeWidth=1.5).encode(
        x=alt.X("x:Q"), color=alt.Color("colour:N", scale=None)
    )  # fmt: skip
    return dressed(alt.layer(bars, line, rules), WIDTH, 120)


def fates(aside: SetAside) -> Any:
    """Outcome of all examples that were read."""
    rows = [
        {"at": i, "count": n, "name": name, "text": f"{n:,}",
         "colour": LOOKS["s2l"].colour if name == "chosen" else MUTED, "tip": f"{name}: {n:,}"}
        for i, (name, n) in enumerate(aside.counts)
    ]  # fmt: skip
    y = alt.Y("at:Q", scale=alt.Scale(domain=[len(rows) - 0.4, -0.6], nice=False), axis=None)
    most = max(n for _, n in aside.counts) * 1.4 or 1
    x = alt.X(
        "count:Q",
        scale=alt.Scale(domain=[0, most], nice=False),
        axis=alt.Axis(title="examples", tickCount=3, labelExpr=si()),
    )
    base = alt.Chart(data(rows)).encode(y=y)
    bars = base.mark_bar(height=13, orient="horizontal").encode(
        x=x, x2=alt.datum(0), color=alt.Color("colour:N", scale=None), description=alt.Description("tip:N")
    )
    texts = base.mark_text(align="left", dx=5).encode(x=alt.X("count:Q"), text=alt.Text("text:N"))
    heads = base.mark_text(align="right", dx=-8).encode(x=alt.value(0), text=alt.Text("name:N"))
    return dressed(alt.layer(bars, texts, heads), 216, 24 * len(rows), 20)
