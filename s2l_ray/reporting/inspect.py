"""`s2l inspect RUN`: clusters, sizes, losses, sample examples, what was quarantined and why. Read-only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.reporting.inspect_facts import (
    ClusteringFacts,
    ValueFacts,
    quarantine_facts,
    value_facts,
    wanted_clusters,
)
from s2l_ray.reporting.summary import target_lines
from s2l_ray.text.display import aligned, printable

_BARS = "▁▂▃▄▅▆▇█"
_LEAST = 1e-3
"""Smaller losses are drawn as this one (nats per token)."""
_NAME = 32
"""Most columns of a stage's name."""
_BESIDE_SUBSETS, _SUBSET, _NARROWEST = 48, 17, 16
"""Widths in a terminal: of the columns besides the subsets', of a subset's column, and the minimum for text."""
_MAX_REASONS = 20


def inspect_run(
    run: Run,
    console: Console,
    clusters: int | None = None,
    examples: int = 1,
    source: str = "",
    by: str = "",
    cluster: int | None = None,
) -> None:
    """Print the run's contents, as far as it has progressed.

    Args:
        clusters: show only this many, half of them the smallest and half the largest; None: all.
        examples: sample examples per cluster, those nearest to the centroid.
        source: show only examples of this source.
        cluster: show only this one.
        by: show losses and subsets by the values of this facet, or of the source column.
    """
    # Before anything is printed: names that are not known are refused here.
    facts = wanted_clusters(run, clusters, examples, source, by, cluster)
    values = value_facts(run, by) if by else []
    console.print(Text.assemble((printable(run.uri), "bold"), f"  seed {run.config.seed}"), highlight=False)
    width = min(_NAME, max((len(name) for name in [*run.stages, *(o.name for o in run.others)]), default=0))
    for name, stage in run.stages.items():
        _stage_line(console, name, stage, width)
    if run.others:
        console.print("  of the same names, from the same clusters (another seed, another model, …):", highlight=False)
        for other in run.others:
            _stage_line(console, other.name, other, width)
    if facts is not None:
        _clusters(console, facts, by)
    if by:
        _by_value(run, console, by, values)
    if run.targets:
        console.print(Text("\n".join(target_lines(run))), highlight=False)
    _quarantine(run, console)


def _stage_line(console: Console, name: str, stage: Stage, width: int) -> None:
    _hanging(console, f"  {printable(name):<{width}} ", f"{stage.summary}  ({stage.manifest.wall_seconds:.1f} s)")


def sparkline(values: Sequence[float], bottom: float, top: float) -> str:
    """A trajectory as a row of bars on a log scale, from the loss `bottom` to the loss `top` at full height."""
    low = max(bottom, _LEAST)
    span = max(math.log(max(top, low) / low), 1e-9)
    heights = np.log(np.maximum(np.asarray(values, float), low) / low) / span
    levels = np.clip(np.floor(heights * len(_BARS)), 0, len(_BARS) - 1).astype(int)
    return "".join(_BARS[i] for i in levels)


def _by_value(run: Run, console: Console, by: str, values: Sequence[ValueFacts]) -> None:
    """A table with one line per value: number of examples, mean losses, and how many each subset contains."""
    room = max(1, (console.width - _BESIDE_SUBSETS) // _SUBSET)
    shown = list(run.subsets)[:room]
    more = len(run.subsets) - len(shown)
    told = "; the other subsets need a wider terminal, or --json" if more else ""
    console.print(_shown(f"by {by}; mean losses in nats per token{told}"))
    out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in (by, "examples", "share", "first → last", *shown):
        is_name = heading == by
        out.add_column(_shown(heading), justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    for value in values:
        cells = [value.value or "(none)", f"{value.size:,}", f"{value.share:.1%}"]
        cells += [f"{value.first:.2f} → {value.last:.2f}"]
        cells += [f"{count:,} ({share:.1%})" for count, share in list(value.chosen.values())[: len(shown)]]
        out.add_row(*map(_shown, cells))
    console.print(out)


def _clusters(console: Console, facts: ClusteringFacts, by: str) -> None:
    """A line per cluster, followed by the examples nearest to its centroid and whether they were chosen."""
    used, recorded = len(facts.clusters[0].losses), facts.num_snapshots
    snapshots = f"{recorded}" if used == recorded else f"{used} of {recorded}"
    of = "" if facts.subset is None else f"; taken: by {facts.subset}"
    console.print(_shown(f"{facts.num_clusters} clusters, smallest first; mean loss over {snapshots} snapshots "
                         f"(nats per token, bars on a log scale){of}"))  # fmt: skip
    rows = [["cluster", "size", "share", *(["taken"] if facts.subset else []), "loss", "first → last"]]
    for one in facts.clusters:
        taken = [] if one.taken is None else [f"{one.taken / max(1, one.size):.0%}"]
        rows.append([str(one.cluster), f"{one.size:,}", f"{one.share:.1%}", *taken,
                     sparkline(one.losses, facts.bottom, facts.top),
                     f"{one.losses[0]:.2f} → {one.losses[-1]:.2f}"])  # fmt: skip
    lines = aligned(rows)
    _hanging(console, f"{lines[0]}  ", f"most common {by}" if by else "most common sources")
    for line, one in zip(lines[1:], facts.clusters, strict=True):
        common = ", ".join(f"{name or '(none)'} {share:.0%}" for name, share in one.commonest)
        _hanging(console, f"{line}  ", common)
        for i, text in enumerate(one.examples):
            choice = "" if not one.chosen else "chosen    " if one.chosen[i] else "left out  "
            _hanging(console, f"    {choice}", text)


def _hanging(console: Console, start: str, text: str) -> None:
    """Print foreign text after the start of a line, with its further lines aligned below its first."""
    indent = cell_len(start)
    width = max(_NARROWEST, console.width - indent)
    for i, line in enumerate(_shown(text).wrap(console, width) or [Text("")]):
        console.print(Text.assemble(start if i == 0 else " " * indent, line), no_wrap=True, highlight=False)


def _shown(text: str) -> Text:
    """Foreign text verbatim, on one line: rich interprets neither markup nor emoji codes in it."""
    return Text(printable(text))


def _quarantine(run: Run, console: Console) -> None:
    facts = quarantine_facts(run)
    if not facts:
        console.print("Nothing was quarantined.")
        return
    console.print(f"{sum(fact.rows for fact in facts):,} rows quarantined:", highlight=False)
    for fact in facts[:_MAX_REASONS]:
        _hanging(console, f"  {fact.rows:>7,}  ", fact.reason)
        _hanging(console, " " * 11 + "for example ", f"{fact.origin} at {fact.index}: {fact.text[:160]}")
