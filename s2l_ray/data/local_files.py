"""Find the local files that a path, folder or glob names.

Neither pyarrow's listing nor `glob` is used, because both silently skip unreadable folders and broken links.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable

from s2l_ray.data.file_names import RUN_MARKS, Found, FoundFile, is_hidden, is_wild, kind_of, matches
from s2l_ray.data.saved_datasets import METADATA, SPLITS, STATE, check_present, files_of_state, only_split
from s2l_ray.data.units import SourceError, clip
from s2l_ray.storage.filesystems import absolute, is_uri


def find_local(path: str, run_uri: str | None) -> Found:
    found = Found()
    try:
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise SourceError(_dangling(path)) from None
        parts = path.split("/")
        wild = next((i for i, part in enumerate(parts) if is_wild(part)), None)
        if wild is not None:
            base = "/".join(parts[:wild]) or "/"
            if os.path.isdir(base) and not _is_within_run(base, found):
                _glob_local(base, parts[wild:], (_identity(os.stat(base)),), found)
        return found
    if stat.S_ISDIR(info.st_mode):
        if not _is_within_run(path, found):
            _walk_local(path, (_identity(info),), found)
        return found
    own = None if run_uri is None or is_uri(run_uri) else os.path.realpath(absolute(run_uri))
    if own is not None and is_below(os.path.realpath(path), own):
        found.run_folders.add(own)
    else:
        _take_local(path, found)
    return found


_Identity = tuple[int, int]
"""Device and inode; those of the parent folders reveal links that lead back to one of them."""


def _walk_local(folder: str, above: tuple[_Identity, ...], found: Found) -> None:
    """Add all data files below `folder`, without those that other programs put beside the data."""
    names = _names(folder)
    if SPLITS in names:
        split = only_split(_content(posixpath.join(folder, SPLITS)), folder)
        _descend(posixpath.join(folder, split), above, found, lambda here, at: _walk_local(here, at, found))
        return
    saved = files_of_state(_content(posixpath.join(folder, STATE)), folder) if STATE in names else None
    if saved is not None:
        if not saved:
            raise SourceError(f"{clip(folder)!r} is a saved dataset without rows; name another")
        check_present(saved, names, folder)
        for name in saved:
            _take_listed(posixpath.join(folder, name), found)
        found.unread += [posixpath.join(folder, n) for n in names if n not in (*saved, *METADATA) and not is_hidden(n)]
        return
    for name in names:
        path = posixpath.join(folder, name)
        if is_hidden(name):
            continue
        if os.path.isdir(path):
            _descend(path, above, found, lambda here, at: _walk_local(here, at, found))
        elif kind_of(name)[0] is not None:
            _take_listed(path, found)
        else:
            found.unread.append(path)


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise SourceError(
            f"{clip(path)!r} cannot be read ({error.strerror}), so its data would be missing; give this user access"
        ) from error


def _glob_local(folder: str, pattern: list[str], above: tuple[_Identity, ...], found: Found) -> None:
    """Add the files that a pattern matches: `*` stays within a folder, `**` is any number of folders; see `matches`."""
    head, rest = pattern[0], pattern[1:]
    if head == "**" and rest:
        _glob_local(folder, rest, above, found)
    for name in _names(folder) if is_wild(head) else [head]:
        path = posixpath.join(folder, name)
        if head == "**":
            wanted, then = not name.startswith("."), pattern
        else:
            wanted, then = matches([name], [head]) and os.path.lexists(path), rest
        if not wanted:
            continue
        if os.path.isdir(path):
            if then:
                _descend(path, above, found, lambda here, at, then=then: _glob_local(here, then, at, found))
            elif kind_of(name)[0] is not None:  # as written by Spark: a folder `x.parquet` with parts in it
                _descend(path, above, found, lambda here, at: _walk_local(here, at, found))
        elif not rest:
            _take_listed(path, found)


def _identity(info: os.stat_result) -> _Identity:
    return info.st_dev, info.st_ino


def _descend(path: str, above: tuple[_Identity, ...], found: Found, visit: Callable[..., None]) -> None:
    identity = _identity(os.stat(path))
    within = _is_within_run(path, found) if os.path.islink(path) else _is_run_folder(path)
    if within and not os.path.islink(path):
        found.run_folders.add(path)
    if not within and identity not in above:
        visit(path, (*above, identity))


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise SourceError(
            f"the folder {clip(folder)!r} cannot be listed ({error.strerror}), so its files would be missing; "
            "give this user access to it, or narrow the path"
        ) from error


def _is_run_folder(folder: str) -> bool:
    return os.path.exists(posixpath.join(folder, "config.yaml")) and any(
        os.path.exists(posixpath.join(folder, mark)) for mark in RUN_MARKS
    )


def run_folder_around(folder: str) -> str | None:
    """Return the local run folder that `folder` is or is in, by its own path or after resolving links."""
    for path in dict.fromkeys((posixpath.abspath(folder), os.path.realpath(folder))):
        while True:
            if _is_run_folder(path):
                return path
            if path == posixpath.dirname(path):
                break
            path = posixpath.dirname(path)
    return None


def _is_within_run(folder: str, found: Found) -> bool:
    around = run_folder_around(folder)
    if around is not None:
        found.run_folders.add(around)
    return around is not None


def is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _take_listed(path: str, found: Found) -> None:
    """Add a file found in a folder or by a glob, unless a link leads to it into a run folder."""
    if posixpath.basename(path) in METADATA:
        found.unread.append(path)
        return
    if os.path.islink(path) and os.path.exists(path) and _is_within_run(os.path.dirname(os.path.realpath(path)), found):
        return
    _take_local(path, found)


def _take_local(path: str, found: Found) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SourceError(f"the name of the file {clip(path)!r} is not UTF-8; rename it") from None
    try:
        info = os.stat(path)
    except FileNotFoundError:
        raise SourceError(_dangling(path)) from None
    except OSError as error:
        raise SourceError(f"{clip(path)!r} cannot be read ({error.strerror}); correct or remove it") from error
    if not stat.S_ISREG(info.st_mode):
        raise SourceError(
            f"{clip(path)!r} is {_describe(info.st_mode)}, which cannot be read like a file; write its data to a file, "
            "or narrow the path"
        )
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise SourceError(
            f"{clip(path)!r} cannot be read (Permission denied); give this user access, or narrow the path"
        )
    found.files[path] = FoundFile(path, info.st_size, info.st_mtime_ns)


def _dangling(path: str) -> str:
    target = clip(os.readlink(path)) if os.path.islink(path) else ""
    return (
        f"{clip(path)!r} is a link to {target!r}, which does not exist, so its rows would be missing; remove or "
        "correct it"
    )


def _describe(mode: int) -> str:
    for is_kind, name in ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a folder")):
        if is_kind(mode):
            return name
    return "a device"
