"""Find the files that a path, folder or glob names; anything else is refused or excluded with a message, not ignored.

Folders and globs never reach into a run folder, because a run must not read what it or another run writes. A file named
in full may be in another run (one of its subsets, for example), but not in the run that reads it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pyarrow.fs as pafs

from s2l_ray.data.file_names import KINDS, RUN_MARKS, Found, FoundFile, is_hidden, is_wild, kind_of, matches
from s2l_ray.data.local_files import find_local, is_below, run_folder_around
from s2l_ray.data.saved_datasets import METADATA, SPLITS, STATE, check_present, files_of_state, only_split
from s2l_ray.data.units import SourceError, clip
from s2l_ray.storage.filesystems import absolute, is_uri, open_filesystem
from s2l_ray.text.redact import strip_credentials


def resolve_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system and the path on it for a local path or URI."""
    filesystem, path, _ = open_filesystem(absolute(uri))
    return filesystem, path


def find_files(
    pattern: str, setting: str, run_uri: str | None, say: Callable[[str], None]
) -> list[tuple[str, FoundFile]]:
    """Return (URI, file) for everything that a path, folder or glob names, in the order of the paths.

    Args:
        setting: the setting that names the pattern, for messages.
        run_uri: the run that will read the files; its own files are refused.
        say: called with messages about excluded run folders and files.

    Raises:
        SourceError: nothing was found, something cannot be read as a file, or everything is in run folders.
    """
    shown = _shown(pattern)
    if not pattern.strip():
        raise SourceError(
            f"{setting} contains the empty path {pattern!r}, so there is nothing to read; name a file or folder"
        )
    if pattern.startswith("file://") and "?" in pattern:
        raise SourceError(f"{setting}: in the URI {shown} the path ends at the ?; write %3F, or a plain path")
    try:
        filesystem, path = resolve_filesystem(pattern)
        if isinstance(filesystem, pafs.LocalFileSystem):
            found = find_local(path, run_uri)
        else:
            found = _find_remote(filesystem, path, pattern, run_uri)
    except SourceError as error:
        raise SourceError(f"{setting}: {error}") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SourceError(f"{setting}: {shown} cannot be looked up ({clip(why, 600)}); correct the path") from error
    if found.run_folders:
        names = sorted(found.run_folders)
        which = ", ".join(clip(strip_credentials(n)) for n in names[:3]) + (
            f" and {len(names) - 3} more" * (len(names) > 3)
        )
        if not found.files:
            raise SourceError(
                f"{setting}: {shown} matches only files in a run folder ({which}), where runs keep their own files; "
                "name the data's own folder, or a single file of another run in full"
            )
        say(f"{setting}: {shown} reaches into a run folder, whose files are not corpus data and are excluded: {which}")
    unread = _unread(found)
    if not found.files and unread:
        raise SourceError(
            f"{setting}: {shown} contains no file of a supported kind ({KINDS}), only {unread}; convert them"
        )
    if not found.files:
        raise SourceError(
            f"{setting}: nothing matches {shown}, so there is nothing to read; check the path and the pattern"
            + (
                "; a dataset on the Hugging Face hub is named by corpus.huggingface.name"
                if _like_on_hub(pattern)
                else ""
            )
        )
    if unread:
        say(
            f"{setting}: {shown} contains files that are not read: {unread}; convert those that are data, or name "
            "them in full"
        )
    return [(_uri_like(pattern, path, name, filesystem), found.files[name]) for name in sorted(found.files)]


def _like_on_hub(pattern: str) -> bool:
    """Whether a path could also be the name of a dataset on the hub: `TIGER-Lab/MathInstruct`."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", pattern) is not None and kind_of(pattern)[0] is None


def _unread(found: Found) -> str:
    names = sorted(posixpath.basename(path) for path in found.unread)
    more = f" and {len(names) - 5:,} more" * (len(names) > 5)
    return ", ".join(clip(name, 60) for name in names[:5]) + more


# Remote files: a single listing of everything below the first wildcard.


def _find_remote(filesystem: pafs.FileSystem, path: str, pattern: str, run_uri: str | None) -> Found:
    info = filesystem.get_file_info(path)
    parts = path.split("/")
    wild = next((i for i, part in enumerate(parts) if is_wild(part)), None)
    found = Found()
    if info.type == pafs.FileType.File:
        own = _path_in_run_of(filesystem, run_uri)
        if own is not None and is_below(path, own):
            found.run_folders.add(_uri_like(pattern, path, own, filesystem))
        else:
            found.files[path] = _file(info)
        return found
    if info.type == pafs.FileType.Directory:
        base, wanted = path, lambda rest: not any(map(is_hidden, rest.split("/")))
    elif wild is not None:
        base, wanted = "/".join(parts[:wild]), lambda rest: matches(rest.split("/"), parts[wild:])
    else:
        return found
    infos = filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
    around = _remote_run_around(filesystem, base)
    runs = _run_folders_among(infos) if around is None else {around}
    if info.type == pafs.FileType.Directory:
        in_runs = [i for i in infos if any(is_below(i.path, run) for run in runs)]
        others = [i for i in infos if not any(is_below(i.path, run) for run in runs)]
        infos = [i for i in in_runs if kind_of(i.path)[0] is not None]
        infos += _without_what_is_unread(filesystem, base, others, found)
    for info in infos:
        if info.type != pafs.FileType.File or not wanted(info.path[len(base) :].strip("/")):
            continue
        run = next((r for r in runs if is_below(info.path, r)), None)
        if run is None:
            found.files[info.path] = _file(info)
        else:
            found.run_folders.add(_uri_like(pattern, path, run, filesystem))
    return found


def _without_what_is_unread(
    filesystem: pafs.FileSystem, base: str, infos: list[pafs.FileInfo], found: Found
) -> list[pafs.FileInfo]:
    """Return the data files below a folder (for a saved dataset those that it lists), and record the others."""
    by_folder: dict[str, dict[str, pafs.FileInfo]] = {}
    for info in infos:
        if info.type == pafs.FileType.File and not any(map(is_hidden, info.path[len(base) :].strip("/").split("/"))):
            folder, _, name = info.path.rpartition("/")
            by_folder.setdefault(folder, {})[name] = info

    def content(name: str, folder: str) -> bytes:
        with filesystem.open_input_stream(f"{folder}/{name}", compression=None) as stream:
            return bytes(stream.read())

    kept: list[pafs.FileInfo] = []
    for folder, files in by_folder.items():
        if SPLITS in files:
            only_split(content(SPLITS, folder), folder)
        saved = files_of_state(content(STATE, folder), folder) if STATE in files else None
        check_present(saved or (), files, folder)
        for name, info in files.items():
            is_data = kind_of(name)[0] is not None and name not in METADATA if saved is None else name in saved
            if is_data:
                kept.append(info)
            elif saved is None or name not in METADATA:
                found.unread.append(info.path)
    return kept


def _shown(pattern: str) -> str:
    try:
        return clip(repr(strip_credentials(pattern)))
    except ValueError:  # not a valid URI; it may contain a credential
        return f"{pattern.partition('://')[0]}://…"


def run_folder_above(uri: str) -> str | None:
    """Return the run folder that contains, or would contain, the folder `uri`, without credentials; None: no run."""
    return _run_folder_around(uri, from_above=True)


def run_folder_of(uri: str) -> str | None:
    """Return the run folder that the folder `uri` is or is in, without credentials; None: no run."""
    return _run_folder_around(uri, from_above=False)


def _run_folder_around(uri: str, from_above: bool) -> str | None:
    filesystem, path = resolve_filesystem(uri)
    folder = path.rstrip("/")
    begin = posixpath.dirname(folder) if from_above else folder
    if isinstance(filesystem, pafs.LocalFileSystem):
        return run_folder_around(begin)
    around = _remote_run_around(filesystem, begin)
    return None if around is None else strip_credentials(_uri_like(uri, path, around, filesystem))


def _file(info: pafs.FileInfo) -> FoundFile:
    return FoundFile(info.path, info.size, info.mtime_ns or 0)


def _run_folders_among(infos: list[pafs.FileInfo]) -> set[str]:
    """Return the folders of a recursive listing that contain `config.yaml` and one of RUN_MARKS."""
    configured = {posixpath.dirname(i.path) for i in infos if posixpath.basename(i.path) == "config.yaml"}
    marked = {posixpath.dirname(i.path) for i in infos if posixpath.basename(i.path) in RUN_MARKS}
    # An object store may not list folders: `locks` then occurs only within the names below it.
    marked |= {posixpath.dirname(posixpath.dirname(i.path)) for i in infos if "/locks/" in i.path}
    return configured & marked


def _remote_run_around(filesystem: pafs.FileSystem, folder: str) -> str | None:
    path = folder.rstrip("/")
    while path.strip("/"):  # some file systems' paths begin with one, and the folder above / is /
        asked = filesystem.get_file_info([f"{path}/{name}" for name in ("config.yaml", *RUN_MARKS)])
        present = [i.type != pafs.FileType.NotFound for i in asked]
        if present[0] and any(present[1:]):
            return path
        path = posixpath.dirname(path)
    return None


def _path_in_run_of(filesystem: pafs.FileSystem, run_uri: str | None) -> str | None:
    """Return the run's folder if it is on the same file system."""
    if run_uri is None or not is_uri(run_uri) or run_uri.startswith("file://"):
        return None
    other, path = resolve_filesystem(run_uri)
    return path if other.type_name == filesystem.type_name else None


def _uri_like(pattern: str, base: str, path: str, filesystem: pafs.FileSystem) -> str:
    """Return a URI for `path` on the file system where `pattern` is `base`, with its credentials, endpoint, region."""
    if not is_uri(pattern) or pattern.startswith("file://"):
        return path
    parts = urlsplit(pattern)
    as_it_is = isinstance(filesystem, pafs.PyFileSystem)  # of fsspec; pyarrow parses paths as URIs
    own = (parts.path if as_it_is else unquote(parts.path)).strip("/")
    host = base.strip("/")[: len(base.strip("/")) - len(own)].strip("/")  # the bucket, which is not in the URI's path
    rest = path.strip("/").removeprefix(host).lstrip("/")
    rest = rest if as_it_is else quote(rest, safe="/=+,@~")
    return urlunsplit((parts.scheme, parts.netloc, f"/{rest}", parts.query, parts.fragment))
