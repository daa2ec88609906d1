"""What is known of the proxy's competence on held-out examples: whether it is looked at, and what its stages are
called."""

from __future__ import annotations

from s2l_ray.config.schema import S2LConfig

PREFIX = "heldout-scores@"


def competence_name(step: int) -> str:
    """`heldout-scores@40`."""
    return f"{PREFIX}{step}"


def watches_competence(config: S2LConfig) -> bool:
    """Whether a guard's blindness can be told: it is asked for, and something is held out."""
    names = [*config.selection.selectors, *config.sweep.selectors]
    return config.heldout.share > 0 and any(config.selection.options_of(name).guard.rules for name in names)
