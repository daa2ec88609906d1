"""Seconds that each selector of a run took, from its manifests: training a reference model, scoring, selecting."""

from __future__ import annotations

from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.selection_work import SCORING_TARGET, reads_of
from s2l_ray.artifacts.stage import Stage
from s2l_ray.errors import UserError
from s2l_ray.reporting.facts_worth import WallClock
from s2l_ray.text.display import printable


def wall_clocks(run: Run) -> list[WallClock]:
    """The times of each selector, for its slowest subset, since examples are ordered once for all budgets."""
    found: dict[str, WallClock] = {}
    summary = run.stages["proxy"].manifest.extra["summary"]
    if not {"train_seconds", "score_seconds"} <= summary.keys():  # written by an earlier version
        return []
    for label, stage in run.subsets.items():
        selector = str(stage.manifest.extra.get("selector", ""))
        try:
            one = _of(run, label, selector, stage)
        except UserError:  # registered in another process, or with options of another configuration
            continue
        if selector not in found or found[selector].selection_s < one.selection_s:
            found[selector] = one
    return list(found.values())


def _of(run: Run, label: str, selector: str, subset: Stage) -> WallClock:
    reads = reads_of(run, run.config.selection, selector, subset)
    summary = run.stages["proxy"].manifest.extra["summary"]
    training = float(summary["train_seconds"]) if reads.proxy else 0.0
    if reads.target and SCORING_TARGET in run.stages:
        training += run.stages[SCORING_TARGET].manifest.wall_seconds
    scoring = float(summary["score_seconds"]) if reads.trajectories else 0.0
    scoring += sum(stage.manifest.wall_seconds for stage in reads.passes)
    selection = subset.manifest.wall_seconds
    if "clusters" in subset.manifest.inputs:
        selection += run.stages["clusters"].manifest.wall_seconds
    return WallClock(printable(label), training, scoring, selection, reads.target)
