"""What read tasks are made of and what they give: units, raw rows, and the error when there is nothing to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s2l_ray.errors import UserError
from s2l_ray.run_folder.redact import strip_credentials


class SourceError(UserError):
    """The corpus's files cannot be found or read, or are of no known kind; says which and what would do."""


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
class RawRow:
    """A row, or the reason why there is none, with its origin."""

    origin: str
    index: int
    """Row number in the file; for slices of JSONL the byte at which the line starts, so that it is exact."""
    row: dict[str, Any] | None
    reason: str | None = None
    text: str = ""
    """What stood there, when it could not be read."""
