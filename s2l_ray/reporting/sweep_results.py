"""A sweep's curves with intervals: pictures for its folder, and the table printed at the end of the command."""

from __future__ import annotations

import textwrap
from typing import Any

import pyarrow as pa

from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.run import Run
from s2l_ray.reporting.answers_sweep import is_by_answers
from s2l_ray.reporting.facts_worth import BudgetPoint, Budgets
from s2l_ray.reporting.intervals import Estimate, verdict
from s2l_ray.reporting.judged import budgets_by_answers
from s2l_ray.reporting.numbers import figure, metric_title, percent, signed
from s2l_ray.reporting.sweeps import budgets_of, sweep_metric
from s2l_ray.text.display import aligned, printable

_LARGE, _SMALL = (520, 300), (230, 140)
"""Size of a picture's panels (pixels)."""
_WIDTH = 80
"""Width of a narrow terminal (characters)."""


def present_sweep(run: Run, table: pa.Table, report: dict[str, Any]) -> tuple[dict[str, bytes], list[str]]:
    """Pictures by file name, and the curves as lines for a terminal; neither if only one subset was tried.

    Args:
        table: one row per trial, held-out set and source (`sweep/results.parquet`).
        report: the sweep's report (`sweep/report.json`).

    Raises:
        MissingLibraries: Altair or vl-convert is not installed.
    """
    by_answers = is_by_answers(sweep_metric(report))
    budgets = budgets_by_answers(run, report) if by_answers else budgets_of(run, table.to_pylist(), report)
    if budgets is None:
        return {}, []
    return sweep_pictures(run.config.name, budgets), curve_lines(budgets)


def sweep_pictures(name: str, budgets: Budgets) -> dict[str, bytes]:
    """The pictures `budget`, `cost` and, if there are several sources, `sources`, each as PNG and SVG."""
    from s2l_ray.reporting.write import check_libraries

    check_libraries()
    from s2l_ray.reporting.charts import sweep as charts
    from s2l_ray.reporting.frame import framed
    from s2l_ray.reporting.svg import to_files

    title = f"{name}, on “{budgets.deciding}”"
    selectors = list(dict.fromkeys(p.selector for p in budgets.points if p.selector != FULL))
    everyone = [*([FULL] if any(p.selector == FULL for p in budgets.points) else []), *selectors]
    pictures = {
        "budget": framed([charts.budget(budgets, budgets.deciding, _LARGE)], title, everyone),
        "cost": framed([charts.cost(budgets, _LARGE)], title, everyone),
    }
    sources = list(dict.fromkeys(p.source for p in budgets.sources))
    if sources:
        some = "" if len(sources) == budgets.num_sources else f" ({len(sources)} of {budgets.num_sources})"
        panels = [charts.source(budgets, source, _SMALL) for source in sources]
        pictures["sources"] = framed(panels, f"{title}, by source{some}", everyone, sources)
    return {
        f"{picture}.{ending}": content
        for picture, spec in pictures.items() for ending, content in to_files(spec).items()
    }  # fmt: skip


def curve_lines(budgets: Budgets) -> list[str]:
    """One table per phase: the deciding metric with its interval, and verdicts by paired intervals."""
    metric, lines = budgets.metric, []
    for phase in dict.fromkeys(p.phase for p in budgets.points):
        points = [p for p in budgets.points if (p.phase, p.heldout_set) == (phase, budgets.deciding)]
        seeds = min(p.num_seeds for p in points)
        over = f"over {budgets.sampled}" + (f" and {seeds} seeds" if seeds > 1 else " (one seed)")
        level = f"{budgets.level * 100:.4g} %"
        heading = f"{phase}: {metric_title(metric)} on “{budgets.deciding}”, {level} intervals {over}"
        lines += textwrap.wrap(heading, _WIDTH, subsequent_indent="  ")
        has_random = any(p.against_random for p in points)
        rows = [["trained on", "value", "of full data", *(["against random"] if has_random else [])]]
        rows += [_curve_row(p, budgets, has_random) for p in points]
        lines += ["  " + line for line in aligned(rows)]
    return [printable(line) for line in lines]


def _curve_row(p: BudgetPoint, budgets: Budgets, has_random: bool) -> list[str]:
    metric = budgets.metric
    told = p.estimate
    value = figure(told.value, metric)
    if told.low is not None and told.high is not None:
        value += f" ({figure(told.low, metric)} to {figure(told.high, metric)})"
    row = [p.selector if p.selector == FULL else f"{p.selector} {percent(p.share)}", value]
    if p.relative is None or p.selector == FULL:
        row.append("")
    else:
        relative = p.relative
        off = Estimate(relative.value - 100, *(None if b is None else b - 100 for b in (relative.low, relative.high)))
        row.append(f"{relative.value:.1f}\u00a0%, {verdict(off, metric.more_is_better)}")
    if has_random:
        against = p.against_random
        row.append(
            "" if against is None else f"{signed(against.value, metric)}, {verdict(against, metric.more_is_better)}"
        )
    return row
