"""Configurations of sweeps without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2l_ray.config import S2LConfig, load_config
from s2l_ray.testing.tiny import tiny_run_config

RATES = {"target.learning_rate": {"min": 1e-4, "max": 1e-2, "log": True}}


def tree(folder: Path = Path("unused"), **sweep: Any) -> dict[str, Any]:
    made = tiny_run_config(folder)
    made["target"] = {**made["proxy"], "length": "same_steps", "epochs": 1}
    made["sweep"] = {"budgets": [0.1, 0.3], "num_seeds": 2} | sweep
    return made


def config(**sweep: Any) -> S2LConfig:
    return load_config(tree(**sweep))
