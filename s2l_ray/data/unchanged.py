"""Check that files have not changed since the run was planned, so that rows of two versions are never mixed."""

from __future__ import annotations

import datetime

import pyarrow.fs as pafs

from s2l_ray.data.units import ReadUnit, SourceError
from s2l_ray.storage.digests import digest_stream
from s2l_ray.storage.filesystems import absolute, open_filesystem

_CURE = "Do not change files while a run reads them; run the same command again to read the current version"


def check_unchanged(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> None:
    """Check size and modification time against the plan; call this before and after reading the rows.

    Raises:
        SourceError: the file is gone or was changed.
    """
    if not unit.size:  # not planned from a listing
        return
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise SourceError(
            f"{unit.origin} has disappeared since this run was planned, so its rows would be missing; put it back"
        )
    mtime_ns = info.mtime_ns or 0
    if info.size != unit.size:
        raise SourceError(
            f"{unit.origin} was changed while this run was reading it: it had {unit.size:,} bytes when the run was "
            f"planned and now has {info.size:,}, so rows of both versions would be mixed. {_CURE}"
        )
    if unit.mtime_ns and mtime_ns and mtime_ns != unit.mtime_ns:
        raise SourceError(
            f"{unit.origin} was changed while this run was reading it: the run was planned with its version of "
            f"{_time(unit.mtime_ns)}, the current one is of {_time(mtime_ns)}, so rows of both would be mixed. {_CURE}"
        )


def check_digest(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> None:
    """Check the digest of a file that this run wrote.

    Raises:
        SourceError: the file's bytes are not those that were written.
    """
    if not unit.digest:
        return
    with filesystem.open_input_stream(path, compression=None) as stream:
        found = digest_stream(stream).digest
    if found != unit.digest:
        raise SourceError(
            f"{unit.origin} is damaged: its digest is {found}, not {unit.digest} as written. Delete it and run "
            "the same command again to rebuild it"
        )


def unit_content(unit: ReadUnit) -> list[str]:
    """Return what identifies a whole file's content: kind, compression and digest, but neither name nor time.

    Raises:
        SourceError: the file cannot be read, or changes while it is read.
    """
    if unit.digest:
        return [unit.kind, unit.compression or "", unit.digest]
    try:
        filesystem, path, _ = open_filesystem(absolute(unit.uri))
        with filesystem.open_input_stream(path, compression=None) as stream:
            digest = digest_stream(stream).digest
        check_unchanged(unit, filesystem, path)
    except OSError as error:
        raise SourceError(
            f"{unit.origin} cannot be read ({error}), so its rows would be missing. Repair the file, or remove it"
        ) from error
    return [unit.kind, unit.compression or "", digest]


def _time(ns: int) -> str:
    return datetime.datetime.fromtimestamp(ns / 1e9, datetime.timezone.utc).isoformat(sep=" ", timespec="milliseconds")
