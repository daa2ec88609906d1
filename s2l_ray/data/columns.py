"""Column types of the user's rows, inferred while reading them; they decide how `subset.parquet` stores the columns.

A column's type is the narrowest that holds all its values. Types are joined by a rule that is commutative, associative
and idempotent, so that the outcome depends only on the rows: not on files, their order, or which task read them.
Columns that Parquet cannot represent (mixed types, empty objects, objects with differing keys, numbers beyond 64 bits,
deep nesting) are stored there as JSON text; `subset.jsonl` keeps every row as it was.
"""

from __future__ import annotations

import datetime
import decimal
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from s2l_ray.data.units import MAX_COLUMNS, SourceError, clip, clip_names

WEIGHT, STAGE = "s2l_weight", "s2l_stage"
OWN_COLUMNS = ("s2l_id", "s2l_cluster", "s2l_rank", "s2l_loss_first", "s2l_loss_last", WEIGHT, STAGE)
"""Columns that every subset adds to its rows, so that the user's rows cannot have columns with these names."""
CONVERSATIONS = ("messages", "conversations")
"""Columns in which keys that a turn lacks become null in Parquet, as training programs expect."""
_MAX_DEPTH = 32
_MAX_FIELDS = 200
_SHAPES = 1000
_EXACT_IN_FLOAT = 2**53

# A type is one of these, a ListType or an ObjectType.
NULL, BOOL, INT, INT64, FLOAT, STRING, JSON = "null", "bool", "int", "int64", "float", "string", "json"
"""`int` fits into a float exactly, `int64` does not; `json` is for values that no Parquet column can represent."""


@dataclass(frozen=True)
class ListType:
    element: Type


@dataclass(frozen=True)
class ObjectType:
    """Type of objects; `fields` are (name, lowest position in an object, type)."""

    fields: tuple[tuple[str, int, Type], ...]
    is_ragged: bool = False
    """Whether some objects lack some of the keys."""

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self.fields)


Type = str | ListType | ObjectType


def join(a: Type, b: Type) -> Type:
    """Return the narrowest type that holds the values of both."""
    if a == b or b == NULL:
        return a
    if a == NULL:
        return b
    if isinstance(a, ListType) and isinstance(b, ListType):
        element = join(a.element, b.element)
        return JSON if element == JSON else ListType(element)
    if isinstance(a, ObjectType) and isinstance(b, ObjectType):
        return _join_objects(a, b)
    pair = {a, b}
    if pair == {INT, INT64}:
        return INT64
    return FLOAT if pair == {INT, FLOAT} else JSON


def _join_objects(a: ObjectType, b: ObjectType) -> Type:
    fields = {name: (position, kind) for name, position, kind in a.fields}
    other = {name for name, _, _ in b.fields}
    is_ragged = a.is_ragged or b.is_ragged or fields.keys() != other
    for name, position, kind in b.fields:
        if name in fields:
            before, known = fields[name]
            kind, position = join(known, kind), min(before, position)
        fields[name] = (position, kind)
    if len(fields) > _MAX_FIELDS or any(kind == JSON for _, kind in fields.values()):
        return JSON
    return ObjectType(_ordered(fields), is_ragged)


def _ordered(fields: dict[str, tuple[int, Type]]) -> tuple[tuple[str, int, Type], ...]:
    order = sorted(fields, key=lambda name: (fields[name][0], name))
    return tuple((name, *fields[name]) for name in order)


def type_of(value: Any, depth: int = 0) -> Type:
    """Return the type of one value as it is stored (dates and decimals as text)."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, str | datetime.date | datetime.time | decimal.Decimal):
        return STRING
    if isinstance(value, int):
        if abs(value) <= _EXACT_IN_FLOAT:
            return INT
        return INT64 if -(2**63) <= value < 2**63 else JSON
    if isinstance(value, float):
        return FLOAT
    if depth >= _MAX_DEPTH:
        return JSON
    if isinstance(value, dict):
        fields = {name: (at, type_of(v, depth + 1)) for at, (name, v) in enumerate(value.items())}
        if not fields or len(fields) > _MAX_FIELDS or any(kind == JSON for _, kind in fields.values()):
            return JSON  # Parquet has no object without fields
        return ObjectType(_ordered(fields))
    element: Type = NULL
    for item in value:
        element = join(element, type_of(item, depth + 1))
        if element == JSON:
            return JSON
    return ListType(element)


_EXACT = {STRING: str, FLOAT: float, BOOL: bool}


def _holds(kind: Type, value: Any) -> bool:
    """Whether the type obviously holds the value; this shortcut is several times cheaper than inferring and joining.

    An object with exactly the known keys, in their order, cannot lower any key's position.
    """
    if value is None:
        return True
    if isinstance(kind, str):
        return _EXACT.get(kind) is type(value)
    if isinstance(kind, ListType):
        if type(value) is not list:
            return False
        element = kind.element
        for item in value:  # noqa: SIM110 (a generator would take twice the time)
            if not _holds(element, item):
                return False
        return True
    if type(value) is not dict or tuple(value) != kind.names:
        return False
    for name, _, field_kind in kind.fields:  # noqa: SIM110
        if not _holds(field_kind, value[name]):
            return False
    return True


@dataclass
class Columns:
    """Columns of some rows: their types, and the lowest position of each in a row."""

    types: dict[str, Type] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    _shapes: set[tuple[str, ...]] = field(default_factory=set, compare=False, repr=False)

    def add(self, row: dict[str, Any]) -> None:
        """Include the columns of a row.

        Raises:
            SourceError: there are more columns than a table can have.
        """
        shape = tuple(row)
        if shape not in self._shapes:
            self._place(enumerate(shape))
            if len(self._shapes) < _SHAPES:
                self._shapes.add(shape)
        types = self.types
        for name, value in row.items():
            known = types[name]
            if known != JSON and not _holds(known, value):
                types[name] = join(known, type_of(value))

    def merge(self, other: Columns) -> None:
        """Include the columns of other rows."""
        self._place((position, name) for name, position in other.positions.items())
        for name, kind in other.types.items():
            self.types[name] = join(self.types[name], kind)

    def _place(self, positions: Iterable[tuple[int, str]]) -> None:
        for position, name in positions:
            self.types.setdefault(name, NULL)
            self.positions[name] = min(position, self.positions.get(name, position))
        if len(self.types) > MAX_COLUMNS:
            some = ", ".join(repr(clip(name, 40)) for name in sorted(self.types)[:5])
            raise SourceError(
                f"the rows have more than {MAX_COLUMNS:,} different columns ({some}, …), which no table can hold; "
                "column names seem to contain data. Put those values into one column, or name the columns in "
                "corpus.drop_columns"
            )

    def names(self) -> list[str]:
        """Return the names in an order that depends only on the rows: by position, then by name."""
        return sorted(self.types, key=lambda name: (self.positions[name], name))

    def to_plain(self) -> list[list[Any]]:
        """Return [[name, position, type]] as plain data, for a manifest."""
        return [[name, self.positions[name], _to_plain(self.types[name])] for name in self.names()]

    @classmethod
    def from_plain(cls, plain: list[list[Any]]) -> Columns:
        types = {name: _from_plain(kind) for name, _, kind in plain}
        return cls(types, {name: position for name, position, _ in plain})

    def arrow_types(self) -> dict[str, pa.DataType | None]:
        """Map each column, in order, to its type in Parquet; None: stored as JSON text."""
        return {name: arrow_type(self.types[name], name in CONVERSATIONS) for name in self.names()}

    def warnings(self) -> list[str]:
        """Return warnings about how `subset.parquet` stores the columns."""
        as_text = [name for name, kind in self.arrow_types().items() if kind is None]
        ragged = [name for name in CONVERSATIONS if _is_ragged(self.types.get(name, NULL)) and name not in as_text]
        lines = []
        if as_text:
            lines.append(
                f"subset.parquet will hold the columns {clip_names(as_text)} as JSON text, because Parquet cannot "
                "represent their values (mixed types, empty objects, or objects with differing keys); subset.jsonl "
                "keeps them unchanged"
            )
        if ragged:
            lines.append(
                f"subset.parquet will hold null in {clip_names(ragged)} for keys that a turn lacks; subset.jsonl keeps "
                "the turns unchanged"
            )
        return lines


def _is_ragged(kind: Type) -> bool:
    if isinstance(kind, ListType):
        return _is_ragged(kind.element)
    return isinstance(kind, ObjectType) and (kind.is_ragged or any(_is_ragged(k) for _, _, k in kind.fields))


def _to_plain(kind: Type) -> Any:
    if isinstance(kind, ListType):
        return {"list": _to_plain(kind.element)}
    if isinstance(kind, ObjectType):
        fields = [[name, position, _to_plain(k)] for name, position, k in kind.fields]
        return {"object": fields, "is_ragged": kind.is_ragged}
    return kind


def _from_plain(kind: Any) -> Type:
    if isinstance(kind, str):
        return kind
    if "list" in kind:
        return ListType(_from_plain(kind["list"]))
    return ObjectType(tuple((n, p, _from_plain(k)) for n, p, k in kind["object"]), kind["is_ragged"])


_ARROW = {NULL: pa.null(), BOOL: pa.bool_(), INT: pa.int64(), INT64: pa.int64(), FLOAT: pa.float64(),
          STRING: pa.string()}  # fmt: skip


def arrow_type(kind: Type, may_be_ragged: bool) -> pa.DataType | None:
    """Return the Parquet type for a column type; None if Parquet cannot represent the values."""
    if isinstance(kind, ListType):
        element = arrow_type(kind.element, may_be_ragged)
        return None if element is None else pa.list_(element)
    if isinstance(kind, ObjectType):
        if kind.is_ragged and not may_be_ragged:
            return None
        fields = [(name, arrow_type(k, may_be_ragged)) for name, _, k in kind.fields]
        return None if any(k is None for _, k in fields) else pa.struct(fields)
    return _ARROW.get(kind)
