"""Compare what is read with the digests that were computed when it was written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from s2l_ray.storage.digests import FileDigest, KnownFiles, digest_of, digest_stream
from s2l_ray.storage.retry import MissingFile

_IN_MEMORY_BYTES = 64 << 20
"""Files up to this size are read into memory, so that the bytes in use are the ones that were compared."""
_compared: set[tuple[str, FileDigest, int]] = set()
"""(URI, digest, modification time) of the larger files that this process has found intact."""


@dataclass(frozen=True)
class KnownBelow:
    """The digests of the files below a folder."""

    root: str
    """The folder."""
    known: KnownFiles

    def of(self, path: str) -> FileDigest | None:
        """Return the digest of a file, given by a path like that of the folder; None: it is not known."""
        return self.known.get(path[len(self.root) :].lstrip("/"))


def compare(file: pa.NativeFile, known: FileDigest, uri: str, changed_ns: int, in_memory: bool) -> pa.NativeFile:
    """Return the file, or its content in memory, after comparing it with its digest.

    Args:
        changed_ns: its modification time (ns); large files are compared again only if it changes.
        in_memory: whether its content may be kept in memory.

    Raises:
        DamagedFile: it is not what was written.
    """
    size = file.size()
    if size != known.size:
        known.check(FileDigest(size, ""), uri)
    if in_memory and size <= _IN_MEMORY_BYTES:
        content = file.read_buffer()
        known.check(digest_of(content), uri)
        return pa.BufferReader(content)
    if (uri, known, changed_ns) not in _compared:
        known.check(digest_stream(file), uri)
        file.seek(0)
        _compared.add((uri, known, changed_ns))
    return file


@contextlib.contextmanager
def missing_named(uri: str, is_of_a_stage: bool) -> Iterator[None]:
    """Raise MissingFile, with the remedy, in place of FileNotFoundError for a file that belongs to a stage."""
    try:
        yield
    except FileNotFoundError as error:
        if not is_of_a_stage:
            raise
        raise MissingFile(
            f"{uri} is gone, but another stage needs it. Run `s2l run` on this run's configuration again to rebuild "
            "the stage it belongs to"
        ) from error
