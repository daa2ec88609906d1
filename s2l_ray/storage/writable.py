"""Find out whether a folder can be written to, by writing to it: permissions alone do not tell (root, read-only mounts,
a file in place of a parent, a bucket's policy)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence

from s2l_ray.errors import first_line
from s2l_ray.storage.atomic_files import TEMP_PREFIX, temp_name
from s2l_ray.storage.disk_faults import cause_of
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import FULL, StorageError


def check_writable(
    storage: Storage, what: str, else_: str, folders: Sequence[str] = (), files: Sequence[str] = ()
) -> None:
    """Refuse a folder in which no file can be created. What is created to find out is deleted again; a folder that does
    not exist yet is not created.

    Args:
        what: what cannot be written to, for messages: `run_dir='runs/my'`.
        else_: what would do instead of mending it: `set another run_dir`.
        folders: folders in it to which the caller also writes; those that do not exist are skipped.
        files: files in it that the caller extends; those that do not exist are skipped.

    Raises:
        StorageError: it cannot be written to; the message says why and what to do.
    """
    place = storage.uri
    try:
        if not storage.is_local:
            _try_remote(storage)
            return
        for rel in ("", *folders):
            place = str(storage.local_path(rel))
            if rel == "" or os.path.lexists(place):
                _try_local(place)
        for rel in files:
            place = str(storage.local_path(rel))
            if os.path.lexists(place):
                with open(place, "rb+"):
                    pass
    except OSError as error:
        raise StorageError(f"{what} cannot be written to: {_why(error, place, else_)}") from error


def _why(error: OSError, place: str, else_: str) -> str:
    if isinstance(error, StorageError):  # of a remote file system: it says what would help
        return f"{first_line(error)}. Or {else_}"
    if error.errno in FULL:
        return f"no space is left there, or the quota is used up. Free or add space, or {else_}"
    cause = cause_of(error.errno, place, else_)
    return cause or f"the system allows no new file there ({error.strerror or first_line(error)}); {else_}"


def _try_remote(storage: Storage) -> None:
    name = temp_name("probe")
    storage.write_bytes(name, b"s2l")
    storage.delete(name)


def _try_local(path: str) -> None:
    """Create a file, and the folders above it that do not exist, in a temporary folder beside them."""
    missing: list[str] = []
    there = path
    while not os.path.lexists(there):
        there, name = os.path.split(there)
        missing.insert(0, name)
    temporary = tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=there)
    try:
        folder = os.path.join(temporary, *missing)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "probe"), "wb") as file:
            file.write(b"s2l")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
