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
from s2l_ray.data.facet_reader import load_facet
from s2l_ray.data.trajectories import Trajectories, snapshot_columns
from s2l_ray.errors import UserError, shown
from s2l_ray.reporting.summary import target_lines
from s2l_ray.text.display import printable

_BARS = "▁▂▃▄▅▆▇█"


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


def sparkline(values: np.ndarray, top: float) -> str:
    """A trajectory as a row of bars; `top` is the loss at full height."""
    levels = np.clip(np.floor(values / max(top, 1e-9) * len(_BARS)), 0, len(_BARS) - 1).astype(int)
    return "".join(_BARS[i] for i in levels)


def _values(run: Run, matrix: Trajectories, by: str) -> tuple[list[str], np.ndarray]:
    """(values of a facet, (N,) codes into them).

    Raises:
        UserError: there is no such facet.
    """
    corpus = run.stage("corpus")
    facets = list(corpus.manifest.extra.get("facets", {}))
    if by in facets:
        return load_facet(corpus.storage.sub("examples"), matrix.part_rows, matrix.ids, by)
    if by == run.config.corpus.source_column:
        return matrix.source_names, matrix.sources
    known = [*facets, run.config.corpus.source_column] if run.config.corpus.source_column else facets
    raise UserError(
        f"{shown(by)} is no facet of this corpus, so nothing can be shown by it; there are: {shown(known)} (name "
        "others in corpus.facets, and run again)"
    )


def _by_value(run: Run, console: Console, by: str) -> None:
    """A line for every value: how many examples, their mean losses, how many of them each subset holds."""
    matrix = run.trajectories()
    names, codes = _values(run, matrix, by)
    sizes = np.bincount(codes, minlength=len(names))
    sums = [np.bincount(codes, weights=matrix.losses[:, t], minlength=len(names)) for t in (0, -1)]
    out = Table(title=f"by {printable(by)}; mean losses in nats per token")
    for heading in (by, "examples", "share", "first → last", *run.subsets):
        out.add_column(_shown(heading), justify="left" if heading == by else "right")
    keys = _sortable(matrix.ids)
    order = np.argsort(keys, kind="stable")
    chosen = []
    for stage in run.subsets.values():
        ids = ids_to_array(stage.storage.read_table("ids.parquet", ["example_id"])["example_id"])
        at = order[np.searchsorted(keys, _sortable(ids), sorter=order)]
        chosen.append(np.bincount(codes[at], minlength=len(names)))
    for k in np.argsort(-sizes, kind="stable"):
        first, last = (total[k] / max(1, sizes[k]) for total in sums)
        cells = [names[k] or "(none)", f"{sizes[k]:,}", f"{sizes[k] / sizes.sum():.1%}", f"{first:.2f} → {last:.2f}"]
        cells += [f"{counts[k]:,} ({counts[k] / max(1, counts.sum()):.1%})" for counts in chosen]
        out.add_row(*map(_shown, cells))
    console.print(out)


def _sortable(ids: np.ndarray) -> np.ndarray:
    """(N, 2) uint64 → (N,), in the order of the ids."""
    return np.ascontiguousarray(ids.astype(">u8")).view("S16").ravel()


def _clusters(run: Run, console: Console, limit: int | None, examples: int, source: str, by: str) -> None:
    matrix = run.trajectories()
    value_names, values = _values(run, matrix, by) if by else (matrix.source_names, matrix.sources)
    commonest = f"commonest {printable(by)}" if by else "commonest sources"
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
    for heading in (f"loss over {snapshots} snapshots", "first → last", commonest):
        out.add_column(_shown(heading), no_wrap=heading != commonest)
    if examples:
        out.add_column("nearest to the centre", overflow="fold", ratio=1)
    for k in order:
        members = np.flatnonzero((assignment == k) & allowed)
        names = Counter(value_names[code] for code in values[members])
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
