"""Facets: columns with few values (topic, language, skill), by which examples are inspected, reported and balanced.

They are stored as dictionary columns `facet:<column>` beside the ids, in the corpus's parts and in the `ids.parquet` of
its subsets. `corpus.facets` names them; by default, the first text columns with few enough values are taken.

Memory: for each column at most `_FOUND_VALUES` values (`_NAMED_VALUES` if it is named) of at most `_MAX_CHARS`
characters each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.data.formats import used_columns
from s2l_ray.data.units import SourceError, UnusableRow, clip_names

PREFIX = "facet:"
MAX_FOUND = 8
_FOUND_VALUES = 200
_NAMED_VALUES = 1000
_MAX_CHARS = 100
_TYPE = pa.dictionary(pa.int32(), pa.string())


def facet_text(value: Any, column: str) -> str | None:
    """Convert a value to the text of a facet; None stays None.

    Raises:
        UnusableRow: the value is not text, a whole number or a truth value, or it is too long.
    """
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value) if isinstance(value, bool | int) else None
    if text is None:
        raise UnusableRow(
            f"column {column!r} holds {type(value).__name__}, which cannot be a facet; correct corpus.facets"
        )
    if len(text) > _MAX_CHARS:
        raise UnusableRow(f"column {column!r} holds more than {_MAX_CHARS} characters, which cannot be a facet")
    return text


@dataclass
class FacetValues:
    """Values of those columns of some rows that can be facets."""

    named: tuple[str, ...] | None = None
    """`corpus.facets`; None: any text column may be a facet."""
    seen: dict[str, set[str] | None] = field(default_factory=dict)
    """Column → its values so far; None: the column cannot be a facet."""

    def add(self, row: dict[str, Any]) -> None:
        """Include the values of a row.

        Raises:
            UnusableRow: a named column contains a value that no facet can have; none of the row's values count.
        """
        if self.named is None:
            self._add_found(row)
            return
        texts = {name: facet_text(row[name], name) for name in self.named if name in row}
        for name, text in texts.items():
            self._note(name, text, _NAMED_VALUES)

    def _add_found(self, row: dict[str, Any]) -> None:
        seen = self.seen
        for name, value in row.items():
            if value is None or (name in seen and seen[name] is None):
                continue
            if type(value) is not str or len(value) > _MAX_CHARS:
                seen[name] = None
            else:
                self._note(name, value, _FOUND_VALUES)

    def _note(self, name: str, text: str | None, limit: int) -> None:
        values = self.seen.setdefault(name, set())
        if values is None or text is None:
            return
        values.add(text)
        if len(values) > limit:
            self.seen[name] = None

    def merge(self, other: FacetValues) -> None:
        """Include the values of other rows."""
        limit = _FOUND_VALUES if self.named is None else _NAMED_VALUES
        for name, theirs in other.seen.items():
            mine = self.seen.setdefault(name, set())
            if mine is not None:
                both = None if theirs is None else mine | theirs
                self.seen[name] = both if both is not None and len(both) <= limit else None

    def to_plain(self) -> dict[str, list[str] | None]:
        return {name: None if values is None else sorted(values) for name, values in self.seen.items()}

    @classmethod
    def from_plain(cls, plain: dict[str, list[str] | None]) -> FacetValues:
        return cls(None, {name: None if values is None else set(values) for name, values in plain.items()})


def choose_facets(values: FacetValues, order: Sequence[str], num_rows: int, config: CorpusConfig) -> dict[str, int]:
    """Choose the facets, and return the number of values of each.

    Args:
        order: all columns, in the order of the rows.
        num_rows: number of usable rows.

    Raises:
        SourceError: a column named in `corpus.facets` does not exist, or has too many values.
    """
    if config.facets is None:
        # Leave out columns used as text and the source. On average, a value should occur in several rows.
        others = {*used_columns(config), config.source_column}
        found = [(name, values.seen.get(name)) for name in order if name not in others]
        fit = {name: len(seen) for name, seen in found if seen is not None and 2 <= len(seen) <= num_rows // 4}
        return dict(list(fit.items())[:MAX_FOUND])
    for name in config.facets:
        if name not in values.seen:
            raise SourceError(
                f"corpus.facets names {name!r}, which no row has, so it cannot be a facet; choose from the columns "
                f"{clip_names(list(order))}"
            )
        if values.seen[name] is None:
            raise SourceError(
                f"corpus.facets names {name!r}, which has more than {_NAMED_VALUES:,} values, too many to report or "
                "balance by; leave it out"
            )
    return {name: len(values.seen[name] or ()) for name in config.facets}


def facet_columns(rows: pa.ChunkedArray, names: Sequence[str]) -> dict[str, pa.Array]:
    """Extract the facet columns from rows in JSON text: column name → (N,) values."""
    if not names:
        return {}
    values: list[list[str | None]] = [[] for _ in names]
    for text in rows.to_pylist():
        row = json.loads(text)
        for name, column in zip(names, values, strict=True):
            column.append(facet_text(row.get(name), name))
    return {PREFIX + name: pa.array(v, pa.string()).cast(_TYPE) for name, v in zip(names, values, strict=True)}
