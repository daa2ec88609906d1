"""YAML file or recipe name + dotted overrides → S2LConfig, with errors that give the value, the fault and the cure."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from s2l_ray.config.faults import explain, is_text, where
from s2l_ray.config.parse_yaml import MAX_BYTES, MAX_DEPTH, NotYaml, PlainCopy, parse_yaml
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.stored import state_of
from s2l_ray.config.targets import follow_selection, subset_names
from s2l_ray.errors import UserError, first_line, listed, shown
from s2l_ray.storage.filesystems import absolute, is_uri, open_filesystem
from s2l_ray.text.nearest import nearest
from s2l_ray.text.redact import redact_text

logger = logging.getLogger(__name__)


class ConfigError(UserError):
    """The configuration cannot be used; the message lists every fault found."""


def list_recipes() -> list[str]:
    """List the names of the recipes that ship with the package."""
    folder = resources.files("s2l_ray.config") / "recipes"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def recipe_summary(name: str) -> str:
    """One line saying what the recipe is for: the first comment in its file that is meant for people.

    Raises:
        ConfigError: there is no such recipe.
    """
    comments = [line[1:].strip() for line in _text_of(name).decode().splitlines() if line.startswith("#")]
    return next(line for line in comments if not line.startswith("yaml-language-server"))


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> S2LConfig:
    """Load and validate a configuration.

    Args:
        source: a recipe's name (`quickstart`), a YAML file's path, or a mapping.
        overrides: `section.field=value` strings, values in YAML (`selection.budgets=[0.05,0.11]`); text fields take
            the text verbatim (`corpus.template.response={impression}`), or quoted, with escapes.

    Raises:
        ConfigError: unknown recipe, file, key or invalid value; all errors in one message.
    """
    given = PlainCopy(source if isinstance(source, Mapping) else _read(str(source)))
    tree, wrong = given.data or {}, given.faults
    parsed, faults = _parse_overrides(overrides)
    faults += _lost(parsed)
    before = copy.deepcopy(tree)
    for path, value in parsed:
        _remove_replaced(tree, before, path, value)
    for path, value in parsed:
        plain = PlainCopy(value, tuple(path))
        _apply(tree, path, plain.data)
        wrong |= plain.faults
    if parsed and not faults and not any(path[:2] in (["target"], ["target", "subsets"]) for path, _ in parsed):
        _follow_selection(before, tree)
    faults += [f"{where(place)}: {said}" if place else said for place, said in wrong.items()]
    if () not in wrong:  # otherwise only some of the values are known
        try:
            config = S2LConfig.model_validate(tree)
            if not faults:
                return config
        except ValidationError as error:
            faults += explain(error, beside=wrong)
    raise ConfigError("the configuration cannot be used:\n" + "\n".join(f"  - {fault}" for fault in listed(faults)))


def _parse_overrides(overrides: Sequence[str]) -> tuple[list[tuple[list[str], Any]], list[str]]:
    """Parse overrides → (paths and values, faults)."""
    parsed, faults = [], []
    for override in overrides:
        try:
            parsed.append(_parse_override(override))
        except ConfigError as error:
            faults.append(str(error))
    return parsed, faults


def to_yaml(config: S2LConfig) -> str:
    """The resolved configuration as YAML that `load_config` reads back; credentials in URIs are left out.

    People who can read a run must not get them; people who repeat it have them in the environment.
    """
    return yaml.safe_dump(config.stored(), sort_keys=False, allow_unicode=True)


def _read(source: str) -> dict[str, Any]:
    text = _text_of(source)
    if state_of(text) == "changed":
        logger.warning(
            "%s was changed after s2l wrote it (its digest does not fit its settings): it is used as it is, and may "
            "lack settings if it is damaged. If you edited it, delete its first line",
            shown(source),
        )
    try:
        tree = parse_yaml(text)
    except NotYaml as error:
        raise ConfigError(f"{shown(source)} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{shown(source)} holds {type(tree).__name__}, not a mapping of sections; see `s2l recipes`")
    return tree


def _text_of(source: str) -> bytes:
    """The bytes of a recipe or file; PyYAML detects the encoding and reports what is wrong with it."""
    if source in list_recipes():
        return (resources.files("s2l_ray.config") / "recipes" / f"{source}.yaml").read_bytes()
    try:
        if is_uri(source):
            filesystem, path, _ = open_filesystem(absolute(source))
            with filesystem.open_input_stream(path, compression=None) as stream:
                return bytes(stream.read(MAX_BYTES + 1))
        if os.path.isdir(source):
            raise ConfigError(f"{shown(source)} is a folder; give the YAML file in it, or a recipe: {_recipes()}")
        if os.path.isfile(source):
            with open(source, "rb") as file:
                return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{shown(source)} cannot be read: {error.strerror or first_line(error)}") from None
    near = nearest(source, list_recipes())
    hint = f" Did you mean {near!r}?" if near else ""
    raise ConfigError(
        f"{shown(source)} is neither a file nor a recipe, so there is nothing to run.{hint} Recipes: {_recipes()}"
    )


def _recipes() -> str:
    return ", ".join(list_recipes())


def _parse_override(override: str) -> tuple[list[str], Any]:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path) or len(path) > MAX_DEPTH:
        raise ConfigError(f"override {shown(redact_text(override))} is not of the form section.field=value")
    # A text field takes the text verbatim, so that `{findings}` or `1e4` need no second pair of quotes inside the
    # shell's.
    if is_text(path) and text.strip().lower() not in ("", "null", "~") and text.strip()[0] not in "'\"":
        return path, text
    try:
        return path, parse_yaml(text) if text.strip() else None
    except NotYaml as error:
        raise ConfigError(f"override {shown(redact_text(override))}: the value is not valid YAML: {error}") from None


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
}
for _section in ("proxy", "target"):
    _REPLACES |= {
        f"{_section}.model": (f"{_section}.from_config", f"{_section}.train_tokenizer"),
        f"{_section}.from_config": tuple(
            f"{_section}.{name}" for name in ("model", "revision", "gguf_file", "random_weights")
        ),
        f"{_section}.tokenizer": (f"{_section}.train_tokenizer",),
        f"{_section}.train_tokenizer": (f"{_section}.tokenizer",),
    }


def _remove_replaced(tree: dict[str, Any], before: dict[str, Any], path: list[str], value: Any) -> None:
    """Remove settings of the file that an override replaces.

    Args:
        before: the configuration as in the file, before any override.
    """
    chosen = ".".join(path[:2])
    if value is None or chosen not in _REPLACES:
        return
    for other in _REPLACES[chosen]:
        section, field = other.split(".")
        given = before.get(section)
        if not isinstance(given, dict):
            continue
        # The tokenizer of a model from scratch would be foreign to other weights; one for random weights stays.
        if field == "train_tokenizer" and path[1] == "model" and not given.get("from_config"):
            continue
        tree[section].pop(field, None)


def _lost(parsed: list[tuple[list[str], Any]]) -> list[str]:
    """A sentence for each override that a later one would silently replace."""
    return [
        f"the override {'.'.join(earlier)}=… would be lost: {'.'.join(later)}=… comes after it; give one of them"
        for number, (later, _) in enumerate(parsed)
        for earlier, _ in parsed[:number]
        if earlier[: len(later)] == later
    ]


def _follow_selection(before: dict[str, Any], tree: dict[str, Any]) -> None:
    """Adapt the file's `target.subsets`, which are named after its own selection; see `follow_selection`."""
    made = follow_selection(before, tree)
    if made is None:
        return
    names, lost = made
    if lost:
        known = [name for name in subset_names(tree) if name not in names]
        raise ConfigError(
            f"target.subsets: {', '.join(listed(lost))} of the configuration's file is not a subset of the selection "
            "as changed on the command line, and it is unclear which to fine-tune on instead; add what you want of "
            f"target.subsets=[{','.join(listed(names + known))}]"
        )
    if names != tree["target"]["subsets"]:
        was = ", ".join(tree["target"]["subsets"])
        logger.warning("target.subsets follows the selection: [%s], in the file [%s]", ", ".join(names), was)
        tree["target"]["subsets"] = names
