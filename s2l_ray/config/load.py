"""YAML or recipe name + dotted overrides → S2LConfig. Errors say the value, what is wrong with it and what would do."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from s2l_ray.config.schema import S2LConfig


class ConfigError(ValueError):
    """The configuration cannot be used; the message lists every fault found."""


def list_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("s2l_ray.config") / "recipes"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> S2LConfig:
    """Load and validate.

    Args:
        source: a recipe's name (`quickstart`), a YAML file's path, or a mapping.
        overrides: `section.field=value` strings, values in YAML (`selection.budgets=[0.05,0.11]`).

    Raises:
        ConfigError: unknown recipe, file, key or value; all faults in one message.
    """
    tree = copy.deepcopy(dict(source)) if isinstance(source, Mapping) else _read(str(source))
    for override in overrides:
        _apply(tree, override)
    try:
        return S2LConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def to_yaml(config: S2LConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(source: str) -> dict[str, Any]:
    if source in list_recipes():
        text = (resources.files("s2l_ray.config") / "recipes" / f"{source}.yaml").read_text(encoding="utf-8")
    elif Path(source).is_file():
        text = Path(source).read_text(encoding="utf-8")
    else:
        near = difflib.get_close_matches(source, list_recipes(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"{source!r} is neither a file nor a recipe, so there is nothing to run.{hint} "
            f"Recipes: {', '.join(list_recipes())}"
        )
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{source} holds {type(tree).__name__}, not a mapping of sections; see `s2l recipes`")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = [p for p in key.strip().split(".") if p]
    if not equals or not path:
        raise ConfigError(f"override {override!r} is not of the form section.field=value")
    try:
        value = yaml.safe_load(text) if text.strip() else None
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from None
    node = tree
    for name in path[:-1]:
        child = node.get(name)
        if not isinstance(child, dict):
            child = node[name] = {}
        node = child
    node[path[-1]] = value
    _resolve_alternatives(tree, path, value)


# Setting one side of an either-or on the command line replaces the recipe's other side: `s2l run quickstart
# proxy.model=…` should not have to un-set proxy.from_config as well.
_ALTERNATIVES = (
    ("corpus.paths", "corpus.huggingface", "corpus.quickstart"),
    ("proxy.model", "proxy.from_config"),
    ("proxy.tokenizer", "proxy.train_tokenizer"),
)


def _resolve_alternatives(tree: dict[str, Any], path: list[str], value: Any) -> None:
    if value is None:
        return
    dotted = ".".join(path)
    for group in _ALTERNATIVES:
        chosen = next((g for g in group if dotted == g or dotted.startswith(g + ".")), None)
        for other in group:
            section, field = other.split(".")
            if chosen and other != chosen and isinstance(tree.get(section), dict):
                tree[section].pop(field, None)
    if dotted == "proxy.model":
        tree["proxy"].pop("train_tokenizer", None)


def _explain(error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        where = ".".join(str(p) for p in fault["loc"])
        if fault["type"] == "extra_forbidden":
            names = _field_names(fault["loc"][:-1])
            near = difflib.get_close_matches(str(fault["loc"][-1]), names, n=1, cutoff=0.5)
            cure = f"did you mean {near[0]!r}?" if near else f"valid here: {', '.join(names)}"
            lines.append(f"{where}: unknown key; {cure}")
        elif fault["type"] == "value_error":
            lines.append((where + ": " if where else "") + str(fault["ctx"]["error"]))
        else:
            lines.append(f"{where}: {fault['msg']}, got {fault['input']!r}")
    return "the configuration cannot be used:\n" + "\n".join(f"  - {line}" for line in lines)


def _field_names(path: Sequence[int | str]) -> list[str]:
    """Valid keys of the section at `path`."""
    model: type[BaseModel] = S2LConfig
    for name in path:
        field = model.model_fields.get(str(name))
        if field is None:
            continue
        options = [field.annotation, *get_args(field.annotation)]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
    return list(model.model_fields)
