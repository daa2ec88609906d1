"""Seconds that each selector of a run took, by its manifests: training a reference model, scoring, selecting."""

from __future__ import annotations

from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.errors import UserError
from s2l_ray.reporting.facts_worth import WallClock
from s2l_ray.selection.signals import PASSES
from s2l_ray.text.display import printable


def wall_clocks(run: Run) -> list[WallClock]:
    """One a selector, of its subset that took longest: a choice is ordered once, for all budgets."""
    found: dict[str, WallClock] = {}
    summary = run.stages["proxy"].manifest.extra["summary"]
    if not {"train_seconds", "score_seconds"} <= summary.keys():  # of an earlier version
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
    reads, proxy = set(subset.manifest.inputs), run.stages["proxy"].manifest
    passes = [run.stages[name] for name in sorted(reads) if name.startswith("signals/") and name in run.stages]
    of_target = any("target-" in stage.name for stage in passes)
    needs = run.config.selection.needs_of(selector)
    # What takes a pass of its own, or is the target's, needs no scores of the proxy's.
    scored = {need for need in needs if "@" in need and need.partition("@")[0] not in PASSES}
    if of_target:
        scored = {need for need in scored if need.endswith("@all")}
    by_trajectories = bool(scored) or bool({"clusters", "losses"} & needs)
    by_proxy = by_trajectories or any("target-" not in stage.name for stage in passes)
    summary = proxy.extra["summary"]
    training = float(summary["train_seconds"]) if by_proxy else 0.0
    if of_target and "target/full" in run.stages:
        training += run.stages["target/full"].manifest.wall_seconds
    scoring = float(summary["score_seconds"]) if by_trajectories else 0.0
    scoring += sum(stage.manifest.wall_seconds for stage in passes)
    selection = subset.manifest.wall_seconds
    if "clusters" in reads:
        selection += run.stages["clusters"].manifest.wall_seconds
    return WallClock(printable(label), training, scoring, selection, of_target)
