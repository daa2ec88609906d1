"""Options that several selectors share; each selector's `Options` extends one of these classes."""

from __future__ import annotations

from pydantic import Field, field_validator

from s2l_ray.config.section import Section, bounded, refuse_repeated
from s2l_ray.config.selection import GuardRule, Weighting
from s2l_ray.selection.signals import FACET, LOSS, LOSS_UNCONDITIONAL, LOSSES, PROMPT_EMBEDDING, SOURCES, Snapshot, at

_GUARD_NEEDS: dict[str, set[str]] = {
    "rise": {LOSSES},
    "not_learnt": {LOSSES},
    "prompt_gain": {at(LOSS, "late"), at(LOSS_UNCONDITIONAL, "late")},
    "local": {at(LOSS, "late"), at(PROMPT_EMBEDDING, "late")},
}


class GuardOptions(Section):
    """Rules against wrong answers; an example that one of them drops is chosen only after all others."""

    rules: list[GuardRule] = Field(default=[])
    """`rise`: the loss ends above its lowest. `not_learnt`: it ends no lower than it began. `prompt_gain`: the prompt
    does not lower it. `local`: it is higher than those of the nearest prompts."""
    max_rise_nats: float = bounded(0.2, 1e6, "no loss rises that far", ge=0)
    """`rise`: by how much the last loss may lie above the lowest (nats per token)."""
    max_local_excess_nats: float = bounded(1.0, 1e6, "no loss is that far above the others", ge=0)
    """`local`: by how much the last loss may lie above the median of the neighbours' (nats per token)."""
    neighbours: int = bounded(20, 1024, "neighbours that far away carry no information", ge=1)
    """`local`: how many nearest prompts are compared with."""
    min_kept_share: float = bounded(0.8, 1.0, "a share cannot exceed 1", ge=0)
    """Stop with an error where fewer of the examples would stay eligible."""

    @field_validator("rules")
    @classmethod
    def _once(cls, rules: list[GuardRule]) -> list[GuardRule]:
        refuse_repeated("guard.rules", rules)
        return rules

    def needs(self) -> frozenset[str]:
        return frozenset(need for rule in self.rules for need in _GUARD_NEEDS[rule])


class SelectorOptions(Section):
    """Options of every selector."""

    guard: GuardOptions = GuardOptions()
    """Which examples are chosen last."""


class StratifiedOptions(SelectorOptions):
    stratify: bool | str = False
    """Balance the sources first, or the values of the facet of this name, then choose within each."""

    def strata_needs(self) -> frozenset[str]:
        if isinstance(self.stratify, str):
            return frozenset({FACET + self.stratify})
        return frozenset({SOURCES} if self.stratify else ())


class SamplingOptions(SelectorOptions):
    """Options of selectors that sample groups of unequal size at random."""

    weights: Weighting = "none"
    """`cluster`: a chosen example is weighted by the number of examples it stands for, with mean 1 (see `weights`)."""
    weights_cap: float = bounded(10.0, 1e6, "a single example could dominate a batch", ge=1)
    """No weight exceeds this many times the median."""


class ClusterOptions(StratifiedOptions, SamplingOptions):
    allocation_exponent: float = bounded(0.0, 1.0, "small clusters would contribute nothing", ge=0)
    """α: clusters count by size^α. 0 takes equally many from each (the paper), 1 in proportion to their sizes."""


class ScoreOptions(StratifiedOptions):
    reference: Snapshot = "late"
    """Snapshot whose scores count: `late` (last), `early` (first at or after `early_share` of the steps), `first`
    (first recorded) or `start` (the untrained model, with trajectories.include_step_zero)."""
