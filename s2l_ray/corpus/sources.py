"""Which files, and which slice of which file is one read task. Rows come out as dictionaries, one at a time."""

from __future__ import annotations

import csv
import datetime
import decimal
import glob
import io
import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from s2l_ray.corpus.formats import UnusableRow
from s2l_ray.run_folder.filesystems import absolute, is_uri, open_filesystem
from s2l_ray.run_folder.redact import strip_credentials

_EXTENSIONS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


class SourceError(ValueError):
    """The corpus's files cannot be found or are of no known kind; said before any node is started."""


@dataclass(frozen=True)
class ReadUnit:
    """What one task reads: a file, a byte range of a JSONL file, or a range of rows of a Hugging Face data set."""

    uri: str
    kind: str
    compression: str | None = None
    start: int = 0
    """First byte (JSONL), or first row (Hugging Face)."""
    end: int | None = None
    size: int = 0
    """Bytes of the whole file, for the fingerprint."""
    mtime_ns: int = 0

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


def resolve_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """File system and path of a local path or URI."""
    filesystem, path, _ = open_filesystem(absolute(uri))
    return filesystem, path


def plan_files(paths: list[str], bytes_per_task: int) -> list[ReadUnit]:
    """Expand files, folders and globs to read units, in a fixed order.

    Raises:
        SourceError: nothing found, or a file of unknown kind was named.
    """
    units: list[ReadUnit] = []
    for pattern in paths:
        found = _expand(pattern)
        if not found:
            raise SourceError(
                f"corpus.paths: nothing matches {pattern!r}, so there is no corpus; check path and pattern"
            )
        for uri, info in found:
            units.extend(_slices(uri, info, bytes_per_task))
    if not units:
        raise SourceError(f"corpus.paths: only empty files under {paths}; nothing can be selected from")
    return units


def _expand(pattern: str) -> list[tuple[str, pafs.FileInfo]]:
    filesystem, path = resolve_filesystem(pattern)
    remote = is_uri(pattern)
    if any(c in path for c in "*?["):
        if not remote:
            infos = filesystem.get_file_info(sorted(glob.glob(path, recursive=True)))
        else:
            infos = _remote_glob(filesystem, path)
    else:
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.Directory:
            infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
            infos = [i for i in infos if _kind_of(i.path)[0] and not posixpath.basename(i.path).startswith((".", "_"))]
        else:
            infos = [info]
    files = sorted((i for i in infos if i.type == pafs.FileType.File), key=lambda i: i.path)
    return [(_uri_like(pattern, i.path), i) for i in files]


def _remote_glob(filesystem: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    from fnmatch import fnmatch

    parts = path.split("/")
    first_wild = next(i for i, p in enumerate(parts) if any(c in p for c in "*?["))
    base = "/".join(parts[:first_wild])
    infos = filesystem.get_file_info(pafs.FileSelector(base, recursive=True))
    return [
        i
        for i in infos
        if ("**" in path or i.path.count("/") == path.count("/")) and fnmatch(i.path, path.replace("**/", "*"))
    ]


def _uri_like(pattern: str, path: str) -> str:
    """A URI for `path` on the file system of `pattern`, its options (endpoint, region) kept."""
    if not is_uri(pattern):
        return path
    scheme, rest = pattern.split("://", 1)
    query = "?" + rest.split("?", 1)[1] if "?" in rest and "=" in rest.split("?", 1)[1] else ""
    return f"{scheme}://{path.lstrip('/') if scheme != 'file' else path}{query}"


def _kind_of(path: str) -> tuple[str | None, str | None]:
    stem, ext = posixpath.splitext(path.lower())
    compression = _COMPRESSIONS.get(ext)
    if compression:
        ext = posixpath.splitext(stem)[1]
    return _EXTENSIONS.get(ext), compression


def _slices(uri: str, info: pafs.FileInfo, bytes_per_task: int) -> Iterator[ReadUnit]:
    kind, compression = _kind_of(info.path)
    if kind is None:
        raise SourceError(
            f"corpus.paths: {uri!r} is of no known kind ({', '.join(sorted(_EXTENSIONS))}; also .gz, .zst, .bz2). "
            "Rename or convert it, or narrow the pattern"
        )
    if info.size == 0:
        return
    size, mtime = info.size, info.mtime_ns or 0
    if kind != "jsonl" or compression:
        yield ReadUnit(uri, kind, compression, size=size, mtime_ns=mtime)
        return
    for start in range(0, size, bytes_per_task):
        yield ReadUnit(uri, kind, None, start, min(size, start + bytes_per_task), size, mtime)


def read_unit(unit: ReadUnit) -> Iterator[RawRow]:
    """Rows of one unit. A file that cannot be opened or decoded at all raises OSError, naming it."""
    filesystem, path = resolve_filesystem(unit.uri)
    try:
        if unit.kind == "parquet":
            yield from _read_parquet(unit, filesystem, path)
        elif unit.kind == "jsonl":
            yield from _read_jsonl(unit, filesystem, path)
        elif unit.kind == "json":
            yield from _read_json(unit, filesystem, path)
        elif unit.kind == "csv":
            yield from _read_csv(unit, filesystem, path)
        else:
            raise ValueError(unit.kind)
    except (OSError, pa.ArrowInvalid, EOFError) as error:
        raise OSError(
            f"{unit.origin} cannot be read ({error}); its rows would be missing. Repair it, or take it out of the corpus"
        ) from error


def _read_jsonl(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> Iterator[RawRow]:
    if unit.compression:
        with filesystem.open_input_stream(path, compression=unit.compression) as stream:
            for number, line in enumerate(io.BufferedReader(_Readable(stream), 1 << 20)):
                if line.strip():
                    yield _parse(unit.origin, number, line)
        return
    assert unit.end is not None
    with filesystem.open_input_file(path) as file:
        # A slice owns the lines that start in it. Starting one byte early tells whether `start` begins a line.
        position = max(0, unit.start - 1)
        file.seek(position)
        reader = io.BufferedReader(_Readable(file), 1 << 20)
        if unit.start:
            position += len(reader.readline())
        while position < unit.end:
            line = reader.readline()
            if not line:
                return
            if line.strip():
                yield _parse(unit.origin, position, line)
            position += len(line)


class _Readable(io.RawIOBase):
    """pyarrow stream → raw Python stream (its own readline is slow)."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _parse(origin: str, index: int, line: bytes) -> RawRow:
    try:
        text = line.decode("utf-8-sig" if index == 0 else "utf-8").strip()
    except UnicodeDecodeError:
        return RawRow(origin, index, None, "not UTF-8", line[:500].decode("utf-8", "replace"))
    try:
        row = json.loads(text)
    except ValueError as error:
        return RawRow(origin, index, None, f"bad JSON: {error}", text[:500])
    if not isinstance(row, dict):
        return RawRow(origin, index, None, f"the line holds {type(row).__name__}, not an object", text[:500])
    return RawRow(origin, index, row)


def _read_json(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> Iterator[RawRow]:
    """One array of objects; the whole file is in memory, so large corpora want JSONL."""
    with filesystem.open_input_stream(path, compression=unit.compression) as stream:
        data = stream.read()
    try:
        rows = json.loads(data.decode("utf-8-sig"))
    except ValueError:
        rows = None
    if isinstance(rows, list):
        for index, row in enumerate(rows):
            if isinstance(row, dict):
                yield RawRow(unit.origin, index, row)
            else:
                yield RawRow(
                    unit.uri, index, None, f"the element is {type(row).__name__}, not an object", str(row)[:500]
                )
        return
    # Many ".json" files are JSON lines in truth.
    for index, line in enumerate(data.splitlines()):
        if line.strip():
            yield _parse(unit.origin, index, line)


def _read_csv(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> Iterator[RawRow]:
    with filesystem.open_input_stream(path, compression=unit.compression) as stream:
        text = io.TextIOWrapper(io.BufferedReader(_Readable(stream), 1 << 20), encoding="utf-8-sig", newline="")
        reader = csv.DictReader(text, strict=True)
        for index, row in enumerate(reader):
            if None in row or any(v is None for v in row.values()):
                shown = str({k: v for k, v in row.items() if k is not None})[:500]
                yield RawRow(unit.origin, index, None, "the row has another number of fields than the header", shown)
            else:
                yield RawRow(unit.origin, index, dict(row))


def _read_parquet(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> Iterator[RawRow]:
    index = 0
    with filesystem.open_input_file(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                yield RawRow(unit.origin, index, row)
                index += 1


def row_to_json(row: dict[str, Any]) -> str:
    """The row as it travels. Dates and decimals travel as ISO text.

    Raises:
        UnusableRow: a value that JSON cannot hold (bytes, NaN).
    """
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False, default=_as_text)
    except (TypeError, ValueError) as error:
        raise UnusableRow(f"cannot travel: {error}; name the column in corpus.drop_columns") from None


def _as_text(value: Any) -> str:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__}")
