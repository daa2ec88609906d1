"""Translates pydantic's validation errors into messages with the place, the value and what is valid there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.section import Contradictions, above_limit
from s2l_ray.config.subset_names import parse_budget
from s2l_ray.errors import shown
from s2l_ray.text.display import shorten
from s2l_ray.text.nearest import nearest


def explain(error: ValidationError, beside: Iterable[Sequence[Any]] = ()) -> list[str]:
    """One line per fault.

    Args:
        beside: places whose faults have already been reported; faults at or below them, and contradictions of the
            sections that contain them, are left out.
    """
    known = [tuple(map(str, place)) for place in beside]
    lines: list[str] = []
    for fault in error.errors(include_url=False):
        place = tuple(map(str, fault["loc"]))
        of_a_section = isinstance(fault.get("ctx", {}).get("error"), Contradictions)
        if not any(place[: len(k)] == k or (of_a_section and k[: len(place)] == place) for k in known):
            lines += _lines_of(fault)
    return lines


def where(place: Iterable[Any]) -> str:
    """The place as `section.field`."""
    return shorten(".".join(shorten(str(name), 60) for name in place), 200)


def _lines_of(fault: Any) -> list[str]:
    place, kind, value = fault["loc"], fault["type"], shown(fault["input"])
    at = where(place)
    if kind == "extra_forbidden":
        names = _field_names(place[:-1])
        near = nearest(str(place[-1]), names, 0.5)
        cure = f"did you mean {near!r}?" if near else f"valid here: {', '.join(names)}"
        return [f"{at}: unknown key; {cure}"]
    if kind == "value_error":
        said = getattr(fault["ctx"]["error"], "found", [str(fault["ctx"]["error"])])
        return [(at + ": " if at else "") + one for one in said]
    if kind == "missing":
        return [f"{at}: required but not set"]
    if kind == "list_type":
        return [f"{at}: must be a list, got {value}; write [{_as_item(fault['input'])}]"]
    if kind == "model_type":
        cure = "leave it out for the defaults" if fault["input"] is None else f"write {at}: and its settings below it"
        got = "nothing" if fault["input"] is None else value
        return [f"{at}: must be a section with settings, got {got}; {cure}"]
    if (excess := above_limit(field_at(place), kind)) is not None:
        return [f"{at}: {value} {excess}"]
    return [f"{at}: {shorten(fault['msg'], 300)}, got {value}"]


def _as_item(value: Any) -> str:
    """As an item of a list in YAML; a percentage as the share that budgets are."""
    if isinstance(value, str) and value.strip().endswith("%"):
        with contextlib.suppress(ValueError):
            return repr(parse_budget("".join(value.split())))
    return shown_bare(value)


def shown_bare(value: Any) -> str:
    """The value as in YAML, which needs no quotes around text."""
    return shorten(value, 200) if isinstance(value, str) else shown(value)


def section_at(path: Sequence[int | str], root: type[BaseModel] = S2LConfig) -> type[BaseModel] | None:
    """The section at `path` below `root`; None if there is none."""
    model = root
    names = [str(name) for name in path]
    while names:
        field = model.model_fields.get(names.pop(0))
        annotation: Any = field.annotation if field else None
        if get_origin(annotation) is dict:  # of sections, by names of the user's
            if not names:
                return None
            names.pop(0)
            annotation = get_args(annotation)[1]
        options = [annotation, *get_args(annotation)]
        found = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if found is None:
            return None
        model = found
    return model


def field_at(path: Sequence[int | str]) -> FieldInfo | None:
    """The field at `path`, or the one that holds the list or mapping there."""
    for end in range(len(path), 0, -1):
        section = section_at(path[: end - 1])
        if section is not None and str(path[end - 1]) in section.model_fields:
            return section.model_fields[str(path[end - 1])]
    return None


def is_text(path: Sequence[str]) -> bool:
    """Whether the field at `path` holds text (or nothing)."""
    section = section_at(path[:-1])
    field = section.model_fields.get(path[-1]) if section else None
    return field is not None and (field.annotation is str or set(get_args(field.annotation)) == {str, type(None)})


def _field_names(path: Sequence[int | str]) -> list[str]:
    """Valid keys of the section at `path`."""
    return list((section_at(path) or S2LConfig).model_fields)
