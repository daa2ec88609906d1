"""The section `sweep`: which budgets, selectors, seeds and settings to try, how, and by which figure to judge."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator

from s2l_ray.config.budgets import check_budgets, plain_budgets
from s2l_ray.config.section import Section, bounded, refuse_repeated

_RANGE = "larger whole numbers cannot be drawn exactly"
_MAX_TRIALS = 10_000


class RangeConfig(Section):
    min: float = bounded(..., 10**15, _RANGE, ge=-(10**15))
    """Lowest value."""
    max: float = bounded(..., 10**15, _RANGE, ge=-(10**15))
    """Highest value."""
    log: bool = False
    """Sample uniformly on a logarithmic scale."""
    integer: bool = False
    """Whole numbers only."""

    def contradictions(self) -> Iterator[str]:
        if not self.min < self.max or (self.log and self.min <= 0):
            yield (f"range {self.min} to {self.max} is empty (or not positive, with log); swap or correct it")

    @property
    def ends(self) -> list[int | float]:
        return [int(self.min), int(self.max)] if self.integer else [self.min, self.max]

    @property
    def num_values(self) -> float:
        return int(self.max) - int(self.min) + 1 if self.integer else math.inf


class AshaConfig(Section):
    grace_steps: int = bounded(50, 10**9, "no training has that many steps", ge=1)
    """No trial is stopped before this optimiser step."""
    reduction_factor: float = bounded(3, 1000, "all trials but one would be stopped at the first rung", gt=1)
    """At each rung, one trial in this many continues."""


class SweepConfig(Section):
    budgets: list[int | float] = Field(default=[0.05, 0.1, 0.2, 0.4], min_length=1)
    """Sizes of the subsets to try, as in `selection.budgets`."""
    selectors: list[str] = Field(default=["s2l", "random"], min_length=1)
    """Selectors to compare."""
    num_seeds: int = bounded(3, 1000, "each seed repeats every trial", ge=1)
    """Repetitions with different seeds for selection and target (0, 1, …); the proxy stays the same."""
    full: bool = True
    """Also train on the full data, once per seed, for comparison."""
    parameters: dict[str, list[Any] | RangeConfig] = Field(default={})
    """Other settings to try: a dotted path and its values (`clusters.num_clusters: [50, 100]`,
    `clusters.num_snapshots: [4, 8]`, `target.learning_rate: {min: 1e-5, max: 1e-3, log: true}`)."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """All combinations; or `num_samples` drawn at random; or proposed by Optuna's TPE from the results so far."""
    num_samples: int | None = bounded(None, 10_000, "a sweep of that many trials would never finish", ge=1)
    """Number of trials in a random or Optuna search, not counting those on the full data."""
    heldout_set: str | None = None
    """Held-out set that decides; None: the first one."""
    metric: str = Field(default="macro", examples=["macro", "micro", "per_token", "exact_match"])
    """Metric that decides: held-out loss (`macro`: mean over sources, `micro`: over examples, `per_token`: over
    tokens), `exact_match`, or your own (docs/extending.md); or a metric of the targets' answers to a task in the
    `evaluation` section: `evaluation.gsm8k.correct`, `evaluation.clinical.rougeL`."""
    max_concurrent: int | None = bounded(None, 10_000, "no cluster trains that many at once", ge=1)
    """Maximum number of trials in parallel; None: as many as fit."""
    asha: AshaConfig | None = None
    """Stop trials early that fall behind (needs target.evaluate_every_steps)."""
    predict: bool = False
    """First sweep with the proxy's model as the target; its curve shows which budgets are worth confirming with the
    target."""
    within: float = Field(default=0.01, gt=0, lt=1)
    """What `--find-smallest` considers good enough: at most this much worse than the full data, relative to it."""

    @field_validator("budgets", mode="before")
    @classmethod
    def _plain(cls, budgets: Any) -> Any:
        return plain_budgets(budgets)

    @field_validator("budgets")
    @classmethod
    def _sizes(cls, budgets: list[int | float]) -> list[int | float]:
        return check_budgets("sweep.budgets", budgets)

    @field_validator("selectors")
    @classmethod
    def _selectors(cls, names: list[str]) -> list[str]:
        from s2l_ray.selection.registry import get_selector  # those that were registered from outside too

        for name in names:
            get_selector(name)
        refuse_repeated("sweep.selectors", names)
        return names

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str) -> str:
        from s2l_ray.evaluation.metrics import get_metric  # those that were registered from outside too

        return get_metric(name).name

    @field_validator("parameters")
    @classmethod
    def _sweepable(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for path, values in parameters.items():
            section = path.split(".")[0]
            if section in ("name", "run_dir", "resources", "sweep", "loggers", "estimates") or "." not in path:
                raise ValueError(
                    f"sweep.parameters: {path!r} is not a setting that results depend on; use section.field"
                )
            if section == "heldout":
                raise ValueError(
                    f"sweep.parameters: with {path!r} trials would be judged on different examples, and could not be "
                    "compared; remove it, or make a run for each"
                )
            if path in ("selection.budgets", "selection.selectors", "target.subsets"):
                raise ValueError(f"sweep.parameters: {path!r} is set by sweep.budgets and sweep.selectors; remove it")
            if path in ("selection.seed", "target.seed"):
                raise ValueError(f"sweep.parameters: {path!r} is set by sweep.num_seeds; remove it")
            if values == []:
                raise ValueError(f"sweep.parameters.{path} has no value to try")
            if isinstance(values, list):
                refuse_repeated(f"sweep.parameters.{path}", values)
        return parameters

    def contradictions(self) -> Iterator[str]:
        ranges = [p for p, v in self.parameters.items() if isinstance(v, RangeConfig)]
        if self.search == "grid" and ranges:
            yield (
                f"sweep.search=grid cannot try every value of a range ({', '.join(ranges)}); list values, or set "
                "sweep.search=random or optuna"
            )
        if self.search == "grid" and self.num_samples is not None:
            yield (f"sweep.num_samples={self.num_samples} would do nothing with sweep.search=grid; remove one")
        listed = [len(v) for v in self.parameters.values() if isinstance(v, list)]
        trials = math.prod([len(self.budgets), len(self.selectors), self.num_seeds, *listed])
        if self.search == "grid" and trials > _MAX_TRIALS:
            yield (
                f"sweep.search=grid over {trials:,} combinations of budgets, selectors, seeds and parameters would not "
                f"end (at most {_MAX_TRIALS:,}); try fewer values, or set sweep.search=random and sweep.num_samples"
            )
        if self.search != "grid" and self.num_samples is None:
            yield (f"sweep.search={self.search} needs sweep.num_samples, the number of trials")
