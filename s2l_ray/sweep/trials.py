"""What a sweep tries: each trial is a whole configuration with one subset. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2l_ray.config.load import load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.run_folder import fingerprint

FULL = "full"


@dataclass(frozen=True)
class Trial:
    selector: str
    """`full` for the full data."""
    budget: int | float
    """1.0 for the full data."""
    seed: int
    parameters: tuple[tuple[str, Any], ...] = ()
    """(dotted path, value) beside those."""

    @property
    def key(self) -> str:
        return fingerprint([self.selector, repr(self.budget), self.seed, [list(p) for p in self.parameters]])[:12]

    def describe(self) -> str:
        what = FULL if self.selector == FULL else f"{self.selector} {self.budget!r}"
        more = "".join(f", {path.split('.')[-1]}={value}" for path, value in self.parameters)
        return f"{what}, seed {self.seed}{more}"

    def plain(self) -> dict[str, Any]:
        return {"selector": self.selector, "budget": self.budget, "seed": self.seed,
                "parameters": dict(self.parameters)}  # fmt: skip

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Trial:
        """From `plain`, or from what Ray Tune hands to a trial."""
        return Trial(plain["selector"], plain["budget"], int(plain["seed"]), tuple(sorted(plain["parameters"].items())))

    def config(self, base: S2LConfig) -> S2LConfig:
        """The whole configuration.

        Raises:
            ConfigError: these settings contradict each other.
        """
        tree = base.model_dump(mode="json")
        for path, value in self.parameters:
            node = tree
            *sections, last = path.split(".")
            for name in sections:
                if node.get(name) is None:  # an optional section that only this trial has
                    node[name] = {}
                node = node[name]
            node[last] = value
        seeds = {"seed": self.seed}
        tree["selection"] |= seeds
        tree["target"] |= seeds | {"subsets": []}
        if self.selector == FULL:
            tree["target"]["subsets"] = [FULL]
        else:
            tree["selection"] |= {"selectors": [self.selector], "budgets": [self.budget]}
        return load_config(tree)


def grid(config: S2LConfig) -> list[Trial]:
    """All combinations, the full data first: everything is compared with it."""
    sweep = config.sweep
    names = sorted(sweep.parameters)
    values = [sweep.parameters[n] for n in names]
    settings = [tuple(zip(names, v, strict=True)) for v in itertools.product(*values)]
    rest = [Trial(s, b, n, p) for p in settings for n in range(sweep.num_seeds) for s in sweep.selectors
            for b in sweep.budgets]  # fmt: skip
    return [*full_trials(config, settings), *rest]


def full_trials(config: S2LConfig, settings: list[tuple[tuple[str, Any], ...]] | None = None) -> list[Trial]:
    """Once a seed; and for each setting that concerns the target (the others do not touch the full data)."""
    if not config.sweep.full:
        return []
    mine = {tuple((n, v) for n, v in s if n.startswith("target.")): None for s in settings or [()]}
    return [Trial(FULL, 1.0, n, p) for p in mine for n in range(config.sweep.num_seeds)]


def check_trials(config: S2LConfig, trials: list[Trial]) -> None:
    """Every trial's configuration is valid, before anything starts. Raises ConfigError."""
    for trial in trials:
        trial.config(config)
