"""The cost of selecting and training in floating-point operations, and the number of targets from which it pays off."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.artifacts.selection_work import (
    SelectionWork,
    proxy_scoring,
    proxy_training,
    reads_of,
    scores_with_target,
    whole_work,
    work_of,
)
from s2l_ray.errors import UserError
from s2l_ray.reporting.facts_worth import SCORING, TARGET, TRAINING, Cost, CostPart, Worth
from s2l_ray.reporting.main_subset import main_subset
from s2l_ray.reporting.wall_clock import wall_clocks
from s2l_ray.selection.registry import UnknownSelector, needs_of
from s2l_ray.selection.signals import FACET, SOURCES

_SIZES = (1e6, 1e11)


def is_free(selector: str) -> bool:
    """Whether the selector needs no reference model; an unknown selector is assumed to need one."""
    if selector == FULL:
        return True
    try:
        return all(need == SOURCES or need.startswith(FACET) for need in needs_of(selector))
    except UnknownSelector:
        return False


def cost_of(run: Run, worth: Worth | None) -> Cost | None:
    """The run's costs; None if no reference model was trained."""
    proxy = run.stages.get("proxy")
    if proxy is None:
        return None
    models = worth.models if worth else []
    works = {model.label: selecting_for(run, model.label, model.selector) for model in models}
    parts = []
    for model in models:
        parts += _parts(model.label, works[model.label])
        parts.append(CostPart(model.label, TARGET, model.flops))
    whole = whole_work(run)
    if not models:
        parts = _parts(main_subset(run) or "selecting", whole)
    full = next((m.flops for m in models if m.selector == FULL), None)
    measured = full is not None
    if full is None:
        full = _full_at_equal_epochs(run, worth)
    pays: dict[str, float | None] = {}
    if full is not None:
        for model in models:
            if not is_free(model.selector):
                work = works[model.label]
                pays[model.label] = work.flops / (full - model.flops) if full > model.flops else None
    own = proxy_training(run) + proxy_scoring(run)
    return Cost(
        parts,
        whole.flops,
        whole.flops / full if full else None,
        full,
        measured,
        pays,
        _reference_curve(run),
        proxy.manifest.extra["summary"]["num_parameters"],
        wall_clocks(run),
        {label: work.flops for label, work in works.items()},
        own.flops,
        scores_with_target(run),
    )


def selecting_for(run: Run, label: str, selector: str) -> SelectionWork:
    """The cost of the subset that a target was trained on, as if it were the only one; if that is unknown, the cost of
    all of the run's subsets."""
    if is_free(selector):
        return SelectionWork()
    subset = run.subsets.get(label)
    if subset is None:
        return whole_work(run)
    try:
        return work_of(run, reads_of(run, run.config.selection, selector, subset))
    except UserError:  # registered in another process, or with options of another configuration
        return whole_work(run)


def choosing_by_selector(run: Run, selectors: Iterable[str]) -> dict[str, float]:
    """FLOPs of selecting with each selector, as if it were the only one; without those whose subsets are missing."""
    paid = [selector for selector in selectors if not is_free(selector)]
    labels = _by_selector(run)
    if not labels.keys() >= set(paid):
        run = load_run(run.storage)  # including its trials' subsets
        labels = _by_selector(run)
    return {selector: selecting_for(run, labels[selector], selector).flops for selector in paid if selector in labels}


def _by_selector(run: Run) -> dict[str, str]:
    """Selector → one of its subsets."""
    return {str(stage.manifest.extra.get("selector")): label for label, stage in run.subsets.items()}


def _parts(label: str, work: SelectionWork) -> list[CostPart]:
    parts = {TRAINING: work.training.flops, SCORING: work.scoring.flops}
    return [CostPart(label, name, flops) for name, flops in parts.items() if flops]


def _full_at_equal_epochs(run: Run, worth: Worth | None) -> float | None:
    """Cost of a target on everything, trained for as many epochs; None if the number of steps is configured instead."""
    target = run.config.target
    counted = [m for m in (worth.models if worth else []) if m.share > 0]
    if target is None or target.length != "epochs" or target.max_steps or target.max_tokens or not counted:
        return None
    return counted[0].flops / counted[0].share


def _reference_curve(run: Run) -> list[tuple[float, float]]:
    """Cost of reference models of other sizes: 6 FLOPs per parameter and token in training, 2 in scoring (`lm.flops`
    without attention)."""
    if "tokens" not in run.stages:
        return []
    trained, scored = proxy_training(run).tokens, proxy_scoring(run).tokens
    own, (low, high) = float(run.stage("proxy").manifest.extra["summary"]["num_parameters"]), _SIZES
    sizes = sorted({*np.geomspace(low, high, 6), own})  # the run's own, which may be smaller than all of them
    return [(float(p), float(p * (6 * trained + 2 * scored))) for p in sizes]
