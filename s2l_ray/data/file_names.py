"""Interpret file names: a file's kind, whether it is data at all, and whether it matches a pattern."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

_EXTENSIONS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
KINDS = f"{', '.join(sorted(_EXTENSIONS))}; also .gz, .zst, .bz2"
RUN_MARKS = ("run.json", "metrics.jsonl", "locks")
"""Names of which one, together with `config.yaml`, makes a folder a run folder."""


@dataclass(frozen=True, order=True)
class FoundFile:
    path: str
    size: int
    mtime_ns: int


@dataclass
class Found:
    files: dict[str, FoundFile] = field(default_factory=dict)
    run_folders: set[str] = field(default_factory=set)
    """Run folders, which the search does not enter."""
    unread: list[str] = field(default_factory=list)
    """Files in a folder that are of no supported kind, or only describe data."""


def kind_of(path: str) -> tuple[str | None, str | None]:
    """Return (kind, compression) according to the file's name; None where unknown or uncompressed."""
    stem, ext = posixpath.splitext(path.lower())
    compression = _COMPRESSIONS.get(ext)
    if compression:
        ext = posixpath.splitext(stem)[1]
    return _EXTENSIONS.get(ext), compression


def is_hidden(name: str) -> bool:
    """Whether a name is one that other programs put beside data: .ipynb_checkpoints, _temporary, _SUCCESS."""
    return name.startswith((".", "_"))


def is_wild(part: str) -> bool:
    return any(c in part for c in "*?[")


def matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether path components match a pattern: `*` stays within a folder, `**` is any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        num_folders = next((i for i, part in enumerate(parts) if part.startswith(".")), len(parts))
        return any(matches(parts[i:], pattern[1:]) for i in range(num_folders + 1))
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])
