"""Where a folder is: its path on a file system, and the URIs of what is in it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from pyarrow import fs
from typing_extensions import Self

from s2l_ray.errors import UserError
from s2l_ray.storage.filesystems import absolute, open_filesystem
from s2l_ray.text.redact import strip_credentials


class Location:
    """A folder on a file system that pyarrow or fsspec can open. Paths in it (`rel`) are relative, with `/`."""

    def __init__(self, base: str, subfolder: str = "") -> None:
        self._base, self._subfolder = absolute(base), subfolder
        self.filesystem, root, self._kind = open_filesystem(self._base)
        self._root = root.rstrip("/") or "/"
        self.path = _join(self._root, subfolder)
        self.uri = self._display(subfolder)

    def sub(self, *parts: str) -> Self:
        """Return a folder below this one, on the same connection."""
        child = object.__new__(type(self))
        child.__dict__.update(self.__dict__)
        child._subfolder = "/".join(filter(None, (self._subfolder, *map(clean_path, parts))))
        child.path = _join(self._root, child._subfolder)
        child.uri = child._display(child._subfolder)
        return child

    def contains(self, other: Location) -> bool:
        """Whether `other` is a folder below this one."""
        return other.filesystem == self.filesystem and other.path.startswith(f"{self.path.rstrip('/')}/")

    def locator(self, rel: str = "") -> str:
        """Return the path or URI for opening the file elsewhere, including credentials: never show or store it."""
        if self.is_local:
            return self._path(rel)
        parts = urlsplit(self._base)
        path = "/".join(p for p in (parts.path.rstrip("/"), self._subfolder, rel) if p)
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, parts.fragment))

    def uri_of(self, rel: str) -> str:
        """Return the URI of a file or folder in this one, without credentials. Options follow the path, so that
        `{uri}/{rel}` would be wrong."""
        return self._display(self._within(rel))

    def pattern_of(self, rel: str) -> str:
        """Return the URI of the files that a path with wildcards matches; in `uri_of`, a `*` is part of a name."""
        return self._display(self._within(rel), wild="*")

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's file system (network mounts included)."""
        return self._kind == "local"

    def local_path(self, rel: str = "") -> Path:
        """Return the path, for code that needs a real file.

        Raises:
            UserError: the storage is remote.
        """
        if not self.is_local:
            raise UserError(f"{self.uri} is not on a local disk; read or copy the file through Storage instead.")
        return Path(self._path(rel))

    def _within(self, rel: str) -> str:
        """The path from the base of this connection."""
        return "/".join(part for part in (self._subfolder, clean_path(rel)) if part)

    def _path(self, rel: str) -> str:
        """The path on the file system."""
        return _join(self.path, clean_path(rel))

    def _relative(self, path: str) -> str:
        return path.strip("/")[len(self.path.strip("/")) :].lstrip("/")

    def _display(self, within: str, wild: str = "") -> str:
        if self.is_local:
            return _join(self._base, within)
        parts = urlsplit(strip_credentials(self._base))
        # fsspec takes paths as they are; pyarrow parses them as URIs.
        quoted = within if isinstance(self.filesystem, fs.PyFileSystem) else quote(within, safe=f"/=+,@~{wild}")
        path = f"{parts.path.rstrip('/')}/{quoted}" if within else parts.path
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, parts.fragment))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and (self._base, self.path) == (other._base, other.path)

    def __hash__(self) -> int:
        return hash((self._base, self.path))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"


def clean_path(rel: str) -> str:
    """Normalise a relative path (`a//b/` → `a/b`). Raises UserError for absolute paths and `..`."""
    parts = [part for part in rel.split("/") if part not in ("", ".")]
    if rel.startswith("/") or ".." in parts:
        raise UserError(f"{rel!r} leads outside the folder; paths within a Storage are relative and have no `..`.")
    return "/".join(parts)


def _join(folder: str, rel: str) -> str:
    return f"{folder.rstrip('/')}/{rel}" if rel else folder
