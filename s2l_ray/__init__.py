"""s2l_ray: which part of your fine-tuning data is worth training on.

    import s2l_ray
    run = s2l_ray.run("quickstart")                      # a recipe, a YAML file, a mapping or an S2LConfig
    run = s2l_ray.load_run("runs/quickstart")
    subset = s2l_ray.select(run, budget=0.2)             # one more budget from the same trajectories
    target = s2l_ray.finetune(run, "s2l-0.2", ["target.model=…"])

The heavy imports (torch, Ray) wait until they are needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from s2l_ray.artifacts.run import Run, load_run
    from s2l_ray.config import S2LConfig, list_recipes, load_config
    from s2l_ray.workflow.commands import finetune, run, select

_WHERE = {
    "S2LConfig": "config",
    "load_config": "config",
    "list_recipes": "config",
    "run": "workflow.commands",
    "select": "workflow.commands",
    "finetune": "workflow.commands",
    "Run": "artifacts.run",
    "load_run": "artifacts.run",
}

__all__ = ["Run", "S2LConfig", "__version__", "finetune", "list_recipes", "load_config", "load_run", "run", "select"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"s2l_ray.{_WHERE[name]}"), name)
    raise AttributeError(f"module 's2l_ray' has no attribute {name!r}")
