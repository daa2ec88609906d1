"""Translate errors of local file systems into errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from s2l_ray.storage.retry import StorageError, translate_disk_full
from s2l_ray.text.display import shorten

_PLACE = "choose another run_dir, or fix the existing one"


@contextlib.contextmanager
def disk_faults_named(uri: str, doing: str) -> Iterator[None]:
    """Raise StorageError, with file, consequence and remedy, in place of errors of the operating system in the block.

    A missing file remains a FileNotFoundError, which callers handle.

    Args:
        doing: `writing`, `reading`, ….
    """
    try:
        with translate_disk_full(uri):
            yield
    except (StorageError, FileNotFoundError):
        raise
    except OSError as error:
        is_folder = error.errno is None and "is a directory" in str(error)  # pyarrow's wording
        cause = _cause(errno.EISDIR if is_folder else error.errno, uri)
        if cause is None:
            raise
        raise StorageError(
            f"{doing} {shorten(uri, 400)} failed: {cause}. Completed work is kept; then run the same command again"
        ) from error


def _cause(number: int | None, uri: str) -> str | None:
    if number == errno.EROFS:
        return f"the file system is mounted read-only. Remount it for writing, or {_PLACE.partition(',')[0]}"
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"this user (id {os.getuid()}) may not do that, or the file is made immutable. Give the user the right to, "
            f"or {_PLACE.partition(',')[0]}"
        )
    if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY):
        return f"{_in_the_way(uri)}. Move it away if it is not needed, or {_PLACE.partition(',')[0]}"
    if number in (errno.EMFILE, errno.ENFILE):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"too many files are open at once (this process may have {soft:,}). Raise the limit with `ulimit -n "
            f"{max(soft, min(hard, 65536)) if hard > soft else 65536}`"
        )
    if number == errno.ENAMETOOLONG:
        return "a name in it is too long for the file system (usually 255 bytes per name). Choose shorter names"
    if number == errno.ELOOP:
        return f"its links form a cycle. {_PLACE.capitalize()}"
    if number == errno.EFBIG:
        return "the file would be larger than the system allows (`ulimit -f`). Raise the limit"
    if number in (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT, errno.EREMOTEIO):
        return f"the disk or the network mount fails ({os.strerror(number)}). Look at the mount and the system's log"
    return None


def _in_the_way(uri: str) -> str:
    path = Path(uri)
    for above in reversed(path.parents):
        if above.exists() and not above.is_dir():
            return f"{shorten(str(above), 300)} is a file, where a folder should be"
    if (path.is_symlink() and not path.exists()) or any(p.is_symlink() and not p.exists() for p in path.parents):
        return "a link in its path leads nowhere"
    if path.is_dir():
        return f"{path} is a folder, where a file should be"
    return f"{path} is a file, where a folder should be" if path.exists() else "something else has this name"
