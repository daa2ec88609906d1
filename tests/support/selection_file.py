"""A configuration file with a selection and targets."""

from __future__ import annotations

from typing import Any

from s2l_ray.config import load_config

FILE: dict[str, Any] = {
    "corpus": {"paths": ["a.jsonl"]},
    "proxy": {"model": "m"},
    "selection": {"budgets": [0.2], "selectors": ["s2l", "random"]},
    "target": {"model": "n", "subsets": ["full", "s2l-0.2", "random-0.2"]},
}


def file(**selection: Any) -> dict[str, Any]:
    return FILE | {"selection": FILE["selection"] | selection}


def subsets(tree: dict[str, Any], *overrides: str) -> list[str]:
    target = load_config(tree, overrides).target
    assert target is not None
    return target.subsets
