"""Resolves a sweep's configuration and refuses what cannot be swept before anything starts."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from s2l_ray.artifacts.run import read_config
from s2l_ray.config.load import ConfigError, list_recipes, load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.objective import check_objective
from s2l_ray.sweeps.trials import check_trials


def resolve(
    config: S2LConfig | str, overrides: Sequence[str], within: float | None, find_smallest: bool = False
) -> S2LConfig:
    """Turn what `s2l sweep` was given into a configuration that is valid, as is every trial's.

    Raises:
        ConfigError: the sweep is refused, before anything starts.
    """
    if within is not None:
        overrides = [*overrides, f"sweep.within={within}"]
    if isinstance(config, S2LConfig):
        resolved = load_config(config.model_dump(mode="json"), overrides) if overrides else config
    elif _is_run(config):
        tree = read_config(Storage.open(config), unfinished=True).model_dump(mode="json")
        resolved = load_config(tree | {"run_dir": config}, overrides)  # the folder may have been moved
    else:
        resolved = load_config(config, overrides)
    _check(resolved)
    if find_smallest:
        _check_smallest(resolved)
    check_trials(resolved)
    return resolved


def _check_smallest(config: S2LConfig) -> None:
    """Raises ConfigError for settings that `--find-smallest` would not follow."""
    sweep = config.sweep
    faults = []
    if not sweep.full:
        faults.append("sweep.full=false leaves out the full data, with which budgets are compared")
    if sweep.search != "grid":
        faults.append(f"sweep.search={sweep.search} proposes its own trials")
    if sweep.parameters:
        faults.append(f"sweep.parameters ({', '.join(sweep.parameters)}) would not be tried")
    if sweep.asha is not None:
        faults.append("sweep.asha would stop trials early, but their final losses are compared")
    if faults:
        raise ConfigError(
            f"--find-smallest varies only the budget: {'; '.join(faults)}. Remove that, or sweep without "
            "--find-smallest"
        )


def _is_run(where: str) -> bool:
    if where in list_recipes() or Path(where).is_file():
        return False
    return Storage.open(where).exists("config.yaml")


def _check(config: S2LConfig) -> None:
    """Raises ConfigError if something that every sweep needs is missing."""
    if config.target is None:
        raise ConfigError("a sweep fine-tunes targets, but there is none: add target.model=…, or a section `target`")
    nothing_held_out = not (config.heldout.share or config.heldout.files or config.corpus.quickstart)
    if nothing_held_out:
        raise ConfigError(
            "a sweep compares held-out losses, but nothing is held out: set heldout.share=0.05, or heldout.files"
        )
    check_objective(config)
    if config.sweep.asha is not None and config.target.evaluate_every_steps is None:
        raise ConfigError(
            "sweep.asha stops trials by their held-out loss during training, which is never measured: set "
            "target.evaluate_every_steps"
        )
    if config.sweep.search == "optuna" and importlib.util.find_spec("optuna") is None:
        raise ConfigError('this sweep needs the package optuna, which is not installed; pip install "s2l_ray[sweep]"')
