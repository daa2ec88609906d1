"""The base class and field types shared by all sections of the configuration."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, get_args, get_origin

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
from pydantic.fields import FieldInfo

from s2l_ray.errors import UserError, shown
from s2l_ray.text.redact import strip_credentials

_STORED = {"stored": True}
_SWITCHES = ("true", "false", "t", "f", "yes", "no", "y", "n", "on", "off")
"""Texts that pydantic takes for true or false, besides numbers."""
_ABOVE = ("less_than_equal", "finite_number", "int_parsing_size")
"""What pydantic calls the faults of numbers that are too large."""


def _serialize_location(value: Any, info: SerializationInfo) -> Any:
    return strip_credentials(value) if info.context == _STORED and isinstance(value, str) else value


_LOCATION = PlainSerializer(_serialize_location)
Location = Annotated[str, _LOCATION]
"""A path or URI, stored without its credentials."""
OptionalLocation = Annotated[str | None, _LOCATION]


class Contradictions(UserError):
    """All settings of a section that contradict each other."""

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
        """Settings of this section that contradict each other, one sentence each with the values and the cure."""
        yield from ()

    @field_validator("*", mode="before")
    @classmethod
    def _no_other_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses what pydantic would read as something else (true as 1, 1 as true, 0 as a date, "2" as 2), and long
        texts."""
        kinds = _kinds_of(cls, str(info.field_name))
        if Any not in kinds and any(issubclass(kind, Section) for kind in kinds):
            return value  # a section's fields are validated by itself
        leaves = list(_leaves(value))
        if Any not in kinds:
            if bool not in kinds and {int, float} & kinds and any(isinstance(v, bool) for v in leaves):
                raise ValueError("is true or false, a boolean, but must be a number; give the number")
            if not {int, float} & kinds and any(isinstance(v, int | float) and not isinstance(v, bool) for v in leaves):
                if bool in kinds:
                    others = "true, false or text" if str in kinds else "true or false"
                    raise ValueError(f"is the number {shown(value)}, but must be {others}; give one of them")
                if datetime.date in kinds:
                    raise ValueError(f"is the number {shown(value)}, but must be a date; write it as 2025-01-31")
            if not _takes_text(cls, str(info.field_name)):
                for text in (one for one in leaves if isinstance(one, str)):
                    _refuse_quoted(text, kinds)
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
        """The fields as plain data to store with the run: as given, but with credentials removed from locations.

        Args:
            options: as for `model_dump`.
        """
        return self.model_dump(mode="json", context=_STORED, **options)


def refuse_repeated(where: str, values: Iterable[Any]) -> None:
    """Raises ValueError if a value is listed twice: one would be lost, and most likely another value was meant.

    1, 1.0 and true differ: a count, a share and a switch.
    """
    seen: set[str] = set()
    for value in values:
        if repr(value) in seen:
            raise ValueError(f"{where} lists {shown(value)} twice, but it would count once; remove or correct one")
        seen.add(repr(value))


def bounded(default: Any, le: float, because: str, **bounds: Any) -> Any:
    """A numeric field with an upper limit and the reason for it, which error messages give.

    Args:
        because: the reason in a few words, without punctuation: `no node has that many CPUs`.
        bounds: `ge`, `gt`, as in pydantic.
    """
    return Field(default=default, le=le, json_schema_extra={"because": because}, **bounds)


def above_limit(field: FieldInfo | None, kind: str) -> str | None:
    """`is above the limit of 1,024 (reason)`; None if pydantic's fault `kind` is another one or no reason is known."""
    extra = field.json_schema_extra if field is not None else None
    if field is None or kind not in _ABOVE or not isinstance(extra, dict) or "because" not in extra:
        return None
    limit = next(bound.le for bound in field.metadata if hasattr(bound, "le"))
    return f"is above the limit of {limit:,} ({extra['because']})"


@functools.cache
def _kinds_of(section: type[Section], name: str) -> frozenset[Any]:
    """All types that the field's annotation mentions."""

    # A Literal's values count as their types: `zero_stage` is a number.
    return frozenset(kind if isinstance(kind, type) or kind is Any else type(kind) for kind in _named_in(section, name))


@functools.cache
def _takes_text(section: type[Section], name: str) -> bool:
    """Whether any text may be a value of the field, not only words such as `auto`."""
    return str in _named_in(section, name)


def _named_in(section: type[Section], name: str) -> list[Any]:
    """The types, and the values of Literals, that the field's annotation mentions for values; keys are always text."""

    def walk(annotation: Any) -> Iterator[Any]:
        yield annotation
        inner = get_args(annotation)
        for one in inner[1:] if get_origin(annotation) is dict else inner:
            yield from walk(one)

    return [kind for kind in walk(section.model_fields[name].annotation) if get_origin(kind) is None]


def _refuse_quoted(text: str, kinds: frozenset[Any]) -> None:
    """Raises ValueError for a number, or true or false, in quotes: those make it a text in YAML, in JSON, and for the
    configuration's schema."""
    try:
        float(text)
    except ValueError:
        is_number = False
    else:
        is_number = True
    if is_number and {int, float} & kinds:
        raise ValueError(f"is the text {shown(text)}, but must be a number; write it without quotes")
    if bool in kinds and (is_number or text.strip().lower() in _SWITCHES):
        raise ValueError(f"is the text {shown(text)}, but must be true or false; write it without quotes")
    if is_number and datetime.date in kinds:
        raise ValueError(f"is the text {shown(text)}, but must be a date; write it as 2025-01-31")


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values that are neither list nor mapping, within at most two levels of these."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    if inner is None:
        yield value
        return
    for one in inner:
        yield from one if isinstance(one, list | tuple) else [one]
