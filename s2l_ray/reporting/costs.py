"""What selecting and training cost, in floating-point operations; and from how many targets on selecting pays."""

from __future__ import annotations

import math

import numpy as np

from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.run import Run
from s2l_ray.reporting.facts_worth import Cost, CostPart, Worth

FREE_SELECTORS = ("random", "random_per_source", FULL)
"""Need no reference model."""
_SIZES = (1e6, 1e11)


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
        if model.selector not in FREE_SELECTORS:
            parts += [CostPart(model.label, name, value) for name, value in selecting]
        parts.append(CostPart(model.label, "target", model.flops))
    if not models:
        parts = [CostPart("s2l", name, value) for name, value in selecting]
    full = next((m.flops for m in models if m.selector == FULL), None)
    measured = full is not None
    if full is None:
        full = _full_at_equal_epochs(run, worth)
    total = sum(value for _, value in selecting)
    pays: dict[str, float | None] = {}
    if full is not None:
        for model in models:
            if model.selector not in FREE_SELECTORS:
                pays[model.label] = total / (full - model.flops) if full > model.flops else None
    size = proxy.manifest.extra["summary"]["num_parameters"]
    return Cost(parts, total, total / full if full else None, full, measured, pays, _reference_curve(run), size)


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
    trained, snapshots = proxy.manifest.extra["summary"]["train_tokens"], len(proxy.manifest.extra["snapshots"])
    sizes = np.geomspace(*_SIZES, 6)
    return [(float(p), float(p * (6 * trained + 2 * once * snapshots))) for p in sizes if math.isfinite(p)]
