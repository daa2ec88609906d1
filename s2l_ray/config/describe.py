"""Descriptions of every configuration field, for `s2l explain`, the manual's reference, and editors."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from s2l_ray.config.faults import section_at
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.selection import options_class
from s2l_ray.errors import UserError, shown
from s2l_ray.text.nearest import nearest

_OPTIONS = ["selection", "options"]
_MOST_NEAR = 4
"""Fields of one name in several sections that a message lists at most."""
SCHEMA_URI = "https://json-schema.org/draft/2020-12/schema"

_SECTIONS = {
    "": "One run.",
    "corpus": "Where the examples come from, and how a row becomes a prompt and a response.",
    "proxy": "The small model trained on the whole corpus.",
    "trajectories": "How often every example is scored while the proxy is trained.",
    "clusters": "How trajectories are grouped.",
    "selection": "Which subsets are selected.",
    "gradients": "Whether gradients are alike within clusters, and how close each subset's mean is to the corpus's.",
    "heldout": "Examples that neither the proxy nor a target is trained on.",
    "target": "The model fine-tuned on the subsets.",
    "evaluation": "Which test questions the targets answer, how, and what is reported.",
    "sweep": "Which budgets, selectors, seeds and settings `s2l sweep` tries.",
    "loggers": "Where metrics go besides `metrics.jsonl`.",
    "resources": "Which cluster resources the run may use.",
    "estimates": "What a dry run assumes when it cannot measure.",
}


@dataclass(frozen=True)
class Described:
    """Description of a field or a section."""

    path: str
    """Dotted path, such as `selection.budgets`."""
    type: str
    """Type in words: `list of numbers`, `one of epochs, same_steps`, …; `section` for a section."""
    default: str
    """Default as YAML; empty for a section or a required field."""
    bounds: str
    """Limits, such as `at least 1, at most 1,000`; may be empty."""
    text: str
    """Meaning, with the unit."""

    def plain(self) -> dict[str, str]:
        """The description as JSON data."""
        return dict(self.__dict__)


def describe(path: str) -> list[Described]:
    """The field at `path`; or the section there, followed by its fields. `""`: the whole configuration.

    An item of a list or mapping (`heldout.files.test`) is described by its field, and what is below
    `selection.options.SELECTOR` by the selector's options.

    Raises:
        UserError: there is none; names the nearest.
    """
    names = path.split(".") if path else []
    above = 3 if names[:2] == _OPTIONS and len(names) > 2 else 0
    root = options_class(names[2]) if above else S2LConfig
    for end in range(len(names), above - 1, -1):
        here, below = ".".join(names[:end]), names[above:end]
        is_whole = end == len(names)
        if is_whole and (section := section_at(below, root)) is not None:
            return [_section(here, section), *_fields(here, section)]
        parent = section_at(below[:-1], root) if below else None
        if parent is not None and below[-1] in parent.model_fields:
            found = _field(here, parent.model_fields[below[-1]])
            if is_whole or _holds_items(found.type):
                return [found]
            break
    near = _nearest_paths(path, root, ".".join(names[:above]))
    hint = f"Did you mean {' or '.join(near)}?" if near else "`s2l explain` lists the sections"
    raise UserError(f"{shown(path)} is not a field of the configuration, so there is nothing to explain. {hint}")


def _holds_items(type: str) -> bool:
    """Whether what is below a field of this type is the user's own. Named sections have fields that are described."""
    return ("list of" in type or "mapping of" in type) and type != "mapping of names to section"


def _nearest_paths(path: str, root: type[BaseModel], at: str) -> list[str]:
    """The fields of this name in whatever section; else the one with the most similar path."""
    known = [one.path for one in _walk(at, root)]
    name = path.rpartition(".")[2].lower()
    same = [one for one in known if one.rpartition(".")[2] == name]
    near = nearest(path, known)
    return same[:_MOST_NEAR] or ([near] if near else [])


def describe_all() -> list[Described]:
    """Every section and field, each section followed by its fields and subsections."""
    return list(_walk("", S2LConfig))


def _walk(path: str, section: type[BaseModel]) -> Iterator[Described]:
    if path:
        yield _section(path, section)
    inner = []
    for name, field in section.model_fields.items():
        here = f"{path}.{name}" if path else name
        below = section_at([name], section)
        if below is None:
            yield _field(here, field)
        else:
            inner.append((here, below))
    for here, below in inner:
        yield from _walk(here, below)


def _fields(path: str, section: type[BaseModel]) -> Iterator[Described]:
    for name, field in section.model_fields.items():
        here = f"{path}.{name}" if path else name
        below = section_at([name], section)
        yield _field(here, field) if below is None else _section(here, below)


def _section(path: str, section: type[BaseModel]) -> Described:
    parent = section_at(path.split(".")[:-1]) or S2LConfig
    own = parent.model_fields.get(path.rpartition(".")[2])
    text = _SECTIONS.get(path) or (own.description if own is not None else None) or _first_line(section)
    return Described(path, "section", "", "", one_line(text))


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().partition("\n")[0]


def _field(path: str, field: FieldInfo) -> Described:
    default = "" if field.is_required() else _as_yaml(field.get_default(call_default_factory=True))
    return Described(
        path, type_name(field.annotation), default, _bounds(field), _in_yaml(one_line(field.description or ""))
    )


def _in_yaml(text: str) -> str:
    """The description with Python's None replaced by YAML's null."""
    return re.sub(r"\bNone\b", "null", text)


def one_line(text: str) -> str:
    return " ".join(text.split())


def _as_yaml(value: Any) -> str:
    if isinstance(value, BaseModel):
        return ""
    plain = value.isoformat() if hasattr(value, "isoformat") else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", Any: "anything"}
_PLURALS = {"text": "texts", "whole number": "whole numbers", "number": "numbers"}


def type_name(annotation: Any) -> str:
    """Describe a type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _NAMES:
        return _NAMES[annotation]
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        names = list(dict.fromkeys(map(type_name, inner)))
        if {"whole number", "number"} <= set(names):
            names.remove("whole number")
        return " or ".join(names)
    if origin is list:
        kind = type_name(inner[0])
        return f"list of {_PLURALS.get(kind, kind)}"
    if origin is dict:
        return f"mapping of names to {type_name(inner[1])}"
    if hasattr(annotation, "__metadata__"):
        return type_name(annotation.__origin__)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return str(getattr(annotation, "__name__", annotation))


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _bounds(field: FieldInfo) -> str:
    said = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [
        f"{word} {_number(getattr(m, name))}" for m in field.metadata for name, word in said.items() if hasattr(m, name)
    ]
    return ", ".join(found)


def json_schema() -> dict[str, Any]:
    """JSON schema of a configuration file, for editors; what it accepts may still be refused for contradictions."""
    schema: dict[str, Any] = S2LConfig.model_json_schema()
    head = {"$schema": SCHEMA_URI, "title": "Configuration of s2l_ray"}
    return head | _tidied({name: value for name, value in schema.items() if name != "title"})


def _tidied(node: Any) -> Any:
    """The schema without titles and the limits' reasons, which editors do not use; descriptions on one line."""
    if isinstance(node, list):
        return [_tidied(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {name: value for name, value in node.items() if name != "because"}
    if isinstance(kept.get("title"), str):
        del kept["title"]
    if isinstance(kept.get("description"), str):
        kept["description"] = _in_yaml(one_line(kept["description"]))
    return {name: _tidied(value) for name, value in kept.items()}
