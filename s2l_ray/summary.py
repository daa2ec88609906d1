"""The lines at the end of a run: what was done and where the result is, for a stranger."""

from __future__ import annotations

from s2l_ray.artifacts import Run, Stage
from s2l_ray.run_folder.progress import format_count, format_duration


def summary_lines(run: Run) -> list[str]:
    """About ten lines."""
    corpus, tokens, proxy = run.stage("corpus"), run.stage("tokens"), run.stage("proxy")
    counts, summary = corpus.manifest.row_counts, proxy.manifest.extra["summary"]
    snapshots = proxy.manifest.extra["snapshots"]
    seconds = sum(s.manifest.wall_seconds for s in run.stages.values() if not s.reused)
    clusters = run.stage("clusters").manifest.row_counts["clusters"]
    bad = counts["quarantined"] + tokens.manifest.row_counts["quarantined"]
    lines = [
        "",
        f"Done in {format_duration(seconds)}: {run.config.name}",
        f"  Read      {counts['examples']:,} examples ({counts['duplicates']:,} exact duplicates found, "
        f"{bad:,} unusable rows set aside).",
        f"  Trained   a small proxy model ({format_count(summary['num_parameters'])} parameters) on all of them "
        f"and noted every example's loss {len(snapshots)} times.",
        f"  Grouped   examples whose loss falls alike into {clusters} clusters, and drew evenly from them (s2l):",
    ]
    by_selector: dict[str, list[Stage]] = {}
    for stage in run.subsets.values():
        by_selector.setdefault(stage.manifest.extra["selector"], []).append(stage)
    for selector, stages in by_selector.items():
        sizes = ", ".join(f"{s.manifest.row_counts['examples']:,}" for s in stages)
        where = f"{run.uri}/subset/{selector}-*/" if len(stages) > 1 else f"{stages[0].storage.uri}/"
        lines.append(f"    {selector:<18} {sizes} examples: {where}{stages[0].manifest.extra['files'][0]}")
    lines += [
        "  Train on an s2l file instead of the whole corpus (a Parquet copy is beside it); random* are yardsticks.",
        f"  Look at it:    s2l inspect {run.uri}",
        f"  Another size:  s2l select {run.uri} --budget 0.3",
    ]
    return lines
