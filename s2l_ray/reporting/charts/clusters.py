"""Charts of clusters, trajectories and trajectory space."""

from __future__ import annotations

from typing import Any

import altair as alt

from s2l_ray.reporting.facts_contents import ClusterFacts, Clusters, Space
from s2l_ray.reporting.look import LOOKS, MUTED, STEPS, WIDTH, Rows, data, dressed, log_axis
from s2l_ray.reporting.numbers import percent


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
    """Examples taken from each cluster against its size, with the allocation's quota."""
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
