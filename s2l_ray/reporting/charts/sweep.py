"""Charts of a sweep: quality against budget, the same relative to the full data, and trials with further settings."""

from __future__ import annotations

from typing import Any

import altair as alt

from s2l_ray.artifacts.index import FULL
from s2l_ray.reporting.costs import is_free
from s2l_ray.reporting.facts import Stability
from s2l_ray.reporting.facts_worth import BudgetPoint, Budgets
from s2l_ray.reporting.look import GRID, LOOKS, WIDTH, Rows, data, dressed, log_axis, look_of, padded, si
from s2l_ray.reporting.names import selector_name
from s2l_ray.reporting.numbers import compact, direction, figure, metric_title, percent


def points_of(budgets: Budgets, held_out: str) -> list[BudgetPoint]:
    """Points of one held-out set; if it is empty, of all sets together, relative to the full data."""
    return [p for p in budgets.points if p.heldout_set == held_out]


def is_relative(points: list[BudgetPoint]) -> bool:
    """Whether a target was trained on the full data, so that its result can be 100."""
    return bool(points) and all(p.relative is not None for p in points)


def budget(budgets: Budgets, held_out: str, size: tuple[int, int] = (WIDTH, 190)) -> Any:
    """One line per selector with its interval; dotted: predicted with the proxy's model. The zone that is good enough
    is shaded and the smallest budget in it marked.

    Args:
        size: width and height of the panel without its axes (pixels).
    """
    found = points_of(budgets, held_out)
    relative = is_relative(found)
    metric = budgets.metric
    rows = [_row(p, budgets, relative) for p in found if p.selector != FULL]
    shares = [r["share"] for r in rows]
    low, high = min(shares) * 0.85, max([*shares, 100.0 if relative else max(shares)]) * 1.1
    x = alt.X("share:Q", scale=alt.Scale(type="log", domain=[low, high], nice=False), axis=alt.Axis(
        title="subset (% of the examples, log scale)", values=_ticks(shares + ([100.0] if relative else [])),
        labelExpr="format(datum.value, '.3~g')", grid=False))  # fmt: skip
    title = f"% of full data ({direction(metric)})" if relative else f"{metric.unit} ({direction(metric)})"
    ends = [r[k] for r in rows for k in ("low", "high")]
    domain = padded([*ends, 100 + 100 * budgets.within, 100 - 100 * budgets.within] if relative else ends)
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    y = alt.Y("value:Q", scale=scale, axis=alt.Axis(title=title, tickCount=5))
    colour = alt.Color("colour:N", scale=None)
    base = alt.Chart(data(rows)).encode(x=x)
    layers = [] if not relative else _zone(budgets, scale, domain)
    layers += [
        base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", scale=scale), y2=alt.Y2("high:Q"), color=colour,
            detail=alt.Detail("line:N")),
        base.mark_line(strokeWidth=2).encode(
            y=y, color=colour, detail=alt.Detail("line:N"), strokeDash=alt.StrokeDash("dash:N", scale=None)
        ),
        base.mark_point(filled=True, size=65, opacity=1).encode(
            y=y, color=colour, shape=alt.Shape("shape:N", scale=None),
        description=alt.Description("tip:N")
        ),
    ]  # fmt: skip
    best = [r | {"size": 190} for r in rows if _is_smallest(r, budgets)]
    layers.append(
        alt.Chart(data(best)).mark_point(filled=False, size=190, strokeWidth=2).encode(x=x, y=y, color=colour)
    )
    return dressed(alt.layer(*layers), *size)


def _row(p: BudgetPoint, budgets: Budgets, relative: bool) -> dict[str, Any]:
    told = p.relative if relative and p.relative is not None else p.estimate
    factor = 1 if relative or not budgets.metric.is_share else 100
    low, high = (told.value if bound is None else bound for bound in (told.low, told.high))
    look = look_of(p.selector, {q.selector for q in budgets.points})
    value = f"{told.value:.1f} % of the full data's" if relative else figure(told.value, budgets.metric)
    tip = f"{selector_name(p.selector)} {percent(p.share)} ({p.num_examples:,}), {p.phase}: {value}"
    return {"share": p.share * 100, "value": told.value * factor, "low": low * factor, "high": high * factor,
            "colour": look.colour, "shape": look.shape, "line": f"{p.selector} {p.phase}", "selector": p.selector,
            "phase": p.phase, "dash": [2, 3] if p.phase == "predicted" else [1, 0], "tip": tip}  # fmt: skip


def _zone(budgets: Budgets, scale: Any, domain: list[float]) -> list[Any]:
    """The zone that is good enough, and the line of the full data."""
    within = 100 * budgets.within
    edge = (
        {"from": 100 - within, "to": domain[1]}
        if budgets.metric.more_is_better
        else {"from": domain[0], "to": 100 + within}
    )
    zone = (
        alt.Chart(data([edge]))
        .mark_rect(color=GRID, opacity=0.5)
        .encode(y=alt.Y("from:Q", scale=scale), y2=alt.Y2("to:Q"))
    )
    line = (
        alt.Chart(data([{"y": 100}]))
        .mark_rule(color=LOOKS[FULL].colour, strokeDash=[5, 3])
        .encode(y=alt.Y("y:Q", scale=scale))
    )
    return [zone, line]


def _is_smallest(row: dict[str, Any], budgets: Budgets) -> bool:
    best = budgets.smallest.get(row["selector"])
    return best is not None and row["phase"] == "target" and abs(row["share"] - best * 100) < 1e-9


def _ticks(shares: list[float]) -> list[float]:
    """The budgets as ticks, without those whose label would overlap their right neighbour's."""
    kept: list[float] = []
    for share in sorted(set(shares), reverse=True):
        if not kept or kept[-1] / share > 1.3:
            kept.append(share)
    return kept[::-1]


def tuned(stability: Stability, parameter: str, held_out: str) -> Any:
    """The metric for each value of one setting, averaged over seeds, one dot per subset; if a selector has several
    subsets, their sizes are next to the last dots."""
    found = [t for t in stability.tuned if (t.parameter, t.heldout_set) == (parameter, held_out)]
    assert stability.metric is not None
    metric = stability.metric
    factor = 100 if metric.is_share else 1
    rows: Rows = []
    for t in found:
        look = look_of(t.selector, {u.selector for u in stability.tuned})
        name = f"{selector_name(t.selector)} {percent(t.share)}"
        rows.append({"value": t.value[:24], "mean": t.mean * factor, "colour": look.colour, "shape": look.shape,
                     "name": name, "tip": f"{parameter} = {t.value}, {name}: {figure(t.mean, metric)}"})  # fmt: skip
    shares = {t.selector: {u.share for u in found if u.selector == t.selector} for t in found}
    last = {r["name"]: {**r, "text": percent(t.share)} for r, t in zip(rows, found, strict=True)
            if len(shares[t.selector]) > 1}  # fmt: skip
    y = alt.Y("mean:Q", scale=alt.Scale(domain=padded([r["mean"] for r in rows]), nice=False), axis=alt.Axis(
        title=f"{metric.unit} ({direction(metric)})", tickCount=5))  # fmt: skip
    x = alt.X("value:N", sort=None, axis=alt.Axis(title=parameter[:40], labelAngle=0, labelLimit=80))
    base = alt.Chart(data(rows)).encode(x=x, y=y, color=alt.Color("colour:N", scale=None))
    lines = base.mark_line(strokeWidth=1.4, opacity=0.6).encode(detail=alt.Detail("name:N"))
    points = base.mark_point(filled=True, size=75, opacity=1).encode(
        shape=alt.Shape("shape:N", scale=None), description=alt.Description("tip:N")
    )
    texts = alt.Chart(data(list(last.values()))).mark_text(align="left", dx=8).encode(
        x=x, y=y, text=alt.Text("text:N"), color=alt.Color("colour:N", scale=None)
    )  # fmt: skip
    return dressed(alt.layer(lines, points, texts), WIDTH, 170)


def cost(budgets: Budgets, size: tuple[int, int] = (WIDTH, 190)) -> Any:
    """The deciding metric against the FLOPs of selecting and of one target; selectors that need no reference model cost
    only the target's."""
    metric = budgets.metric
    factor = 100 if metric.is_share else 1
    rows: Rows = []
    for p in (p for p in points_of(budgets, budgets.deciding) if p.phase == "target" or _only_predicted(budgets)):
        choosing = budgets.choosing.get(p.selector, budgets.selection_flops)
        flops = p.flops + (0.0 if is_free(p.selector) else choosing)
        low, high = (p.estimate.value if b is None else b for b in (p.estimate.low, p.estimate.high))
        look = look_of(p.selector, {q.selector for q in budgets.points})
        who = f"{selector_name(p.selector)} {percent(p.share)}"
        tip = f"{who}: {figure(p.estimate.value, metric)}, {compact(flops)} FLOPs"
        rows.append({"flops": flops, "value": p.estimate.value * factor, "low": low * factor, "high": high * factor,
                     "colour": look.colour, "shape": look.shape, "tip": tip,
                     "text": "" if p.selector == FULL else percent(p.share)})  # fmt: skip
    costs = [r["flops"] for r in rows]
    x = alt.X("flops:Q", **log_axis(min(costs) * 0.85, max(costs) * 1.25, _COST, 5, si()))
    domain = padded([r[k] for r in rows for k in ("low", "high")])
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    y = alt.Y("value:Q", scale=scale, axis=alt.Axis(title=metric_title(metric), tickCount=5))
    base = alt.Chart(data(rows)).encode(x=x, color=alt.Color("colour:N", scale=None))
    layers = [
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", scale=scale), y2=alt.Y2("high:Q")),
        base.mark_point(filled=True, size=65, opacity=1).encode(
            y=y, shape=alt.Shape("shape:N", scale=None), description=alt.Description("tip:N")
        ),
        base.mark_text(align="left", dx=8, dy=-6).encode(y=y, text=alt.Text("text:N")),
    ]
    return dressed(alt.layer(*layers), *size)


_COST = "selecting and one target (FLOPs, log scale; lower is better)"


def _only_predicted(budgets: Budgets) -> bool:
    return all(p.phase != "target" for p in budgets.points)


def source(budgets: Budgets, name: str, size: tuple[int, int] = (WIDTH, 130)) -> Any:
    """Held-out loss on the examples of one source against the budget; dashed: the full data."""
    found = [p for p in budgets.sources if p.source == name]
    selectors = {p.selector for p in budgets.points}
    rows: Rows = []
    for p in found:
        low, high = (p.estimate.value if b is None else b for b in (p.estimate.low, p.estimate.high))
        look = look_of(p.selector, selectors)
        rows.append({"share": p.share * 100, "loss": p.estimate.value, "low": low, "high": high, "selector": p.selector,
                     "colour": look.colour, "shape": look.shape,
                     "tip": f"{selector_name(p.selector)} {percent(p.share)}: {p.estimate.value:.3f}"})  # fmt: skip
    shares = [r["share"] for r in rows]
    x = alt.X("share:Q", scale=alt.Scale(type="log", domain=[min(shares) * 0.85, max(shares) * 1.15], nice=False),
              axis=alt.Axis(title="subset (% of the examples, log scale)", values=_ticks(shares),
                            labelExpr="format(datum.value, '.3~g')", grid=False))  # fmt: skip
    scale = alt.Scale(domain=padded([r[k] for r in rows for k in ("low", "high")]), nice=False, zero=False)
    y = alt.Y("loss:Q", scale=scale, axis=alt.Axis(title="held-out loss (nats/token)", tickCount=4))
    colour = alt.Color("colour:N", scale=None)
    base = alt.Chart(data([r for r in rows if r["selector"] != FULL])).encode(x=x, color=colour)
    layers = [
        base.mark_area(opacity=0.16).encode(
            y=alt.Y("low:Q", scale=scale), y2=alt.Y2("high:Q"), detail=alt.Detail("selector:N")
        ),
        base.mark_line(strokeWidth=1.6).encode(y=y, detail=alt.Detail("selector:N")),
        base.mark_point(filled=True, size=45, opacity=1).encode(
            y=y, shape=alt.Shape("shape:N", scale=None), description=alt.Description("tip:N")
        ),
        alt.Chart(data([r for r in rows if r["selector"] == FULL])).mark_rule(strokeDash=[5, 3]).encode(
            y=y, color=colour
        ),
    ]  # fmt: skip
    return dressed(alt.layer(*layers), *size)
