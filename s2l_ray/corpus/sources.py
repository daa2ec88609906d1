"""Which files, and which slice of which file is one read task; and the rows of one."""

from __future__ import annotations

import csv
import glob
import posixpath
from collections.abc import Iterator
from fnmatch import fnmatchcase
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs as pafs

from s2l_ray.corpus.readers import read_csv, read_json, read_jsonl, read_parquet
from s2l_ray.corpus.unchanged import check_digest, check_unchanged
from s2l_ray.corpus.units import RawRow, ReadUnit, SourceError
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


def resolve_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """File system and path of a local path or URI."""
    filesystem, path, _ = open_filesystem(absolute(uri))
    return filesystem, path


def plan_files(paths: list[str], bytes_per_task: int, setting: str = "corpus.paths") -> list[ReadUnit]:
    """Expand files, folders and globs to read units, in a fixed order.

    Args:
        setting: which named the paths, for messages.

    Raises:
        SourceError: nothing found, or a file of unknown kind was named.
    """
    units: list[ReadUnit] = []
    for pattern in paths:
        found = _expand(pattern, setting)
        if not found:
            raise SourceError(
                f"{setting}: nothing matches {strip_credentials(pattern)!r}, so there is nothing to read; "
                "check path and pattern"
            )
        for uri, info in found:
            units.extend(_slices(uri, info, bytes_per_task, setting))
    if not units:
        raise SourceError(
            f"{setting}: only empty files under {[strip_credentials(p) for p in paths]}; there is nothing to read"
        )
    return units


def _expand(pattern: str, setting: str) -> list[tuple[str, pafs.FileInfo]]:
    if pattern.startswith("file://") and "?" in pattern:
        raise SourceError(f"{setting}: in the URI {pattern!r} the path ends at the ?; write %3F, or a plain path")
    filesystem, path = resolve_filesystem(pattern)
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.Directory:
        infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
        infos = [i for i in infos if _kind_of(i.path)[0] and not _is_hidden(i.path[len(path) :])]
    elif info.type == pafs.FileType.NotFound and any(c in path for c in "*?["):
        local = isinstance(filesystem, pafs.LocalFileSystem)
        found = sorted(glob.glob(path, recursive=True)) if local else []
        infos = filesystem.get_file_info(found) if local else _remote_glob(filesystem, path)
    else:
        infos = [info]
    files = sorted((i for i in infos if i.type == pafs.FileType.File), key=lambda i: i.path)
    return [(_uri_like(pattern, path, i.path), i) for i in files]


def _is_hidden(path: str) -> bool:
    """What other programs put beside the data: .ipynb_checkpoints, _temporary, _SUCCESS."""
    return any(part.startswith((".", "_")) for part in path.split("/"))


def _remote_glob(filesystem: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    parts = path.split("/")
    first_wild = next(i for i, p in enumerate(parts) if any(c in p for c in "*?["))
    base = "/".join(parts[:first_wild])
    infos = filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
    return [i for i in infos if _matches(i.path.split("/"), parts)]


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """`*` stays within a folder, `**` is any number of folders, as with local files."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        num_folders = next((i for i, part in enumerate(parts) if part.startswith(".")), len(parts))
        return any(_matches(parts[i:], pattern[1:]) for i in range(num_folders + 1))
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _uri_like(pattern: str, base: str, path: str) -> str:
    """A URI for `path`, on the file system where `pattern` is `base`; its credentials, endpoint and region kept."""
    if not is_uri(pattern) or pattern.startswith("file://"):
        return path
    parts = urlsplit(pattern)
    own = unquote(parts.path).strip("/")
    host = base.strip("/")[: len(base.strip("/")) - len(own)].strip("/")  # the bucket, which the URI has elsewhere
    rest = path.strip("/").removeprefix(host).lstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, "/" + quote(rest, safe="/=+,@~"), parts.query, parts.fragment))


def _kind_of(path: str) -> tuple[str | None, str | None]:
    stem, ext = posixpath.splitext(path.lower())
    compression = _COMPRESSIONS.get(ext)
    if compression:
        ext = posixpath.splitext(stem)[1]
    return _EXTENSIONS.get(ext), compression


def _slices(uri: str, info: pafs.FileInfo, bytes_per_task: int, setting: str) -> Iterator[ReadUnit]:
    kind, compression = _kind_of(info.path)
    if kind is None:
        raise SourceError(
            f"{setting}: {strip_credentials(uri)!r} is of no known kind ({', '.join(sorted(_EXTENSIONS))}; "
            "also .gz, .zst, .bz2). Rename or convert it, or narrow the pattern"
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
    """Rows of one unit.

    Raises:
        SourceError: the file cannot be opened or decoded at all, or is not the one that was planned with.
    """
    filesystem, path = resolve_filesystem(unit.uri)
    try:
        check_unchanged(unit, filesystem, path)
        check_digest(unit, filesystem, path)
        if unit.kind == "parquet":
            yield from read_parquet(unit, filesystem, path)
        elif unit.kind == "jsonl":
            yield from read_jsonl(unit, filesystem, path)
        elif unit.kind == "json":
            yield from read_json(unit, filesystem, path)
        elif unit.kind == "csv":
            yield from read_csv(unit, filesystem, path)
        else:
            raise ValueError(unit.kind)
        check_unchanged(unit, filesystem, path)
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{unit.origin} cannot be read ({error}); its rows would be missing. "
            "Repair it, or take it out of the corpus"
        ) from error
