"""Whether a file that is read is the one that the run was planned with: rows must come from no other version."""

from __future__ import annotations

import datetime

import pyarrow.fs as pafs

from s2l_ray.data.units import ReadUnit, SourceError
from s2l_ray.storage.digests import digest_stream
from s2l_ray.storage.filesystems import absolute, open_filesystem

_CURE = "Leave the file alone while a run reads it, and run the same command again: it is then read as it is now"


def check_unchanged(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> None:
    """Call it before and after the rows are read: size and time of the last change are still those of the plan.

    Raises:
        SourceError: the file is gone or was changed.
    """
    if not unit.size:  # not planned from a listing
        return
    info = filesystem.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        raise SourceError(f"{unit.origin} is gone since this run was planned; its rows would be missing. Put it back")
    mtime_ns = info.mtime_ns or 0
    if info.size != unit.size:
        raise SourceError(
            f"{unit.origin} was changed while this run was reading it: it had {unit.size:,} bytes when the run was "
            f"planned and now has {info.size:,}, so rows of both versions would be mixed. {_CURE}"
        )
    if unit.mtime_ns and mtime_ns and mtime_ns != unit.mtime_ns:
        raise SourceError(
            f"{unit.origin} was changed while this run was reading it: the plan was made of its version of "
            f"{_time(unit.mtime_ns)}, the current one is of {_time(mtime_ns)}, so rows of both would be mixed. {_CURE}"
        )


def check_digest(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> None:
    """Files in the run folder are known by their digest too.

    Raises:
        SourceError: other bytes than were written.
    """
    if not unit.digest:
        return
    with filesystem.open_input_stream(path, compression=None) as stream:
        found = digest_stream(stream).digest
    if found != unit.digest:
        raise SourceError(
            f"{unit.origin} is damaged: its digest is {found}, {unit.digest} was written. Delete it and run the same "
            "command again: it is rebuilt"
        )


def unit_content(unit: ReadUnit) -> list[str]:
    """What a whole file is read as: kind, compression, digest of the bytes; neither name nor time.

    Raises:
        SourceError: it cannot be read, or is changed meanwhile.
    """
    if unit.digest:
        return [unit.kind, unit.compression or "", unit.digest]
    try:
        filesystem, path, _ = open_filesystem(absolute(unit.uri))
        with filesystem.open_input_stream(path, compression=None) as stream:
            digest = digest_stream(stream).digest
        check_unchanged(unit, filesystem, path)
    except OSError as error:
        raise SourceError(f"{unit.origin} cannot be read ({error}). Repair it, or take it out") from error
    return [unit.kind, unit.compression or "", digest]


def _time(ns: int) -> str:
    return datetime.datetime.fromtimestamp(ns / 1e9, datetime.timezone.utc).isoformat(sep=" ", timespec="milliseconds")
