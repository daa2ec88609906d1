"""`s2l inspect RUN`: clusters, sizes, losses, sample examples, what was quarantined and why. Reads, changes nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.data.trajectories import snapshot_columns
from s2l_ray.errors import UserError, shown
from s2l_ray.reporting.summary import target_lines
from s2l_ray.text.display import printable

_BARS = "▁▂▃▄▅▆▇█"


def inspect_run(run: Run, console: Console, clusters: int | None = None, examples: int = 1, source: str = "") -> None:
    """Print what the run holds, as far as it has come.

    Args:
        clusters: show only so many, half of them the smallest and half the largest; None: all.
        examples: sample examples per cluster, those nearest to the centroid.
        source: show only examples of this source.
    """
    console.print(Text.assemble((printable(run.uri), "bold"), f"  seed {run.config.seed}"), highlight=False)
    for name, stage in run.stages.items():
        console.print(_stage_line(name, stage), highlight=False)
    if run.others:
        console.print("  of the same names, from the same clusters (another seed, another model, …):", highlight=False)
        for other in run.others:
            console.print(_stage_line(other.name, other), highlight=False)
    if "clusters" in run.stages:
        _clusters(run, console, clusters, examples, source)
    if run.targets:
        console.print(Text("\n".join(target_lines(run))), highlight=False)
    _quarantine(run, console)


def _stage_line(name: str, stage: Stage) -> Text:
    manifest = stage.manifest
    return _shown(f"  {name:<22} {manifest.summary}  ({manifest.wall_seconds:.1f} s)")


def sparkline(values: np.ndarray, top: float) -> str:
    """A trajectory as a row of bars; `top` is the loss at full height."""
    levels = np.clip(np.floor(values / max(top, 1e-9) * len(_BARS)), 0, len(_BARS) - 1).astype(int)
    return "".join(_BARS[i] for i in levels)


def _clusters(run: Run, console: Console, limit: int | None, examples: int, source: str) -> None:
    matrix = run.trajectories()
    stage = run.stage("clusters")
    table = stage.storage.read_table("centroids.parquet")
    asked, recorded = stage.manifest.settings, matrix.losses.shape[1]
    columns = snapshot_columns(recorded, asked["num_snapshots"], asked["snapshots"])
    centroids = table["centroid_loss_nats"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)  # (K, T)
    assignment = stage.storage.read_table("assignment.parquet")["cluster"].to_numpy()
    sizes = np.bincount(assignment, minlength=len(centroids))
    allowed = np.ones(len(assignment), bool)
    if source:
        if source not in matrix.source_names:
            raise UserError(f"no source {shown(source)} in this corpus; its sources: {shown(matrix.source_names)}")
        allowed = matrix.sources == matrix.source_names.index(source)
    order = np.argsort(sizes, kind="stable")
    if limit is not None and limit < len(order):
        order = np.concatenate([order[: (limit + 1) // 2], order[len(order) - limit // 2 :]])
    out = Table(title=f"{len(sizes)} clusters, smallest first; mean losses in nats per token", show_lines=examples > 0)
    for heading in ("cluster", "size", "share"):
        out.add_column(heading, justify="right")
    snapshots = f"{recorded}" if len(columns) == recorded else f"{len(columns)} of {recorded}"
    for heading in (f"loss over {snapshots} snapshots", "first → last", "commonest sources"):
        out.add_column(heading, no_wrap=heading != "commonest sources")
    if examples:
        out.add_column("nearest to the centre", overflow="fold", ratio=1)
    for k in order:
        members = np.flatnonzero((assignment == k) & allowed)
        names = Counter(matrix.source_names[s] for s in matrix.sources[members])
        common = ", ".join(f"{n or '(none)'} {c / max(1, len(members)):.0%}" for n, c in names.most_common(2))
        row = [_shown(cell) for cell in (
            str(k), f"{sizes[k]:,}", f"{sizes[k] / sizes.sum():.1%}", sparkline(centroids[k], float(centroids.max())),
            f"{centroids[k][0]:.2f} → {centroids[k][-1]:.2f}", common,
        )]  # fmt: skip
        if examples:
            distances = ((matrix.losses[np.ix_(members, columns)] - centroids[k]) ** 2).sum(axis=1)
            nearest = members[np.argsort(distances, kind="stable")[:examples]]
            row.append(Text("\n").join(_shown(_text(run, matrix, int(i))) for i in nearest))
        out.add_row(*row)
    console.print(out)


def _text(run: Run, matrix: Any, row: int) -> str:
    """An example in one line."""
    starts = np.cumsum([0] + [n for _, n in matrix.part_rows])
    part, _ = matrix.part_rows[int(np.searchsorted(starts, row, side="right")) - 1]
    table = run.stage("corpus").storage.sub("examples").read_table(part_name(part), columns=["example_id", "messages"])
    at = np.flatnonzero((ids_to_array(table["example_id"]) == matrix.ids[row]).all(axis=1))[0]
    messages = table["messages"][int(at)].as_py()
    return " ".join(f"{m['role'][:1].upper()}: {m['content'].strip()[:90]}" for m in messages[:4])


def _shown(text: str) -> Text:
    """Foreign text as it stands, in one line: rich reads neither markup nor emoji codes in it."""
    return Text(printable(text))


def quarantine_rows(stage: Stage) -> list[dict[str, Any]]:
    """All quarantined rows of a stage: origin, index, reason, text."""
    folder = stage.storage.sub("quarantine")
    return [row for entry in folder.list() for row in folder.read_table(entry.name).to_pylist()]


def _quarantine(run: Run, console: Console) -> None:
    rows = [r for name in ("corpus", "tokens") if name in run.stages for r in quarantine_rows(run.stages[name])]
    if not rows:
        console.print("Nothing was quarantined.")
        return
    reasons = Counter(r["reason"] for r in rows)
    out = Table(title=f"{len(rows):,} rows quarantined", show_lines=True)
    out.add_column("rows", justify="right")
    for heading in ("reason", "for example", "what stood there"):
        out.add_column(heading, overflow="fold")
    for reason, count in reasons.most_common(20):
        first = next(r for r in rows if r["reason"] == reason)
        cells = (f"{count:,}", reason, f"{first['origin']} at {first['index']}", first["text"][:160])
        out.add_row(*map(_shown, cells))
    console.print(out)
