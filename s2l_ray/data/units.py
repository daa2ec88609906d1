"""Units and results of read tasks: read units, raw rows, and the errors for unreadable files and unusable rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s2l_ray.errors import DataError, UserError
from s2l_ray.text.display import MAX_VALUE, shorten
from s2l_ray.text.redact import strip_credentials

MAX_COLUMNS = 2000
"""Limit on columns: with more, the column names are data, and a Parquet file takes minutes to read."""


class SourceError(UserError):
    """Error for files that cannot be found or read, or are of no supported kind; names them and the remedy."""


class UnusableRow(DataError):
    """Error for a row that cannot be used; the row goes to the quarantine table with this reason."""


def clip(value: object, limit: int = MAX_VALUE) -> str:
    """Return `value` as text of at most about `limit` characters, with the middle of longer text left out."""
    return shorten(str(value), limit)


def clip_names(names: list[str], limit: int = 20) -> str:
    """Return a list of column names as text, with only the first `limit` names."""
    shown = ", ".join(repr(clip(name, 60)) for name in names[:limit])
    return f"[{shown}{f', … {len(names):,} in all' if len(names) > limit else ''}]"


@dataclass(frozen=True)
class ReadUnit:
    """Unit of reading: a file, or a byte range of an uncompressed JSONL file."""

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
    """Digest of a file that this run wrote; empty for the user's own files."""

    @property
    def origin(self) -> str:
        """URI without credentials, as shown to users."""
        return strip_credentials(self.uri)


@dataclass(frozen=True)
class OutOfRange:
    """Placeholder for a value that Python cannot represent, such as a date before year 1; its column may be dropped."""

    reason: str

    def __str__(self) -> str:
        raise ValueError(self.reason)


@dataclass(frozen=True)
class RawRow:
    """A row with its origin, or the reason why it cannot be read."""

    origin: str
    index: int
    """Row number in the file; for slices of JSONL, the byte at which the line starts."""
    row: dict[str, Any] | None
    reason: str | None = None
    text: str = ""
    """Text of a row that could not be read."""
    is_typed: bool = False
    """Whether the row is from a table with typed columns, whose objects have null for keys that only others have."""
