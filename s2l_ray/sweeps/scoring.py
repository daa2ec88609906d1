"""The target whose scores a sweep's selectors read, with `selection.reference.model: target`.

It is the configuration's own target, trained on everything with the configuration's seed, whatever the trials change in
theirs. So it is trained once for each corpus, and the selection does not depend on the settings being compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.execution.precision import Precision
from s2l_ray.sweeps.trials import FULL, every_value

if TYPE_CHECKING:
    from s2l_ray.stages.context import RunContext


@dataclass(frozen=True)
class ScoringTarget:
    """Settings of the target whose scores selectors read."""

    config: TargetConfig
    """The section `target`, with the seed filled in."""
    precision: Precision


def scores_with_target(config: S2LConfig) -> bool:
    """Whether any trial's selector reads scores of the target."""
    return any(trial.scores_with_target(config) for trial in every_value(config))


def train_scoring_target(context: RunContext) -> ScoringTarget:
    """Train the scoring target before the trials start, and run its passes over the configuration's corpus; existing
    artifacts are reused."""
    from s2l_ray.stages.reference import asked_selections, passes_of, signal_stage_name
    from s2l_ray.stages.signals.stage import signals_spec
    from s2l_ray.workflow.stages import target_stage

    config, run, target = context.config, context.run, context.config.target
    assert target is not None
    trained = target_stage(context, FULL)
    tokens = run.stage(f"target-tokens/{FULL}")
    for name, asked in asked_selections(config):
        own = replace(context, config=config.model_copy(update={"selection": asked}))
        is_tried = name in config.sweep.selectors and asked.reference.model == "target"
        for need in passes_of(own.config, [name]) if is_tried else ():
            if signal_stage_name(own.config, run, need) not in run.stages:
                context.runner.ensure(signals_spec(own, need, tokens, trained))
    with_seed = target.model_copy(update={"seed": config.seed_of("target")})
    return ScoringTarget(with_seed, context.layout.precision_of(target))


def scoring_context(context: RunContext, scoring: ScoringTarget) -> RunContext:
    """A trial's context with the scoring target in place of its own, whose training is not reported to Ray Tune."""
    precisions = context.layout.precisions | {"target": scoring.precision}
    config = context.config.model_copy(update={"target": scoring.config})
    layout = replace(context.layout, sharding=None, precisions=precisions)
    return replace(context, config=config, layout=layout, watcher=None)
