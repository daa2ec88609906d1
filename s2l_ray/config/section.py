"""What all sections of the configuration have in common."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationInfo,
    field_validator,
    model_validator,
)

from s2l_ray.errors import UserError, shown
from s2l_ray.text.redact import strip_credentials

_STORED = {"stored": True}


def _serialize_location(value: Any, info: SerializationInfo) -> Any:
    return strip_credentials(value) if info.context == _STORED and isinstance(value, str) else value


_LOCATION = PlainSerializer(_serialize_location)
Location = Annotated[str, _LOCATION]
"""A path or URI: what is stored of it lacks credentials."""
OptionalLocation = Annotated[str | None, _LOCATION]


class Contradictions(UserError):
    """What of a section does not go together, all of it."""

    def __init__(self, *found: str) -> None:
        super().__init__("; ".join(found))
        self.found = found


class Section(BaseModel):
    # Frozen: validation never rewrites what the user wrote, and nothing changes it later.
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    max_text: ClassVar[int] = 4096
    """Longest text in a field (characters), which is the longest path on Linux."""

    def contradictions(self) -> Iterator[str]:
        """What does not go together in this section, one sentence each with values and cure."""
        yield from ()

    @field_validator("*", mode="before")
    @classmethod
    def _no_other_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Before pydantic reads true as 1."""
        kinds = _kinds_of(cls, str(info.field_name))
        leaves = list(_leaves(value))
        if bool not in kinds and Any not in kinds and {int, float} & kinds and any(isinstance(v, bool) for v in leaves):
            raise ValueError("holds true or false, a boolean, where a number is wanted; give the number")
        longest = max((len(v) for v in leaves if isinstance(v, str)), default=0)
        if longest > cls.max_text:
            raise ValueError(f"a text of {longest:,} characters is longer than {cls.max_text:,}; shorten it")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Any:
        found = list(self.contradictions())
        if found:
            raise Contradictions(*found)
        return self

    def stored(self, **options: Any) -> dict[str, Any]:
        """The fields as plain data for whoever reads the run: as they were given, but no credentials in locations.

        Args:
            options: as for `model_dump`.
        """
        return self.model_dump(mode="json", context=_STORED, **options)


def refuse_repeated(where: str, values: Iterable[Any]) -> None:
    """Raises ValueError for a value that is listed twice: one would be lost, and most likely another one was meant.

    1, 1.0 and true differ: a count, a share and a switch.
    """
    seen: set[str] = set()
    for value in values:
        if repr(value) in seen:
            raise ValueError(f"{where} lists {shown(value)} twice, which would count once; remove one, or correct it")
        seen.add(repr(value))


def bounded(default: Any, le: float, because: str, **bounds: Any) -> Any:
    """A number's field with an upper bound, and what the bound is for.

    Args:
        bounds: `ge`, `gt`, as in pydantic.
    """
    return Field(default=default, le=le, json_schema_extra={"because": because}, **bounds)


@functools.cache
def _kinds_of(section: type[Section], name: str) -> frozenset[Any]:
    """All types that the field's annotation mentions."""

    def walk(annotation: Any) -> Iterator[Any]:
        yield annotation
        for inner in get_args(annotation):
            yield from walk(inner)

    kinds = walk(section.model_fields[name].annotation)
    return frozenset(kind for kind in kinds if isinstance(kind, type) or kind is Any)


def _leaves(value: Any) -> Iterator[Any]:
    """What is not a list or mapping, within at most two of them."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    if inner is None:
        yield value
        return
    for one in inner:
        yield from one if isinstance(one, list | tuple) else [one]
