"""The reference of a selection: the model and snapshot whose signals selectors read, and the names of their stages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from s2l_ray.artifacts.models import ProxyArtifact, TargetArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.selection_work import SCORING_TARGET
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.selection import SelectionConfig, for_selector
from s2l_ray.errors import UserError
from s2l_ray.selection.registry import list_selectors
from s2l_ray.selection.signals import (
    EMBEDDINGS,
    LOSS,
    PASSES,
    QUERY,
    SCALARS,
    at_reference,
    signal_name,
    snapshot_index,
)
from s2l_ray.stages.query_files import query_content

SCORES = "scores"
"""Column of a pass that computes everything that scoring writes at a snapshot: the loss and SCALARS."""


def early_step(early_share: float, total_steps: int) -> int:
    """Optimiser steps after which the target's early snapshot is taken."""
    return math.ceil(round(early_share * total_steps, 6))  # 0.1 × 30 is a little more than 3


def asked_selections(config: S2LConfig) -> Iterator[tuple[str, SelectionConfig]]:
    """Yield (selector, the section `selection` for it alone) for everything that the run or its sweep selects: with the
    section's own settings, and with the values that the sweep tries. Values drawn from ranges are not known yet."""
    tried = {path: values for path, values in config.sweep.parameters.items()
             if path.startswith("selection.") and isinstance(values, list)}  # fmt: skip
    known = {selector.name for selector in list_selectors()}
    names = sorted(known & {*config.selection.selectors, *config.sweep.selectors})
    yield from ((name, config.selection) for name in names)
    for values in itertools.product(*tried.values()) if tried else ():
        tree: dict[str, Any] = {"selection": config.selection.model_dump(mode="json")}
        for path, value in zip(tried, values, strict=True):
            *sections, last = path.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[last] = value
        for name in names:
            try:
                yield name, SelectionConfig.model_validate(for_selector(tree["selection"], name))
            except (UserError, ValidationError):
                continue  # the corresponding trial is refused on its own


def early_steps(config: S2LConfig, total_steps: int) -> list[int]:
    """Optimiser steps, before the end of the training on everything, at which selectors need the target's weights."""
    shares = {
        asked.reference.early_share
        for name, asked in asked_selections(config)
        if asked.reference.model == "target" and any(need.endswith("@early") for need in asked.needs_of(name))
    }
    steps = {early_step(share, total_steps) for share in shares}
    return sorted(step for step in steps if 0 < step < total_steps)


def passes_of(config: S2LConfig, selectors: list[str]) -> list[str]:
    """The needs of these selectors that take an extra pass, as `column@snapshot`."""
    needs = {need for name in selectors for need in config.selection.needs_of(name)}
    if config.selection.reference.model == "proxy":
        return sorted(need for need in needs if need.partition("@")[0] in PASSES)
    return sorted({f"{column_of_pass(config, need)}@{need.partition('@')[2]}" for need in at_reference(needs)})


def column_of_pass(config: S2LConfig, need: str) -> str:
    """The column that a pass for this need computes: for the target, one pass computes all scores of a snapshot, which
    the proxy already has."""
    column = need.partition("@")[0]
    scored = config.selection.reference.model == "target" and column in (LOSS, *SCALARS)
    return SCORES if scored else column


def reference_stage(config: S2LConfig, run: Run) -> Stage | None:
    """The stage whose weights are the reference; None if that target does not exist yet."""
    return run.stage("proxy") if config.selection.reference.model == "proxy" else run.stages.get(SCORING_TARGET)


def reference_steps(config: S2LConfig, stage: Stage) -> list[int]:
    """Optimiser steps of the snapshots, ascending; for a target: before fine-tuning, early, and as exported."""
    if config.selection.reference.model == "proxy":
        return [one["step"] for one in ProxyArtifact.of(stage).snapshots]
    last = int(TargetArtifact.of(stage).summary["exported_step"])
    early = early_step(config.selection.reference.early_share, int(stage.manifest.settings["total_steps"]))
    return sorted({0, last, *([early] if early < last else [])})


def reference_step(config: S2LConfig, stage: Stage, snapshot: str) -> int | None:
    """The step of the snapshot with this name; None if it was not recorded."""
    steps, share = reference_steps(config, stage), config.selection.reference.early_share
    if config.selection.reference.model == "target" and snapshot == "early":
        return steps[-2] if len(steps) > 2 else steps[-1] if share else 0
    index = snapshot_index(snapshot, len(steps), steps, share)
    return None if index is None else steps[index]


def signal_stage_name(config: S2LConfig, run: Run, need: str) -> str:
    """The name of the stage that computed a need with an extra pass; "" if there cannot be one.

    For example `signals/embedding@40`; for a target `signals/target-1a2b3c4d-scores@600`; for the user's examples of
    the task `signals/query-1a2b3c4d-…`, with the need `query_embeddings:position_weighted_embedding@late`.
    """
    of_query = need.startswith(f"{QUERY}:")
    need = need.removeprefix(f"{QUERY}:")
    stage = reference_stage(config, run)
    step = None if stage is None else reference_step(config, stage, need.partition("@")[2])
    if stage is None or step is None:
        return ""
    column = column_of_pass(config, need)
    dim = config.selection.reference.embedding_dim if column in EMBEDDINGS else None
    query = f"query-{query_content(config)[:8]}-" if of_query else ""
    target = f"target-{stage.content[:8]}-" if config.selection.reference.model == "target" else ""
    return f"signals/{query}{target}{signal_name(column, step, dim)}"
