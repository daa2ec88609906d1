"""What is known of the proxy's competence on held-out examples: which snapshots tell it, and what their stages are
called."""

from __future__ import annotations

from s2l_ray.config.schema import S2LConfig

PREFIX = "heldout-scores@"


def competence_name(step: int) -> str:
    """`heldout-scores@40`."""
    return f"{PREFIX}{step}"


def middle_index(config: S2LConfig, num_snapshots: int) -> int | None:
    """The snapshot half-way, whose weights are kept; None: there is none before the last.

    Of losses that training computed there are no weights.
    """
    if config.trajectories.source != "snapshots" or num_snapshots < 3:
        return None
    return num_snapshots // 2


def watches_competence(config: S2LConfig) -> bool:
    """Whether a guard's blindness can be told: it is asked for, and something is held out."""
    names = [*config.selection.selectors, *config.sweep.selectors]
    return config.heldout.share > 0 and any(config.selection.options_of(name).guard.rules for name in names)
