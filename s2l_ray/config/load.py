"""YAML or recipe name + dotted overrides → S2LConfig. Errors say the value, what is wrong with it and what would do."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import UserError


class ConfigError(UserError):
    """The configuration cannot be used; the message lists every fault found."""


def list_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("s2l_ray.config") / "recipes"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> S2LConfig:
    """Load and validate.

    Args:
        source: a recipe's name (`quickstart`), a YAML file's path, or a mapping.
        overrides: `section.field=value` strings, values in YAML (`selection.budgets=[0.05,0.11]`); text fields take
            the text as it stands (`corpus.template.response={impression}`), or quoted, with escapes.

    Raises:
        ConfigError: unknown recipe, file, key or value; all faults in one message.
    """
    tree = copy.deepcopy(dict(source)) if isinstance(source, Mapping) else _read(str(source))
    parsed = [_parse_override(o) for o in overrides]
    for path, value in parsed:
        _remove_replaced(tree, path, value)
    for path, value in parsed:
        _apply(tree, path, value)
    try:
        return S2LConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def to_yaml(config: S2LConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back; credentials in URIs are left out.

    Whoever reads a run must not get them; whoever repeats it has them in the environment.
    """
    return yaml.safe_dump(config.stored(), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `2e-5` is a number, and a key given twice is a fault, not a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in given:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice, so one would be lost", key.start_mark
                    )
                given.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML speaks, wants a dot in every float; 1.2 does not: https://yaml.org/spec/1.2.2/#10214-floating-point
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read(source: str) -> dict[str, Any]:
    content: bytes  # PyYAML tells the encoding, and says what is wrong with it
    if source in list_recipes():
        content = (resources.files("s2l_ray.config") / "recipes" / f"{source}.yaml").read_bytes()
    elif Path(source).is_file():
        content = Path(source).read_bytes()
    else:
        near = difflib.get_close_matches(source, list_recipes(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"{source!r} is neither a file nor a recipe, so there is nothing to run.{hint} "
            f"Recipes: {', '.join(list_recipes())}"
        )
    try:
        tree = yaml.load(content, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{source} holds {type(tree).__name__}, not a mapping of sections; see `s2l recipes`")
    return tree


def _parse_override(override: str) -> tuple[list[str], Any]:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"override {override!r} is not of the form section.field=value")
    # A text field takes the text as it stands: no second round of quotes inside the shell's for `{findings}` or `1e4`.
    if _is_text(path) and text.strip().lower() not in ("", "null", "~") and text.strip()[0] not in "'\"":
        return path, text
    try:
        return path, yaml.load(text, _Loader) if text.strip() else None
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from None


def _apply(tree: dict[str, Any], path: list[str], value: Any) -> None:
    node = tree
    for name in path[:-1]:
        child = node.get(name)
        if not isinstance(child, dict):
            child = node[name] = {}
        node = child
    node[path[-1]] = value


# Setting one side of an either-or on the command line replaces the file's other side: `s2l run quickstart
# proxy.model=…` should not have to un-set proxy.from_config as well. Two sides on the command line are a contradiction.
_REPLACES: dict[str, tuple[str, ...]] = {
    "corpus.paths": ("corpus.huggingface", "corpus.quickstart"),
    "corpus.huggingface": ("corpus.paths", "corpus.quickstart"),
    "corpus.quickstart": ("corpus.paths", "corpus.huggingface"),
    # The file's targets are named after its own selection.
    "selection.budgets": ("target.subsets",),
    "selection.selectors": ("target.subsets",),
}
for _section in ("proxy", "target"):
    _REPLACES |= {
        # The tokenizer of a model from scratch would be foreign to other weights.
        f"{_section}.model": (f"{_section}.from_config", f"{_section}.train_tokenizer"),
        f"{_section}.from_config": tuple(
            f"{_section}.{name}" for name in ("model", "revision", "gguf_file", "random_weights")
        ),
        f"{_section}.tokenizer": (f"{_section}.train_tokenizer",),
        f"{_section}.train_tokenizer": (f"{_section}.tokenizer",),
    }


def _remove_replaced(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Must see the tree as the file left it, before any override is applied."""
    chosen = ".".join(path[:2])
    if value is None or chosen not in _REPLACES:
        return
    for other in _REPLACES[chosen]:
        section, field = other.split(".")
        if isinstance(tree.get(section), dict):
            tree[section].pop(field, None)


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
        elif fault["type"] == "missing":
            lines.append(f"{where}: is required and not given")
        elif fault["type"] == "list_type":
            lines.append(f"{where}: must be a list, got {fault['input']!r}; write [{fault['input']}]")
        else:
            lines.append(f"{where}: {fault['msg']}, got {fault['input']!r}")
    return "the configuration cannot be used:\n" + "\n".join(f"  - {line}" for line in lines)


def _section_at(path: Sequence[int | str]) -> type[BaseModel] | None:
    """The section at `path`; None if there is none."""
    model: type[BaseModel] = S2LConfig
    for name in path:
        field = model.model_fields.get(str(name))
        options = [field.annotation, *get_args(field.annotation)] if field else []
        found = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if found is None:
            return None
        model = found
    return model


def _field_names(path: Sequence[int | str]) -> list[str]:
    """Valid keys of the section at `path`."""
    return list((_section_at(path) or S2LConfig).model_fields)


def _is_text(path: Sequence[str]) -> bool:
    """Whether the field at `path` holds text (or nothing)."""
    section = _section_at(path[:-1])
    field = section.model_fields.get(path[-1]) if section else None
    return field is not None and (field.annotation is str or set(get_args(field.annotation)) == {str, type(None)})
