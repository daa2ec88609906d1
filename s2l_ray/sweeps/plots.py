"""Pictures of a sweep, PNG and SVG: held-out figure against budget, the same by source, and against total cost.

Legible at half size, in grey and to the colour-blind: big letters, a marker of its own for each selector.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.evaluation.metrics import get_metric
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.results import Cost, Point, full_point
from s2l_ray.sweeps.trials import FULL
from s2l_ray.text.display import printable

_LOOKS = {"s2l": ("#0b6e99", "o"), "random": ("#d9822b", "s"), "random_per_source": ("#7d5ba6", "^"),
          FULL: ("#444444", "D")}  # fmt: skip
"""Colour and marker."""
_OTHER_LOOKS = [("#2a7f3f", "v"), ("#b5386b", "P"), ("#6b6b00", "X"), ("#00857c", "*"), ("#8c4a2f", "<")]
_MOST_SOURCES = 12


def draw_all(
    out: Storage,
    name: str,
    metric: str,
    curves: dict[str, list[Point]],
    selecting: Cost,
    table: pa.Table,
    deciding: str,
) -> list[str]:
    """name: the run's. curves: phase → points. deciding: the held-out set shown. Returns the names of the files."""
    import matplotlib

    matplotlib.use("Agg")  # no display on a cluster
    title = _literal(f"{name}, held-out set “{deciding}”")
    figures = {"budget": _budget_figure(title, metric, curves), "cost": _cost_figure(title, metric, curves, selecting)}
    by_source = _source_figure(title, table, deciding)
    if by_source is not None:
        figures["sources"] = by_source
    names = []
    for file, figure in figures.items():
        for kind in ("png", "svg"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=160)
            out.write_bytes(f"{file}.{kind}", buffer.getvalue())
            names.append(f"{file}.{kind}")
    import matplotlib.pyplot as plt

    plt.close("all")
    return names


def _new(columns: int = 1, rows: int = 1, width: float = 7.2, height: float = 4.8) -> tuple[Any, Any]:
    """`width`, `height`: of a panel, inches."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                         "grid.alpha": 0.25, "svg.hashsalt": "s2l"})  # fmt: skip
    size = (width * columns, height * rows)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)


def _selectors(found: list[Any]) -> list[str]:
    """S2L first, then the rivals by name; the full data is no selector."""
    return sorted({p.selector for p in found} - {FULL}, key=lambda name: (name != "s2l", name))


def _looks(selectors: list[str]) -> dict[str, dict[str, Any]]:
    others = [s for s in selectors if s not in _LOOKS]
    looks = _LOOKS | {s: _OTHER_LOOKS[i % len(_OTHER_LOOKS)] for i, s in enumerate(others)}
    labels = {s: _literal(s.replace("_", " ")) for s in selectors} | {FULL: "full data"}
    return {s: {"color": looks[s][0], "marker": looks[s][1], "label": labels[s]} for s in labels}


def _curve(axis: Any, found: list[Point], x: dict[Point, float], phase: str, bars: bool = False) -> None:
    """`bars` where points may lie above each other: a band would have no width there."""
    looks = _looks(_selectors(found))
    for selector in _selectors(found):
        mine = [p for p in found if p.selector == selector]
        style = looks[selector] | ({"linestyle": ":"} if phase == "predicted" else {})
        where, mean = [x[p] for p in mine], np.array([p.mean for p in mine])
        spread = np.array([p.spread for p in mine])
        if bars:
            axis.errorbar(where, mean, yerr=spread, linewidth=2, elinewidth=1, capsize=3, markersize=7, **style)
            continue
        axis.plot(where, mean, linewidth=2, markersize=7, **style)
        axis.fill_between(where, mean - spread, mean + spread, color=style["color"], alpha=0.15, linewidth=0)


def _seeds_told(found: list[Point], how: str) -> str:
    """What the bands or bars (`how`) are."""
    seeds = max(len(p.values) for p in found)
    return f"{how}: ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed: no spread is known"


def _percent(share: float) -> str:
    """Two digits where they are within a hundredth: 29 of 582 examples are 5 % to a reader, one eighth is 12.5 %."""
    rounded = float(f"{share * 100:.2g}")
    return f"{rounded:g}" if abs(rounded - share * 100) <= share else f"{share * 100:.3g}"


def _percent_ticks(axis: Any, shares: list[float], room: float) -> None:
    """A tick a budget; a label where it has room (`room`: its share of the axis) beside those to its right."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis.set_xscale("log")
    ticks = sorted(set(shares))
    low, high = min(ticks) * 0.85, max(ticks) * 1.15
    labels: list[str] = []
    beside = math.inf
    for tick in reversed(ticks):
        at = math.log(tick / low) / math.log(high / low)
        fits = beside - at >= room
        labels.insert(0, _percent(tick) if fits else "")
        beside = at if fits else beside
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_major_formatter(FixedFormatter(labels))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(low, high)


def _axis_label(name: str) -> str:
    """Two lines."""
    metric = get_metric(name)
    return f"{metric.label} ({metric.scale})\n{metric.detail or metric.direction}"


def _relative_axis(axis: Any, full: float, label: str) -> None:
    """On the right: the same, full data = 100."""
    right = axis.secondary_yaxis("right", functions=(lambda y: y / full * 100, lambda share: share * full / 100))
    right.set_ylabel(label)
    right.spines["right"].set_visible(False)


def _budget_figure(title: str, metric: str, curves: dict[str, list[Point]]) -> Any:
    """One panel a phase: a small model's losses and the target's are on different scales."""
    several = len(curves) > 1
    figure, axes = _new(columns=len(curves), width=6.4) if several else _new()
    for axis, (phase, found) in zip(axes[0], curves.items(), strict=True):
        _curve(axis, found, {p: p.share for p in found}, phase)
        full = full_point(found)
        if full is not None:
            style = _looks([])[FULL] | {"marker": None}
            axis.axhline(full.mean, linewidth=1.5, linestyle="--", **style)
            axis.axhspan(full.mean - full.spread, full.mean + full.spread, color=style["color"], alpha=0.1, linewidth=0)
        whole = [] if full is None else [1.0]
        _percent_ticks(axis, [p.share for p in found if p.selector != FULL] + whole, room=0.06)
        last = phase == list(curves)[-1]
        axis.set_xlabel(
            "subset (% of the examples, log scale)" + (f"\n{_seeds_told(found, 'shaded')}" if last else "\n")
        )
        if full is not None and full.mean:
            _relative_axis(axis, full.mean, "% of the full data's" if last else "")
        if several:
            who = "the proxy's model (prediction)" if phase == "predicted" else "the target"
            axis.set_title(f"trained: {who}", fontsize=12)
        axis.legend(frameon=False, fontsize=11)
    axes[0][0].set_ylabel(_axis_label(metric))
    figure.suptitle(title, fontsize=13)
    return figure


def _cost_figure(title: str, metric: str, curves: dict[str, list[Point]], selecting: Cost) -> Any:
    """Selection's FLOPs count for s2l, which needs it; random ones cost the target's training alone."""
    figure, axes = _new()
    axis = axes[0][0]
    found = curves.get("target") or next(iter(curves.values()))
    cost = {p: p.flops + (0.0 if p.selector in (FULL, "random", "random_per_source") else selecting.flops)
            for p in found}  # fmt: skip
    _curve(axis, found, cost, "target", bars=True)
    full = full_point(found)
    if full is not None:
        style = _looks([])[FULL]
        axis.errorbar([cost[full]], [full.mean], yerr=[full.spread], capsize=3, markersize=8, linestyle="", **style)
    for point in found:
        if point is not full:
            where = (cost[point], point.mean)
            axis.annotate(f"{_percent(point.share)} %", where, textcoords="offset points", xytext=(7, 5), fontsize=10)
    _flops_ticks(axis, list(cost.values()))
    axis.set_xlabel(f"total cost: selection + one target (FLOPs, log scale)\n{_seeds_told(found, 'bars')}")
    axis.set_ylabel(_axis_label(metric))
    axis.set_title(title, fontsize=13)
    axis.legend(frameon=False, fontsize=11)
    return figure


def _flops_ticks(axis: Any, costs: list[float]) -> None:
    """Few enough to be read: Matplotlib's own overlap where the costs span about a decade."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis.set_xscale("log")
    low, high = min(costs) * 0.85, max(costs) * 1.2
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[tuple[float, int]] = []
    for steps in ([1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 3, 5], [1, 2, 5], [1, 3], [1]):
        ticks = [(s, d) for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(ticks) <= 6:
            break
    every = -(-len(ticks) // 6)
    ticks = ticks[::every]
    axis.xaxis.set_major_locator(FixedLocator([s * 10.0**d for s, d in ticks]))
    axis.xaxis.set_major_formatter(FixedFormatter([f"${s:g}\\cdot 10^{{{d}}}$" for s, d in ticks]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(low, high)


def _source_figure(title: str, table: pa.Table, deciding: str) -> Any | None:
    """Held-out loss of each source against the budget, one small panel a source (the first twelve by name)."""
    rows = [r for r in table.to_pylist() if r["heldout_set"] == deciding and r["source"] and r["phase"] == "target"
            and r["parameters"] == "{}"]  # fmt: skip
    everything = sorted({r["source"] for r in rows})
    sources = everything[:_MOST_SOURCES]
    if len(sources) < 2:
        return None
    columns = 2 if len(sources) <= 4 else 3  # wider ones could not be read at half size
    figure, axes = _new(columns, -(-len(sources) // columns), width=3.6, height=2.9)
    selectors = sorted({r["selector"] for r in rows} - {FULL}, key=lambda name: (name != "s2l", name))
    looks = _looks(selectors)
    for axis, source in zip(axes.ravel(), sources, strict=False):
        mine = [r for r in rows if r["source"] == source]
        for selector in selectors:
            points = _by_share([r for r in mine if r["selector"] == selector])
            axis.plot([p[0] for p in points], [p[1] for p in points], markersize=5, **looks[selector])
        for _, loss in _by_share([r for r in mine if r["selector"] == FULL]):
            axis.axhline(loss, linewidth=1.2, linestyle="--", **looks[FULL] | {"marker": None})
        _percent_ticks(axis, [r["share"] for r in mine], room=0.12)
        axis.set_title(_literal(source, 32), fontsize=12)
        axis.tick_params(labelsize=11)
    for axis in axes.ravel()[len(sources) :]:
        axis.set_axis_off()
    handles = {line.get_label(): line for axis in axes.ravel() for line in axis.get_lines()}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False, fontsize=12,
        title="subset (% of the examples, log scale)", title_fontsize=12,  # an x label would lie over the legend
    )  # fmt: skip
    shown = get_metric("micro")
    figure.supylabel(f"{shown.label} ({shown.scale})", fontsize=12)
    some = "" if len(sources) == len(everything) else f" ({len(sources)} of {len(everything)})"
    figure.suptitle(f"{title}, by source{some}; mean over seeds", fontsize=13)
    return figure


def _literal(text: str, limit: int = 100) -> str:
    """Foreign text for Matplotlib: control characters as their codes, and no dollar sign begins a formula."""
    text = printable(text)
    return (text if len(text) <= limit else f"{text[: limit - 1]}…").replace("$", r"\$")


def _by_share(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(share, loss) with the mean over seeds."""
    shares = sorted({r["share"] for r in rows})
    return [(s, float(np.mean([r["loss"] for r in rows if r["share"] == s]))) for s in shares]
