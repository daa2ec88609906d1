"""What read tasks are made of and what they give: units, raw rows, and the error when there is nothing to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s2l_ray.errors import DataError, UserError
from s2l_ray.text.display import MAX_VALUE, shorten
from s2l_ray.text.redact import strip_credentials

MAX_COLUMNS = 2000
"""More would not be a table any more, but data in the names of columns; a Parquet file of them takes minutes."""


class SourceError(UserError):
    """The corpus's files cannot be found or read, or are of no known kind; says which and what would do."""


class UnusableRow(DataError):
    """The row goes to the quarantine table with this reason."""


def clip(value: object, limit: int = MAX_VALUE) -> str:
    """`value` as text of a length that people read: the middle of a longer one is left out."""
    return shorten(str(value), limit)


def clip_names(names: list[str], limit: int = 20) -> str:
    """A list of column names as text; the first ones of many."""
    shown = ", ".join(repr(clip(name, 60)) for name in names[:limit])
    return f"[{shown}{f', … {len(names):,} in all' if len(names) > limit else ''}]"


@dataclass(frozen=True)
class ReadUnit:
    """What one task reads: a file, or a byte range of an uncompressed JSONL file."""

    uri: str
    kind: str
    compression: str | None = None
    start: int = 0
    """First byte (JSONL)."""
    end: int | None = None
    size: int = 0
    """Bytes of the whole file, for the fingerprint."""
    mtime_ns: int = 0
    digest: str = ""
    """Of a file that this run wrote; empty for the user's own."""

    @property
    def origin(self) -> str:
        """What rows are said to come from: the URI without credentials."""
        return strip_credentials(self.uri)


@dataclass(frozen=True)
class OutOfRange:
    """What stands in a row for a value that Python cannot hold, as a date before year 1. The column may be dropped."""

    reason: str

    def __str__(self) -> str:
        raise ValueError(self.reason)


@dataclass(frozen=True)
class RawRow:
    """A row, or the reason why there is none, with its origin."""

    origin: str
    index: int
    """Row number in the file; for slices of JSONL the byte at which the line starts, so that it is exact."""
    row: dict[str, Any] | None
    reason: str | None = None
    text: str = ""
    """What stood there, when it could not be read."""
    is_typed: bool = False
    """From a table of typed columns, whose objects have null for keys that they lack and others have."""
