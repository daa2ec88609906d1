"""`s2l inspect RUN`: clusters, sizes, losses, sample examples, what was quarantined and why. Reads, changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.reporting.inspect_facts import clustering_facts, quarantine_facts, quarantine_rows, value_facts
from s2l_ray.reporting.summary import target_lines
from s2l_ray.text.display import printable

__all__ = ["inspect_run", "quarantine_rows", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_MAX_REASONS = 20


def inspect_run(
    run: Run, console: Console, clusters: int | None = None, examples: int = 1, source: str = "", by: str = ""
) -> None:
    """Print what the run holds, as far as it has come.

    Args:
        clusters: show only so many, half of them the smallest and half the largest; None: all.
        examples: sample examples per cluster, those nearest to the centroid.
        source: show only examples of this source.
        by: show losses and subsets by the values of this facet, or of the source column.
    """
    console.print(Text.assemble((printable(run.uri), "bold"), f"  seed {run.config.seed}"), highlight=False)
    for name, stage in run.stages.items():
        console.print(_stage_line(name, stage), highlight=False)
    if run.others:
        console.print("  of the same names, from the same clusters (another seed, another model, …):", highlight=False)
        for other in run.others:
            console.print(_stage_line(other.name, other), highlight=False)
    if "clusters" in run.stages:
        _clusters(run, console, clusters, examples, source, by)
    if by:
        _by_value(run, console, by)
    if run.targets:
        console.print(Text("\n".join(target_lines(run))), highlight=False)
    _quarantine(run, console)


def _stage_line(name: str, stage: Stage) -> Text:
    manifest = stage.manifest
    return _shown(f"  {name:<22} {manifest.summary}  ({manifest.wall_seconds:.1f} s)")


def sparkline(values: Sequence[float], top: float) -> str:
    """A trajectory as a row of bars; `top` is the loss at full height."""
    levels = np.clip(np.floor(np.asarray(values) / max(top, 1e-9) * len(_BARS)), 0, len(_BARS) - 1).astype(int)
    return "".join(_BARS[i] for i in levels)


def _by_value(run: Run, console: Console, by: str) -> None:
    """A line for every value: how many examples, their mean losses, how many of them each subset holds."""
    out = Table(title=f"by {printable(by)}; mean losses in nats per token")
    for heading in (by, "examples", "share", "first → last", *run.subsets):
        out.add_column(_shown(heading), justify="left" if heading == by else "right")
    for value in value_facts(run, by):
        cells = [value.value or "(none)", f"{value.size:,}", f"{value.share:.1%}"]
        cells += [f"{value.first:.2f} → {value.last:.2f}"]
        cells += [f"{count:,} ({share:.1%})" for count, share in value.chosen.values()]
        out.add_row(*map(_shown, cells))
    console.print(out)


def _clusters(run: Run, console: Console, limit: int | None, examples: int, source: str, by: str) -> None:
    facts = clustering_facts(run, limit, examples, source, by)
    commonest = f"commonest {printable(by)}" if by else "commonest sources"
    out = Table(
        title=f"{facts.num_clusters} clusters, smallest first; mean losses in nats per token", show_lines=examples > 0
    )
    for heading in ("cluster", "size", "share"):
        out.add_column(heading, justify="right")
    used, recorded = len(facts.clusters[0].losses), facts.num_snapshots
    snapshots = f"{recorded}" if used == recorded else f"{used} of {recorded}"
    for heading in (f"loss over {snapshots} snapshots", "first → last", commonest):
        out.add_column(_shown(heading), no_wrap=heading != commonest)
    if examples:
        out.add_column("nearest to the centre", overflow="fold", ratio=1)
    for one in facts.clusters:
        common = ", ".join(f"{name or '(none)'} {share:.0%}" for name, share in one.commonest)
        row = [_shown(cell) for cell in (
            str(one.cluster), f"{one.size:,}", f"{one.share:.1%}", sparkline(one.losses, facts.top),
            f"{one.losses[0]:.2f} → {one.losses[-1]:.2f}", common,
        )]  # fmt: skip
        if examples:
            row.append(Text("\n").join(map(_shown, one.examples)))
        out.add_row(*row)
    console.print(out)


def _shown(text: str) -> Text:
    """Foreign text as it stands, in one line: rich reads neither markup nor emoji codes in it."""
    return Text(printable(text))


def _quarantine(run: Run, console: Console) -> None:
    facts = quarantine_facts(run)
    if not facts:
        console.print("Nothing was quarantined.")
        return
    out = Table(title=f"{sum(fact.rows for fact in facts):,} rows quarantined", show_lines=True)
    out.add_column("rows", justify="right")
    for heading in ("reason", "for example", "what stood there"):
        out.add_column(heading, overflow="fold")
    for fact in facts[:_MAX_REASONS]:
        cells = (f"{fact.rows:,}", fact.reason, f"{fact.origin} at {fact.index}", fact.text[:160])
        out.add_row(*map(_shown, cells))
    console.print(out)
