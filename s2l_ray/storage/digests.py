"""Digests of files: computed while a file is written, compared where it is read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from s2l_ray.storage.retry import DamagedFile

# SHA-256 and not BLAKE2: the processors of today's servers have instructions for it (1.5 against 0.6 GB/s a core).
CHUNK_BYTES = 4 << 20
CURE = "Delete it and run `s2l run` on this run's configuration again: what it belongs to is rebuilt"


@dataclass(frozen=True)
class FileDigest:
    """What the bytes of a file are known by."""

    size: int
    """Bytes."""
    digest: str
    """The first 128 bits of the SHA-256 of the bytes, hexadecimal: the beginning of what `sha256sum` says."""

    def check(self, found: FileDigest, uri: str) -> None:
        """Raises DamagedFile, naming `uri`, if these are not the bytes that were written."""
        if found.size != self.size:
            raise DamagedFile(
                f"{uri} is damaged: it has {found.size:,} bytes, {self.size:,} were written, so its contents are lost. "
                f"{CURE}"
            )
        if found.digest != self.digest:
            raise DamagedFile(
                f"{uri} is damaged: its digest is {found.digest}, {self.digest} was written, so its contents are lost. "
                f"{CURE}"
            )


class KnownFiles(Protocol):
    """Where a file's digest is looked up; name → what was written, None for a file that nobody vouches for."""

    def get(self, name: str) -> FileDigest | None: ...


class DigestWriter(io.BufferedWriter):
    """A new local file, written from start to end; its digest is computed on the way."""

    def __init__(self, path: str) -> None:
        super().__init__(io.FileIO(path, "x"))
        self._hash, self._size = hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self._hash.update(data)
        written = super().write(data)
        self._size += written
        return written

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise io.UnsupportedOperation("a file with a digest is written from start to end")

    def result(self) -> FileDigest:
        """Of what was written so far."""
        return FileDigest(self._size, _short(self._hash))


class WriteLog:
    """What was written into one folder by this process; name relative to the folder → digest."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: dict[str, FileDigest] = {}

    def note(self, path: str, written: FileDigest) -> None:
        """path: from where `root` counts from."""
        self.files[path[len(self.root) :].lstrip("/")] = written


def digest_of(content: Any) -> FileDigest:
    """Of bytes in memory (or mapped into it)."""
    return FileDigest(memoryview(content).nbytes, _short(hashlib.sha256(content)))


def digest_stream(stream: Any) -> FileDigest:
    """Of what is left in a stream; holds CHUNK_BYTES."""
    hasher, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        hasher.update(chunk)
        size += len(chunk)
    return FileDigest(size, _short(hasher))


def columns_digest(tables: pa.Table | Iterable[pa.Table], columns: Iterable[str] | None = None) -> str:
    """Of the values in these columns, row by row: not of how pyarrow lays them out, chunks or compresses them.

    Args:
        tables: one table, or pieces of it, which are looked at one after another.
        columns: by name; None: all.
    """
    hashers: dict[str, Any] = {}
    for table in [tables] if isinstance(tables, pa.Table) else tables:
        for name in table.column_names if columns is None else columns:
            hasher = hashers.setdefault(name, hashlib.sha256())
            for batch in table.select([name]).to_batches(max_chunksize=65_536):
                _add_values(hasher, batch.column(0))
    digests = [[name, hasher.hexdigest()] for name, hasher in hashers.items()]
    return _short(hashlib.sha256(repr(digests).encode()))


def _short(hasher: Any) -> str:
    return str(hasher.hexdigest()[:32])


def _add_values(hasher: Any, values: pa.Array) -> None:
    """Numbers as little-endian bytes; everything else as its Python value, rows apart from each other."""
    kind = values.type
    if (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and not values.null_count:
        numbers = values.to_numpy(zero_copy_only=False)
        hasher.update(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes())
        return
    if pa.types.is_fixed_size_binary(kind) and not values.null_count:
        width, start = kind.byte_width, values.offset
        hasher.update(values.buffers()[1][start * width : (start + len(values)) * width])
        return
    for value in values.to_pylist():
        piece = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
        hasher.update(len(piece).to_bytes(8, "little"))
        hasher.update(piece)
