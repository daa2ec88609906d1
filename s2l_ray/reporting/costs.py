"""What selecting and training cost, in floating-point operations; and from how many targets on selecting pays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.run import Run
from s2l_ray.reporting.facts_worth import Cost, CostPart, Worth
from s2l_ray.reporting.main_subset import main_subset
from s2l_ray.reporting.wall_clock import wall_clocks
from s2l_ray.selection.registry import UnknownSelector, needs_of
from s2l_ray.selection.signals import FACET, SOURCES

_SIZES = (1e6, 1e11)


def is_free(selector: str) -> bool:
    """Whether it needs no reference model. A selector that is not known here may well need one."""
    if selector == FULL:
        return True
    try:
        return all(need == SOURCES or need.startswith(FACET) for need in needs_of(selector))
    except UnknownSelector:
        return False


def num_scored(snapshots: Sequence[Mapping[str, Any]]) -> int:
    """How many of a proxy's points took a pass over the corpus; its training computed the others anyway."""
    return sum(snapshot.get("epoch") is None for snapshot in snapshots)


def cost_of(run: Run, worth: Worth | None) -> Cost | None:
    """None where no reference model was trained."""
    proxy = run.stages.get("proxy")
    if proxy is None:
        return None
    flops = proxy.manifest.extra["flops"]
    selecting = [("reference model: training", flops["training"]), ("reference model: scoring", flops["scoring"])]
    models = worth.models if worth else []
    parts = []
    for model in models:
        if not is_free(model.selector):
            parts += [CostPart(model.label, name, value) for name, value in selecting]
        parts.append(CostPart(model.label, "target", model.flops))
    if not models:
        parts = [CostPart(_who_selects(run), name, value) for name, value in selecting]
    full = next((m.flops for m in models if m.selector == FULL), None)
    measured = full is not None
    if full is None:
        full = _full_at_equal_epochs(run, worth)
    total = sum(value for _, value in selecting)
    pays: dict[str, float | None] = {}
    if full is not None:
        for model in models:
            if not is_free(model.selector):
                pays[model.label] = total / (full - model.flops) if full > model.flops else None
    size = proxy.manifest.extra["summary"]["num_parameters"]
    return Cost(
        parts,
        total,
        total / full if full else None,
        full,
        measured,
        pays,
        _reference_curve(run),
        size,
        wall_clocks(run),
    )


def _who_selects(run: Run) -> str:
    """The selector that the reference model was trained for."""
    main = main_subset(run)
    selector = "" if main is None else str(run.subsets[main].manifest.extra["selector"])
    return selector if selector and not is_free(selector) else "selecting"


def _full_at_equal_epochs(run: Run, worth: Worth | None) -> float | None:
    """A target on everything, trained for as many epochs; None where the steps are given instead."""
    target = run.config.target
    counted = [m for m in (worth.models if worth else []) if m.share > 0]
    if target is None or target.length != "epochs" or target.max_steps or target.max_tokens or not counted:
        return None
    return counted[0].flops / counted[0].share


def _reference_curve(run: Run) -> list[tuple[float, float]]:
    """Models of other sizes: 6 FLOPs a parameter and token in training, 2 in scoring (`lm.flops` without attention)."""
    tokens, proxy = run.stages.get("tokens"), run.stages["proxy"]
    if tokens is None:
        return []
    once = tokens.manifest.extra["num_tokens"]
    trained, scored = proxy.manifest.extra["summary"]["train_tokens"], num_scored(proxy.manifest.extra["snapshots"])
    own, (low, high) = float(proxy.manifest.extra["summary"]["num_parameters"]), _SIZES
    sizes = sorted({*np.geomspace(low, high, 6), own})  # the run's own, which may be smaller than all of them
    return [(float(p), float(p * (6 * trained + 2 * once * scored))) for p in sizes]
