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

_ELSEWHERE = "choose another run_dir"
_LEADS_NOWHERE = "a link in its path leads nowhere"


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
        cause = cause_of(errno.EISDIR if is_folder else error.errno, uri)
        if cause is None:
            raise
        raise StorageError(
            f"{doing} {shorten(uri, 400)} failed: {cause}. Completed work is kept; then run the same command again"
        ) from error


def cause_of(number: int | None, uri: str, else_: str = _ELSEWHERE) -> str | None:
    """Say why the operating system refuses a file, and what to do; None: nothing is known about this error.

    Args:
        number: of the error (`errno`).
        else_: what would do instead of mending it.
    """
    if number == errno.EROFS:
        return f"the file system is mounted read-only. Remount it for writing, or {else_}"
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"this user (id {os.geteuid()}) may not do that, or the file is made immutable. Give the user the right, "
            f"or {else_}"
        )
    if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY):
        return f"{_in_the_way(uri)}. Move it away if it is not needed, or {else_}"
    if number in (errno.EMFILE, errno.ENFILE):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"too many files are open at once (this process may have {soft:,}). Raise the limit with `ulimit -n "
            f"{max(soft, min(hard, 65536)) if hard > soft else 65536}`"
        )
    if number == errno.ENAMETOOLONG:
        return "a name in it is too long for the file system (usually 255 bytes per name). Choose shorter names"
    if number == errno.ELOOP:
        return f"its links form a cycle. Mend them, or {else_}"
    if number == errno.EFBIG:
        return "the file would be larger than the system allows (`ulimit -f`). Raise the limit"
    if number == errno.ENOENT and _in_the_way(uri) == _LEADS_NOWHERE:
        return f"{_LEADS_NOWHERE}. Correct it, or {else_}"
    if number in (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT, errno.EREMOTEIO):
        return f"the disk or the network mount fails ({os.strerror(number)}). Look at the mount and the system's log"
    return None


def _in_the_way(uri: str) -> str:
    path = Path(uri)
    for above in reversed(path.parents):
        if above.exists() and not above.is_dir():
            return f"{shorten(str(above), 300)} is a file, where a folder should be"
    if (path.is_symlink() and not path.exists()) or any(p.is_symlink() and not p.exists() for p in path.parents):
        return _LEADS_NOWHERE
    if path.is_dir():
        return f"{path} is a folder, where a file should be"
    return f"{path} is a file, where a folder should be" if path.exists() else "something else has this name"
