"""The trials of a sweep: each is a complete configuration with one subset."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2l_ray.config.load import load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.selection import for_selector
from s2l_ray.config.sweep import RangeConfig
from s2l_ray.storage.fingerprint import fingerprint

FULL = "full"


@dataclass(frozen=True, eq=False)
class Trial:
    selector: str
    """The selector's name; `full` for the full data."""
    budget: int | float
    """Size of the subset; 1.0 for the full data."""
    seed: int
    parameters: tuple[tuple[str, Any], ...] = ()
    """(dotted path, value) of every other setting that the sweep varies."""

    @property
    def key(self) -> str:
        return fingerprint([self.selector, repr(self.budget), self.seed, [list(p) for p in self.parameters]])[:12]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trial) and self.key == other.key  # 1 example and 1.0, all of them, differ

    def __hash__(self) -> int:
        return hash(self.key)  # values of parameters may be lists

    def describe(self) -> str:
        what = FULL if self.selector == FULL else f"{self.selector} {self.budget!r}"
        more = "".join(f", {path.split('.')[-1]}={value}" for path, value in self.parameters)
        return f"{what}, seed {self.seed}{more}"

    def plain(self) -> dict[str, Any]:
        return {"selector": self.selector, "budget": self.budget, "seed": self.seed,
                "parameters": dict(self.parameters)}  # fmt: skip

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Trial:
        """Make a trial from `plain`'s output, or from what Ray Tune passes to a trial (no `parameters` if there are
        none)."""
        parameters = tuple(sorted(plain.get("parameters", {}).items()))
        budget = plain["budget"]
        budget = json.loads(budget) if isinstance(budget, str) else budget  # a searcher would treat 1 and 1.0 as equal
        return Trial(plain["selector"], budget, int(plain["seed"]), parameters)

    def config(self, base: S2LConfig) -> S2LConfig:
        """The trial's complete configuration.

        Raises:
            ConfigError: the trial's settings contradict each other.
        """
        tree = base.model_dump(mode="json")
        for path, value in self.parameters:
            node = tree
            *sections, last = path.split(".")
            for name in sections:
                if not isinstance(node.get(name), dict):  # an optional section that only this trial has
                    node[name] = {}
                node = node[name]
            node[last] = value
        seeds = {"seed": self.seed}
        tree["selection"] |= seeds
        tree["target"] |= seeds | {"subsets": []}
        if self.selector == FULL:
            tree["target"]["subsets"] = [FULL]
        else:
            # Drop settings that apply only to the sweep's other selectors.
            tree["selection"] = for_selector(tree["selection"], self.selector) | {"budgets": [self.budget]}
        return load_config(tree)

    def scores_with_target(self, base: S2LConfig) -> bool:
        """Whether the trial's selector reads scores of a target trained on everything."""
        return self.selector != FULL and self.config(base).selection.reference.model == "target"


def grid(config: S2LConfig) -> list[Trial]:
    """All combinations; the full data comes first, because everything is compared with it."""
    sweep = config.sweep
    settings = [tuple(zip(sorted(sweep.parameters), v, strict=True)) for v in itertools.product(*_values(config))]
    rest = [Trial(s, b, n, p) for p in settings for n in range(sweep.num_seeds) for s in sweep.selectors
            for b in sweep.budgets]  # fmt: skip
    return list(dict.fromkeys([*full_trials(config, settings), *rest]))


def _values(config: S2LConfig) -> list[list[Any]]:
    """The values of each parameter, in the order of the sorted paths; both ends for a range."""
    return [v.ends if isinstance(v, RangeConfig) else v for _, v in sorted(config.sweep.parameters.items())]


def full_trials(config: S2LConfig, settings: list[tuple[tuple[str, Any], ...]] | None = None) -> list[Trial]:
    """Trials on the full data: one per seed and per combination of settings that affect its target, which settings of
    the selection do not."""
    if not config.sweep.full:
        return []
    concerns = ("target.", "corpus.")
    mine = [tuple((n, v) for n, v in s if n.startswith(concerns)) for s in settings or [()]]
    return list(dict.fromkeys(Trial(FULL, 1.0, n, p) for p in mine for n in range(config.sweep.num_seeds)))


def could_propose(config: S2LConfig, trial: Trial) -> bool:
    """Whether a search over this sweep's settings could propose the trial."""
    sweep = config.sweep
    budgets = map(repr, sweep.budgets)
    known = trial.selector in sweep.selectors and repr(trial.budget) in budgets and trial.seed < sweep.num_seeds
    return known and [p for p, _ in trial.parameters] == sorted(sweep.parameters) and all(
        _is_in(value, sweep.parameters[path]) for path, value in trial.parameters
    )  # fmt: skip


def _is_in(value: Any, values: list[Any] | RangeConfig) -> bool:
    if isinstance(values, list):
        return fingerprint(value) in map(fingerprint, values)  # 1, 1.0 and true are equal in Python
    return isinstance(value, int | float) and values.min <= value <= values.max


def num_possible(config: S2LConfig) -> float:
    """The number of different trials that a search may propose; infinity if it draws real numbers."""
    sweep = config.sweep
    sizes = [v.num_values if isinstance(v, RangeConfig) else len(set(map(fingerprint, v)))
             for v in sweep.parameters.values()]  # fmt: skip
    return len(sweep.selectors) * len(sweep.budgets) * sweep.num_seeds * math.prod(sizes)


def every_value(config: S2LConfig) -> list[Trial]:
    """All trials of a grid; for a search, enough trials to include every value that it may take, or both ends of a
    range."""
    if config.sweep.search == "grid":
        return grid(config)
    paths, values = sorted(config.sweep.parameters), _values(config)
    first = {p: v[0] for p, v in zip(paths, values, strict=True)}
    settings = [first, *(first | {p: v} for p, vs in zip(paths, values, strict=True) for v in vs)]
    return [Trial(s, b, 0, tuple(sorted(p.items()))) for s in config.sweep.selectors
            for b in config.sweep.budgets for p in settings]  # fmt: skip


def selecting(config: S2LConfig) -> list[S2LConfig]:
    """The configurations of the trials that select, one for every way in which they do."""
    sweep = config.sweep.model_copy(update={"budgets": config.sweep.budgets[:1], "num_seeds": 1})
    trials = every_value(config.model_copy(update={"sweep": sweep}))
    return [trial.config(config) for trial in trials if trial.selector != FULL]


def check_trials(config: S2LConfig) -> None:
    """Check every trial of a grid, and every value that a search may take, before anything starts.

    Raises:
        ConfigError: a trial's configuration is invalid.
    """
    for trial in every_value(config):
        trial.config(config)
