"""Pictures of a sweep, PNG and SVG: held-out figure against budget, the same by source, and against total cost."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.run_folder import Storage
from s2l_ray.sweep.results import Cost, Point, full_point
from s2l_ray.sweep.trials import FULL

_COLOURS = {"s2l": "#0b6e99", "random": "#d9822b", "random_per_source": "#7d5ba6", FULL: "#444444"}
_NAMES = {"macro": "held-out loss, mean over sources (nats/token)", "micro": "held-out loss (nats/token)",
          "per_token": "held-out loss per token (nats)", "exact_match": "exact match (share)"}  # fmt: skip


def draw_all(
    out: Storage,
    title: str,
    metric: str,
    curves: dict[str, list[Point]],
    selecting: Cost,
    table: pa.Table,
    deciding: str,
) -> list[str]:
    """curves: phase → points. Returns the names of the files."""
    import matplotlib

    matplotlib.use("Agg")  # no display on a cluster
    figures = {"budget": _budget_figure(title, metric, curves), "cost": _cost_figure(title, metric, curves, selecting)}
    by_source = _source_figure(title, table, deciding)
    if by_source is not None:
        figures["sources"] = by_source
    names = []
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=160)
            out.write_bytes(f"{name}.{kind}", buffer.getvalue())
            names.append(f"{name}.{kind}")
    import matplotlib.pyplot as plt

    plt.close("all")
    return names


def _new(columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                         "grid.alpha": 0.25, "svg.hashsalt": "s2l"})  # fmt: skip
    size = (7.2, 4.8) if columns == rows == 1 else (3.4 * columns, 2.9 * rows)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)


def _style(selector: str) -> dict[str, Any]:
    return {"color": _COLOURS.get(selector, "#2a7f3f"), "label": selector.replace("_", " ")}


def _curve(axis: Any, found: list[Point], x: dict[Point, float], phase: str) -> None:
    for selector in dict.fromkeys(p.selector for p in found if p.selector != FULL):
        mine = [p for p in found if p.selector == selector]
        style = _style(selector)
        if phase == "predicted":
            style |= {"linestyle": ":", "marker": "x", "label": style["label"] + " (predicted)"}
        else:
            style |= {"marker": "o"}
        where, mean = [x[p] for p in mine], np.array([p.mean for p in mine])
        spread = np.array([p.spread for p in mine])
        axis.plot(where, mean, linewidth=2, **style)
        axis.fill_between(where, mean - spread, mean + spread, color=style["color"], alpha=0.15, linewidth=0)


def _percent_ticks(axis: Any, shares: list[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter

    axis.set_xscale("log")
    ticks = sorted(set(shares))
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.set_xticklabels([f"{t:.3g}".rstrip(".") for t in np.array(ticks) * 100])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(min(ticks) * 0.85, max(ticks) * 1.15)


def _relative_axis(axis: Any, full: float) -> None:
    """On the right: the same, full data = 100 %."""
    right = axis.secondary_yaxis("right", functions=(lambda y: y / full * 100, lambda share: share * full / 100))
    right.set_ylabel("full data = 100 %")
    right.spines["right"].set_visible(False)


def _budget_figure(title: str, metric: str, curves: dict[str, list[Point]]) -> Any:
    """One panel a phase: a small model's losses and the target's are on different scales."""
    figure, axes = _new(columns=len(curves)) if len(curves) > 1 else _new()
    for axis, (phase, found) in zip(axes[0], curves.items(), strict=True):
        _curve(axis, found, {p: p.share for p in found}, phase)
        full = full_point(found)
        if full is not None:
            axis.axhline(full.mean, linewidth=1.5, linestyle="--", **_style(FULL))
            axis.axhspan(full.mean - full.spread, full.mean + full.spread, color=_COLOURS[FULL], alpha=0.1, linewidth=0)
        _percent_ticks(axis, [p.share for p in found if p.selector != FULL] + [1.0])
        axis.set_xlabel("subset (% of the examples, log scale)")
        if full is not None and full.mean:
            _relative_axis(axis, full.mean)
        axis.set_ylabel(_NAMES[metric] if len(curves) == 1 else f"{metric}")
        axis.set_title(title if len(curves) == 1 else f"{title}: {phase}", fontsize=12)
        axis.legend(frameon=False, fontsize=11)
    if len(curves) > 1:
        figure.set_size_inches(6.4 * len(curves), 4.8)
        figure.supylabel(_NAMES[metric], fontsize=12)
        for axis in axes[0]:
            axis.set_ylabel("")
    return figure


def _cost_figure(title: str, metric: str, curves: dict[str, list[Point]], selecting: Cost) -> Any:
    """Selection's FLOPs count for s2l, which needs it; random ones cost the target's training alone."""
    figure, axes = _new()
    axis = axes[0][0]
    found = curves.get("target") or next(iter(curves.values()))
    cost = {p: p.flops + (0.0 if p.selector in (FULL, "random", "random_per_source") else selecting.flops)
            for p in found}  # fmt: skip
    _curve(axis, found, cost, "target")
    full = full_point(found)
    if full is not None:
        axis.errorbar(
            [cost[full]], [full.mean], yerr=[full.spread], marker="D", markersize=8, linestyle="", **_style(FULL)
        )
    axis.set_xscale("log")
    axis.set_xlabel("total cost: selection + one target (FLOPs, log scale)")
    axis.set_ylabel(_NAMES[metric])
    axis.set_title(title, fontsize=12)
    axis.legend(frameon=False, fontsize=11)
    return figure


def _source_figure(title: str, table: pa.Table, deciding: str) -> Any | None:
    """Held-out loss of each source against the budget, one small panel a source (at most twelve, commonest names)."""
    rows = [r for r in table.to_pylist() if r["heldout_set"] == deciding and r["source"] and r["phase"] == "target"
            and r["parameters"] == "{}"]  # fmt: skip
    sources = sorted({r["source"] for r in rows})[:12]
    if len(sources) < 2:
        return None
    columns = min(4, len(sources))
    figure, axes = _new(columns=columns, rows=-(-len(sources) // columns))
    for axis, source in zip(axes.ravel(), sources, strict=False):
        mine = [r for r in rows if r["source"] == source]
        for selector in dict.fromkeys(r["selector"] for r in mine):
            points = _by_share([r for r in mine if r["selector"] == selector])
            if selector == FULL:
                axis.axhline(points[0][1], linewidth=1.2, linestyle="--", **_style(FULL))
            else:
                axis.plot([p[0] for p in points], [p[1] for p in points], marker="o", markersize=4, **_style(selector))
        _percent_ticks(axis, sorted({r["share"] for r in mine}))
        axis.set_title(source, fontsize=11)
        axis.tick_params(labelsize=9)
    for axis in axes.ravel()[len(sources) :]:
        axis.set_axis_off()
    axes[0][0].legend(frameon=False, fontsize=9)
    figure.supxlabel("subset (% of the examples, log scale)", fontsize=11)
    figure.supylabel("held-out loss (nats/token)", fontsize=11)
    figure.suptitle(f"{title}, by source", fontsize=12)
    return figure


def _by_share(rows: list[dict[str, Any]]) -> list[tuple[float, float]]:
    shares = sorted({r["share"] for r in rows})
    return [(s, float(np.mean([r["loss"] for r in rows if r["share"] == s]))) for s in shares]
