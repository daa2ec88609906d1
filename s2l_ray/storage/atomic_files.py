"""Files that appear under their name whole or not at all."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import time
from collections.abc import Iterator

import pyarrow as pa
from pyarrow import fs

from s2l_ray.storage.digests import DigestWriter

# A leading dot keeps a killed writer's leftovers away from Parquet readers too (pyarrow and Ray Data skip such names).
TEMP_PREFIX = ".tmp-"
_COPY_CHUNK_BYTES = 8 << 20
_ABANDONED_AFTER_NS = 600 * 10**9


@contextlib.contextmanager
def local_atomic(path: str) -> Iterator[DigestWriter]:
    """A stream to `path`, put there when the block ends without an exception; a killed process leaves a temp file."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temp = os.path.join(folder, temp_name(name))
    try:
        with DigestWriter(temp) as stream:
            yield stream
        _fsync(temp)  # by name: the block may have closed the stream itself (a TextIOWrapper does)
        os.replace(temp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise
    with contextlib.suppress(OSError):  # not every file system syncs folders
        _fsync(folder)


def put_object(filesystem: fs.FileSystem, path: str, content: bytes | mmap.mmap) -> None:
    """Upload to an object store, where a file exists from the closing of its stream on."""
    with filesystem.open_output_stream(path, compression=None) as out:
        # One call: an interrupt (Ctrl-C) cannot come between two parts and have a torn object completed.
        out.write(pa.py_buffer(content))


def put_by_move(filesystem: fs.FileSystem, path: str, content: bytes | mmap.mmap) -> None:
    """Write a temp file beside `path` and move it there."""
    folder, _, name = path.rpartition("/")
    temp = f"{folder}/{temp_name(name)}"
    try:
        filesystem.create_dir(folder, recursive=True)
        with filesystem.open_output_stream(temp, compression=None) as out:
            for start in range(0, len(content), _COPY_CHUNK_BYTES):
                out.write(content[start : start + _COPY_CHUNK_BYTES])
        try:
            filesystem.move(temp, path)
        except OSError:
            # Some (HDFS) refuse to move onto a file. Between these two lines neither version is there.
            filesystem.delete_file(path)
            filesystem.move(temp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            filesystem.delete_file(temp)
        raise


def _fsync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temp_name(name: str) -> str:
    """A fresh name beside `name` that listings leave out."""
    return f"{TEMP_PREFIX}{secrets.token_hex(6)}-{name[:50]}"


def is_temp(rel: str) -> bool:
    """Whether the path is, or lies in, what an unfinished write made."""
    return any(part.startswith(TEMP_PREFIX) for part in rel.split("/"))


def delete_unfinished_files(filesystem: fs.FileSystem, folder: str, shared: tuple[str, ...] = ()) -> None:
    """Delete the temp files of killed writers in a folder that only the caller writes to now.

    Args:
        shared: subfolders that others write to as well: there, what has not changed for some minutes.
    """
    shared_folders = tuple(f"{folder}/{name}/" for name in shared)
    before_ns = time.time_ns() - _ABANDONED_AFTER_NS
    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True)):
        if not info.base_name.startswith(TEMP_PREFIX):
            continue
        if not info.path.startswith(shared_folders) or (info.mtime_ns or 0) < before_ns:
            with contextlib.suppress(OSError):
                filesystem.delete_file(info.path)
