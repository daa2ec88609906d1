"""Facts → Altair charts, one function a picture. Every function returns a chart that a notebook shows as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from s2l_ray.reporting.facts import (
    ClusterFacts,
    Clusters,
    Contents,
    Cost,
    Curve,
    Difference,
    Estimate,
    Histogram,
    MetricFacts,
    Overlap,
    Purity,
    Score,
    SetAside,
    Space,
    Training,
    Worth,
)
from s2l_ray.reporting.look import INK, LOOKS, MUTED, PAPER, STEPS, data, dressed, log_axis, look_of, padded
from s2l_ray.reporting.numbers import compact, figure, loss, percent, signed

Rows = list[dict[str, Any]]

WIDTH = 262
"""Of a panel without its axes: the whole is 360 pixels wide at most."""
_ROW, _NAMES = 24, 118
"""Height of a line of dots, and room for the names to its left."""


def _title(metric: MetricFacts) -> str:
    return f"{metric.label} ({metric.unit}; {'more' if metric.more_is_better else 'less'} is better)"


def _scaled(estimate: Estimate, metric: MetricFacts) -> dict[str, Any]:
    factor = 100 if metric.is_share else 1
    low, high = (estimate.value if bound is None else bound for bound in (estimate.low, estimate.high))
    return {"value": estimate.value * factor, "low": low * factor, "high": high * factor}


def _between(estimate: Estimate, metric: MetricFacts) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"95\u00a0% {figure(estimate.low, metric)} to {figure(estimate.high, metric)}"


def _dots(rows: Rows, headings: Rows, title: str, zero: bool = False) -> Any:
    """Dots with intervals. Rows have at (line from above), name, value, low, high, colour, shape, text, tip."""
    lines = max(r["at"] for r in rows) + 1
    y = alt.Y("at:Q", scale=alt.Scale(domain=[lines - 0.4, -0.6], nice=False), axis=None)
    domain = padded([r[k] for r in rows for k in ("low", "high")] + ([0.0] if zero else []), 0.08, 0.42)
    x = alt.X(
        "value:Q",
        scale=alt.Scale(domain=domain, nice=False, zero=False),
        axis=alt.Axis(title=title, titleAnchor="end", tickCount=4),
    )
    colour = alt.Color("colour:N", scale=None)
    base = alt.Chart(data(rows)).encode(y=y)
    layers = [
        base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), color=colour),
        base.mark_point(filled=True, size=85, opacity=1).encode(
            x=x, color=colour, shape=alt.Shape("shape:N", scale=None),
        description=alt.Description("tip:N")
        ),
        base.mark_text(align="left", dx=8).encode(x=alt.X("high:Q"), text=alt.Text("text:N"), color=colour),
        base.mark_text(align="right", dx=-8, limit=_NAMES - 10).encode(x=alt.value(0), 
            text=alt.Text("name:N"), color=colour),
        alt.Chart(data(headings)).mark_text(align="left", color=INK).encode(
            y=y, x=alt.value(-_NAMES + 6), text=alt.Text("text:N")
        ),
    ]  # fmt: skip
    if zero:
        layers.insert(0, alt.Chart(data([{"x": 0}])).mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x=alt.X("x:Q")))
    return dressed(alt.layer(*layers), 338 - _NAMES, _ROW * lines, 20)


def scores(worth: Worth, metric: MetricFacts, names: dict[str, str]) -> Any:
    """Figures of all models on every held-out set, with intervals."""
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
    return _dots(rows, headings, _title(metric))


def _scores_of(worth: Worth, metric: MetricFacts, held_out: str, source: str | None = None) -> list[Score]:
    return [s for s in worth.scores if (s.metric, s.heldout_set, s.source) == (metric.key, held_out, source)]


def differences(worth: Worth, metric: MetricFacts, baselines: Sequence[str], names: dict[str, str]) -> Any:
    """Paired differences to the full data, or to the random choices of the same sizes."""
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
    return _dots(rows, headings, f"{metric.label}: difference ({unit}; {better} is better)", zero=True)


def differences_of(worth: Worth, metric: MetricFacts, baselines: Sequence[str], held_out: str) -> list[Difference]:
    wanted = (metric.key, held_out)
    return [d for d in worth.differences if (d.metric, d.heldout_set) == wanted and d.baseline in baselines]


def source_scores(worth: Worth, metric: MetricFacts, held_out: str, source: str, names: dict[str, str]) -> Any:
    """Figures of all models on the examples of one source."""
    selectors = {m.label: m.selector for m in worth.models}
    rows: Rows = []
    for at, score in enumerate(_scores_of(worth, metric, held_out, source)):
        look = look_of(selectors[score.label], selectors.values())
        text = figure(score.estimate.value, metric)
        tip = f"{names[score.label]} on {source}: {text}, {_between(score.estimate, metric)}"
        rows.append(_scaled(score.estimate, metric) | {
            "at": at, "name": names[score.label], "colour": look.colour, "shape": look.shape, "text": text, "tip": tip,
        })  # fmt: skip
    return _dots(rows, [], f"{metric.label} ({metric.unit})")


def cost_bars(cost: Cost, names: dict[str, str]) -> Any:
    """FLOPs of selecting and of one target, stacked, a bar a model."""
    labels = list(dict.fromkeys(p.selector for p in cost.parts))
    colours = {"reference model: training": STEPS[4], "reference model: scoring": STEPS[2], "target": MUTED}
    rows: Rows = []
    totals: Rows = []
    for at, label in enumerate(labels):
        start = 0.0
        for part in (p for p in cost.parts if p.selector == label):
            tip = f"{names.get(label, label)}, {part.part}: {compact(part.flops)} FLOPs"
            rows.append({"at": at, "from": start, "to": start + part.flops, "colour": colours[part.part], "tip": tip})
            start += part.flops
        totals.append({"at": at, "to": start, "name": names.get(label, label), "text": compact(start)})
    lines = len(labels)
    y = alt.Y("at:Q", scale=alt.Scale(domain=[lines - 0.3, -0.8], nice=False), axis=None)
    most = max(t["to"] for t in totals) * 1.3 or 1
    x = alt.X("from:Q", scale=alt.Scale(domain=[0, most], nice=False), axis=alt.Axis(
        title="FLOPs, selecting and one target (less is better)", format="~s", tickCount=4))  # fmt: skip
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
    selecting = cost.selection_flops
    crossings = [n for n in cost.break_even.values() if n is not None]
    most = min(1000.0, max([4.0, *(2 * n for n in crossings)]))
    rows: Rows = []
    for label, each in flops.items():
        first = 0.0 if label == "full" else selecting
        look = LOOKS["full"] if label == "full" else LOOKS["s2l"]
        tip = f"{names.get(label, label)}: {compact(each)} FLOPs a target, {compact(first)} once"
        rows += [
            {"n": n, "flops": first + n * each, "label": label, "colour": look.colour, "tip": tip} for n in (0, most)
        ]
    x = alt.X("n:Q", scale=alt.Scale(domain=[0, most], nice=False), axis=alt.Axis(
        title="targets trained from one selection", tickCount=5))  # fmt: skip
    y = alt.Y("flops:Q", axis=alt.Axis(title="total FLOPs (less is better)", format="~s", tickCount=5))
    lines = alt.Chart(data(rows)).mark_line(strokeWidth=2).encode(
        x=x, y=y, detail=alt.Detail("label:N"), color=alt.Color("colour:N", scale=None),
        description=alt.Description("tip:N")
    )  # fmt: skip
    crossed = [
        {"n": n, "flops": selecting + n * flops[label], "text": f"{n:.1f}"}
        for label, n in cost.break_even.items() if n is not None and n <= most and label in flops
    ]  # fmt: skip
    base = alt.Chart(data(crossed)).encode(x=alt.X("n:Q"), y=alt.Y("flops:Q"))
    points = base.mark_point(filled=True, size=70, color=INK, opacity=1)
    texts = base.mark_text(align="left", dx=7, dy=10).encode(text=alt.Text("text:N"))
    return dressed(alt.layer(lines, points, texts), WIDTH, 180)


def reference_cost(cost: Cost) -> Any:
    """FLOPs of a reference model by its size, and this run's."""
    rows: Rows = [{"p": p, "f": f} for p, f in cost.reference]
    spent = cost.selection_flops
    own: Rows = [{"p": float(cost.proxy_parameters or 0), "f": spent, "tip": f"this run: {compact(spent)} FLOPs"}]
    sizes = [r["p"] for r in [*rows, *own] if r["p"] > 0]
    flops = [r["f"] for r in [*rows, *own] if r["f"] > 0]
    label = "format(datum.value, '~s')"
    x = alt.X("p:Q", **log_axis(min(sizes), max(sizes), "parameters of the reference model", 5, label))
    y = alt.Y("f:Q", **log_axis(min(flops), max(flops), "FLOPs (less is better)", 5, label))
    line = alt.Chart(data(rows)).mark_line(color=MUTED, strokeDash=[4, 3]).encode(x=x, y=y)
    point = alt.Chart(data(own)).mark_point(filled=True, size=90, color=LOOKS["s2l"].colour, opacity=1).encode(
        x=x, y=y, description=alt.Description("tip:N")
    )  # fmt: skip
    return dressed(alt.layer(line, point), WIDTH, 180)


def shares(contents: Contents, column: str, labels: list[str], names: dict[str, str]) -> Any:
    """Share of each value in the corpus and in the subsets, on a log scale."""
    categories = contents.columns[column]
    sizes = {s.label: (s.selector, s.num_examples) for s in contents.subsets}
    totals = {"": contents_total(contents, column)} | {label: sizes[label][1] for label in labels}
    rows: Rows = []
    for at, category in enumerate(categories):
        for label in ["", *labels]:
            count = category.count if not label else category.chosen[label]
            share = count / max(1, totals[label])
            look = LOOKS["full"] if not label else look_of(sizes[label][0], [s for s, _ in sizes.values()])
            who = names[label] if label else "corpus"
            rows.append({"at": at, "share": share * 100, "colour": look.colour, "shape": look.shape,
                         "tip": f"{category.value}: {percent(share)} of {who} ({count:,} examples)"})  # fmt: skip
    positive = [r["share"] for r in rows if r["share"] > 0]
    low, high = min(positive) * 0.8, max(positive) * 1.25
    drawn = [r | {"share": max(r["share"], low)} for r in rows]
    spans: Rows = [
        {"at": at, "from": min(v), "to": max(v), "name": c.value}
        for at, c in enumerate(categories) for v in [[r["share"] for r in drawn if r["at"] == at]]
    ]  # fmt: skip
    lines = len(categories)
    y = alt.Y("at:Q", scale=alt.Scale(domain=[lines - 0.4, -0.6], nice=False), axis=None)
    x = alt.X("share:Q", **log_axis(low, high, "% of the examples (log scale)"))
    base = alt.Chart(data(spans)).encode(y=y)
    span = base.mark_rule(color=MUTED, strokeWidth=1).encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"))
    name = base.mark_text(align="right", dx=-8, limit=126).encode(x=alt.value(0), text=alt.Text("name:N"))
    dots = alt.Chart(data(drawn)).mark_point(filled=True, size=75, opacity=1).encode(
        y=y, x=x, color=alt.Color("colour:N", scale=None), shape=alt.Shape("shape:N", scale=None),
        description=alt.Description("tip:N")
    )  # fmt: skip
    return dressed(alt.layer(span, dots, name), 200, 20 * lines + 6, 20)


def contents_total(contents: Contents, column: str) -> int:
    """Examples of the corpus, those of values that are not listed included."""
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


def card(cluster: ClusterFacts, clusters: Clusters) -> Any:
    """Median and middle 80\u00a0% of a cluster's losses over the proxy's steps; one scale for all clusters."""
    rows = [
        {"step": s, "median": m, "low": low, "high": high}
        for s, m, low, high in zip(clusters.steps, cluster.median, cluster.low, cluster.high, strict=True)
    ]
    x = alt.X("step:Q", axis=alt.Axis(title=None, values=[clusters.steps[0], clusters.steps[-1]], grid=False))
    y = alt.Y("median:Q", **log_axis(clusters.least, clusters.largest, None, 4))
    base = alt.Chart(data(rows)).encode(x=x)
    colour = LOOKS["s2l"].colour
    band = base.mark_area(opacity=0.25, color=colour).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    line = base.mark_line(color=colour, strokeWidth=2).encode(y=y)
    return dressed(alt.layer(band, line), 128, 76)


def members(trajectories: list[list[float]], clusters: Clusters) -> Any:
    """Single trajectories."""
    rows = [
        {"step": s, "loss": max(v, clusters.least), "line": i}
        for i, line in enumerate(trajectories) for s, v in zip(clusters.steps, line, strict=True)
    ]  # fmt: skip
    x = alt.X("step:Q", axis=alt.Axis(title="steps of the reference model", tickCount=4, grid=False))
    y = alt.Y("loss:Q", **log_axis(clusters.least, clusters.largest, "loss (nats/token, log)", 4))
    lines = alt.Chart(data(rows)).mark_line(color=LOOKS["s2l"].colour, opacity=0.7, strokeWidth=1.3).encode(
        x=x, y=y, detail=alt.Detail("line:N")
    )  # fmt: skip
    return dressed(lines, WIDTH, 150)


def taken(clusters: Clusters) -> Any:
    """Examples taken against the size of each cluster, with the water level of the allocation."""
    rows: Rows = [
        {"size": c.size, "taken": max(c.taken or 0, 0.5), "tip": f"cluster {c.cluster}: {c.taken or 0:,} of {c.size:,}"}
        for c in clusters.clusters
    ]
    most = max(r["size"] for r in rows) * 1.2
    least = min(r["size"] for r in rows) * 0.8
    x = alt.X("size:Q", **log_axis(least, most, "examples in the cluster (log)", 4))
    low = min(r["taken"] for r in rows) * 0.8
    y = alt.Y("taken:Q", **log_axis(low, max(max(r["taken"] for r in rows) * 1.3, low * 2), "examples taken (log)", 4))
    points = alt.Chart(data(rows)).mark_point(filled=True, color=LOOKS["s2l"].colour, size=55, opacity=0.75).encode(
        x=x, y=y, description=alt.Description("tip:N")
    )  # fmt: skip
    level = alt.Chart(data([{"quota": clusters.quota}])).mark_rule(color=MUTED, strokeDash=[4, 3]).encode(
        y=alt.Y("quota:Q")
    )  # fmt: skip
    return dressed(alt.layer(level, points), WIDTH, 150)


def density(space: Space, label: str, most: float) -> Any:
    """Share chosen by cell of the two principal components.

    Args:
        most: the share at which the darkest step begins.
    """
    rows: Rows = []
    lines, columns = len(space.counts), len(space.counts[0])
    for y, (counts, chosen) in enumerate(zip(space.counts, space.chosen[label], strict=True)):
        for x, (count, taken_) in enumerate(zip(counts, chosen, strict=True)):
            if count:
                share = taken_ / count
                step = 0 if not taken_ else min(4, 1 + int(3.999 * share / most))
                rows.append({"x": x, "y": y, "x2": x + 1, "y2": y + 1, "colour": STEPS[step],
                             "tip": f"{taken_:,} of {count:,} ({percent(share)})"})  # fmt: skip
    axes = [
        (alt.Scale(domain=[0, n], nice=False), alt.Axis(title=title, labels=False, ticks=False, grid=False))
        for n, title in ((columns, f"component 1 ({percent(space.explained[0])} of variance) → higher loss"),
                         (lines, f"component 2 ({percent(space.explained[1])})"))
    ]  # fmt: skip
    cells = alt.Chart(data(rows)).mark_rect().encode(
        x=alt.X("x:Q", scale=axes[0][0], axis=axes[0][1]), x2=alt.X2("x2:Q"),
        y=alt.Y("y:Q", scale=axes[1][0], axis=axes[1][1]), y2=alt.Y2("y2:Q"),
        color=alt.Color("colour:N", scale=None),
        description=alt.Description("tip:N"),
    )  # fmt: skip
    return dressed(cells, 308, 224)


def purity(p: Purity) -> Any:
    """Clusters by the share of their commonest value, beside clusters of the same sizes filled at random."""
    rows: Rows = []
    for i in range(20):
        low, high = i * 5, i * 5 + 5
        for values, colour, who in (
            (p.random_values, MUTED, "random"),
            (p.values, LOOKS["s2l"].colour, "trajectories"),
        ):
            count = sum(low <= v * 100 < high or (i == 19 and v >= 1) for v in values)
            if count:
                left = low + (0.3 if who == "random" else 2.6)
                rows.append({"low": left, "high": left + 2.2, "zero": 0, "count": count, "colour": colour,
                             "tip": f"{count} clusters ({who}) of {low} to {high} %"})  # fmt: skip
    x = alt.X("low:Q", scale=alt.Scale(domain=[0, 100], nice=False), axis=alt.Axis(
        title=f"share of the commonest {p.column[:30]} (%)", tickCount=5))  # fmt: skip
    bars = alt.Chart(data(rows)).mark_rect().encode(
        x=x, x2=alt.X2("high:Q"), y=alt.Y("count:Q", axis=alt.Axis(title="clusters", tickCount=4)), y2=alt.Y2("zero:Q"),
        color=alt.Color("colour:N", scale=None),
        description=alt.Description("tip:N"),
    )  # fmt: skip
    return dressed(bars, WIDTH, 150)


def overlap(o: Overlap, names: dict[str, str]) -> Any:
    """Jaccard of all pairs of subsets."""
    labels = [names.get(label, label)[:24] for label in o.labels]
    rows = [
        {"x": f"{j + 1}", "y": f"{i + 1} {labels[i]}", "text": f"{v * 100:.0f}",
         "colour": STEPS[min(4, int(v * 4.999))], "ink": PAPER if v > 0.6 else INK,
         "tip": f"{labels[i]} and {labels[j]}: {percent(v)} in common"}
        for i, line in enumerate(o.matrix) for j, v in enumerate(line)
    ]  # fmt: skip
    base = alt.Chart(data(rows)).encode(
        x=alt.X("x:N", sort=None, axis=alt.Axis(title="% in common", orient="top", labelAngle=0)),
        y=alt.Y("y:N", sort=None, axis=alt.Axis(title=None)),
    )  # fmt: skip
    cells = base.mark_rect().encode(color=alt.Color("colour:N", scale=None), description=alt.Description("tip:N"))
    texts = base.mark_text().encode(text=alt.Text("text:N"), color=alt.Color("ink:N", scale=None))
    side = min(40, 190 // len(labels))
    return dressed(alt.layer(cells, texts), side * len(labels), max(20, side * 2 // 3) * len(labels))


def training(t: Training, curves: list[Curve], snapshots: bool, title: str, colours: list[str]) -> Any:
    """Losses over steps; ticks where snapshots were taken."""
    rows: Rows = [
        {"step": s, "loss": max(v, 1e-5), "name": c.name, "colour": colours[i % len(colours)],
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
        alt.Chart(data(rows)).mark_line(strokeWidth=1.6).encode(x=x, y=y, detail=alt.Detail("name:N"), color=colour)
    ]
    layers.append(alt.Chart(data(rows if len(rows) < 120 else [])).mark_point(filled=True, size=30, opacity=1).encode(
        x=x, y=y, color=colour, description=alt.Description("tip:N")))  # fmt: skip
    layers.append(alt.Chart(data(ticks)).mark_point(filled=True, size=60, shape="diamond", color=INK, opacity=1).encode(
        x=x, y=y, description=alt.Description("tip:N")))  # fmt: skip
    return dressed(alt.layer(*layers), WIDTH, 180)


def fates(aside: SetAside) -> Any:
    """What became of the examples that were read."""
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
        axis=alt.Axis(title="examples", tickCount=3, format="~s"),
    )
    base = alt.Chart(data(rows)).encode(y=y)
    bars = base.mark_bar(height=13, orient="horizontal").encode(
        x=x, x2=alt.datum(0), color=alt.Color("colour:N", scale=None), description=alt.Description("tip:N")
    )
    texts = base.mark_text(align="left", dx=5).encode(x=alt.X("count:Q"), text=alt.Text("text:N"))
    heads = base.mark_text(align="right", dx=-8).encode(x=alt.value(0), text=alt.Text("name:N"))
    return dressed(alt.layer(bars, texts, heads), 216, 24 * len(rows), 20)
