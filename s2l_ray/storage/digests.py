"""Digests of files, computed while a file is written and compared when it is read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from s2l_ray.storage.retry import DamagedFile

# SHA-256 rather than BLAKE2, because current server processors have instructions for it (1.5 or 0.6 GB/s per core).
CHUNK_BYTES = 4 << 20
CURE = "Delete it and run `s2l run` on this run's configuration again to rebuild the stage it belongs to"


@dataclass(frozen=True)
class FileDigest:
    """Size and digest that identify the bytes of a file."""

    size: int
    """Bytes."""
    digest: str
    """First 128 bits of the SHA-256 of the bytes, hexadecimal: the beginning of what `sha256sum` prints."""

    def check(self, found: FileDigest, uri: str) -> None:
        """Raise DamagedFile, naming `uri`, if `found` differs from what was written."""
        if found.size != self.size:
            raise DamagedFile(
                f"{uri} is damaged: it has {found.size:,} bytes, but {self.size:,} were written, so its contents are "
                "lost. "
                f"{CURE}"
            )
        if found.digest != self.digest:
            raise DamagedFile(
                f"{uri} is damaged: its digest is {found.digest}, not {self.digest} as written, so its contents are "
                f"lost. {CURE}"
            )


class KnownFiles(Protocol):
    """Interface for looking up the digests of files by name; None: no digest is known."""

    def get(self, name: str) -> FileDigest | None: ...


class DigestWriter(io.BufferedWriter):
    """Writer of a new local file, from start to end, that computes the digest on the way."""

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
        """Return the digest of what has been written so far."""
        return FileDigest(self._size, _short(self._hash))


class WriteLog:
    """Record of the files that this process has written into one folder: name relative to the folder → digest."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: dict[str, FileDigest] = {}

    def note(self, path: str, written: FileDigest) -> None:
        """Record a file; `path` and `root` are relative to the same folder."""
        self.files[path[len(self.root) :].lstrip("/")] = written


def digest_of(content: Any) -> FileDigest:
    """Compute the digest of bytes in memory (or mapped into it)."""
    return FileDigest(memoryview(content).nbytes, _short(hashlib.sha256(content)))


def digest_stream(stream: Any) -> FileDigest:
    """Compute the digest of the rest of a stream, holding CHUNK_BYTES in memory."""
    hasher, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK_BYTES):
        hasher.update(chunk)
        size += len(chunk)
    return FileDigest(size, _short(hasher))


def copy_stream(stream: Any, path: Path) -> FileDigest:
    """Write the rest of a stream to a local file, holding CHUNK_BYTES in memory, and return its digest."""
    hasher, size = hashlib.sha256(), 0
    with path.open("wb") as out:
        while chunk := stream.read(CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
            out.write(chunk)
    return FileDigest(size, _short(hasher))


def columns_digest(tables: pa.Table | Iterable[pa.Table], columns: Iterable[str] | None = None) -> str:
    """Compute a digest of the values in columns, independent of how pyarrow lays out, chunks or compresses them.

    Args:
        tables: one table, or consecutive pieces of it.
        columns: names of the columns; None: all.
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
    """Hash numbers as little-endian bytes and other values as Python values, with rows kept apart."""
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
