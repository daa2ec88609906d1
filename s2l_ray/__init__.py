"""Select the part of your fine-tuning data that is worth training on (SmallToLarge on Ray).

    import s2l_ray
    run = s2l_ray.run("quickstart")                      # a recipe, a YAML file, a mapping or an S2LConfig
    run = s2l_ray.load_run("runs/quickstart")
    subset = s2l_ray.select(run, budget=0.2)             # one more budget from the same trajectories
    target = s2l_ray.finetune(run, "s2l-0.2", ["target.model=…"])
    check = s2l_ray.gradients(run)                       # are gradients alike within clusters?
    answers = s2l_ray.evaluate(run, tasks=["gsm8k"], overrides=["evaluation.data.folder=…"])
    curve = s2l_ray.sweep("runs/quickstart", ["sweep.budgets=[0.05,0.1,0.2]"])

Heavy imports (torch, Ray) are deferred until they are needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

LAST_RELEASE = "0.1.0"
"""Version of a copy that is not installed; pyproject.toml has the same for builds without git tags."""

if TYPE_CHECKING:
    __version__: str

    from s2l_ray.api import (
        Evaluation,
        EvaluationResult,
        GradientCheck,
        Run,
        S2LConfig,
        Subset,
        SweepResult,
        Target,
        estimate,
        evaluate,
        finetune,
        gradients,
        list_recipes,
        load_config,
        load_run,
        run,
        select,
        sweep,
    )

__all__ = [
    "Evaluation",
    "EvaluationResult",
    "GradientCheck",
    "Run",
    "S2LConfig",
    "Subset",
    "SweepResult",
    "Target",
    "__version__",
    "estimate",
    "evaluate",
    "finetune",
    "gradients",
    "list_recipes",
    "load_config",
    "load_run",
    "run",
    "select",
    "sweep",
]

_LIGHT = {
    "S2LConfig": "config",
    "list_recipes": "config",
    "load_config": "config",
    "Run": "artifacts.run",
    "load_run": "artifacts.run",
    "Evaluation": "artifacts.results",
    "GradientCheck": "artifacts.results",
    "Subset": "artifacts.results",
    "Target": "artifacts.results",
}
"""Names whose import needs neither Ray nor torch."""


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("s2l_ray")
    except PackageNotFoundError:
        return LAST_RELEASE


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _installed_version()
    if name in __all__:
        return getattr(import_module(f"s2l_ray.{_LIGHT.get(name, 'api')}"), name)
    raise AttributeError(f"module 's2l_ray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
