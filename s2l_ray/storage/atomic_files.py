"""Atomic file writes: a file appears under its name completely or not at all."""

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

# The leading dot also hides a killed writer's leftovers from Parquet readers (pyarrow and Ray Data skip such names).
TEMP_PREFIX = ".tmp-"
_COPY_CHUNK_BYTES = 8 << 20
_ABANDONED_AFTER_NS = 600 * 10**9


@contextlib.contextmanager
def local_atomic(path: str) -> Iterator[DigestWriter]:
    """Yield a stream whose file appears at `path` when the block ends normally; a killed process leaves a temp file."""
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
    """Upload to an object store, in which a file comes into being when its stream is closed."""
    with filesystem.open_output_stream(path, compression=None) as out:
        # In one call, so that an interrupt (Ctrl-C) between two parts cannot complete a truncated object.
        out.write(pa.py_buffer(content))


def put_by_move(filesystem: fs.FileSystem, path: str, content: bytes | mmap.mmap) -> None:
    """Write a temporary file in the folder of `path`, and move it to `path`."""
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
            # Some (HDFS) refuse to overwrite by moving. Between these two lines, neither version exists.
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
    """Return a new temporary name for `name`, which listings skip."""
    return f"{TEMP_PREFIX}{secrets.token_hex(6)}-{name[:50]}"


def is_temp(rel: str) -> bool:
    """Whether the path is, or is in, the leftover of an unfinished write."""
    return any(part.startswith(TEMP_PREFIX) for part in rel.split("/"))


def delete_unfinished_files(filesystem: fs.FileSystem, folder: str, shared: tuple[str, ...] = ()) -> None:
    """Delete the temporary files of killed writers in a folder to which only the caller writes now.

    Args:
        shared: subfolders to which others write as well; there, only files unchanged for some minutes are deleted.
    """
    shared_folders = tuple(f"{folder}/{name}/" for name in shared)
    before_ns = time.time_ns() - _ABANDONED_AFTER_NS
    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True)):
        if not info.base_name.startswith(TEMP_PREFIX):
            continue
        if not info.path.startswith(shared_folders) or (info.mtime_ns or 0) < before_ns:
            with contextlib.suppress(OSError):
                filesystem.delete_file(info.path)
