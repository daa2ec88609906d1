"""The proxy's competence on held-out examples: whether it is measured, and the names of the stages that measure it."""

from __future__ import annotations

from s2l_ray.config.schema import S2LConfig

PREFIX = "heldout-scores@"


def competence_name(step: int) -> str:
    """The name of the signal for one step, such as `heldout-scores@40`."""
    return f"{PREFIX}{step}"


def watches_competence(config: S2LConfig) -> bool:
    """Whether to check if the guards are blind: guards are configured and examples are held out."""
    names = [*config.selection.selectors, *config.sweep.selectors]
    return config.heldout.share > 0 and any(config.selection.options_of(name).guard.rules for name in names)
