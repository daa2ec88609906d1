"""A folder on any file system that pyarrow or fsspec can open, with atomic file writes."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from s2l_ray.errors import UserError
from s2l_ray.storage.atomic_files import is_temp, local_atomic, put_by_move, put_object
from s2l_ray.storage.checked_reads import KnownBelow, compare, missing_named
from s2l_ray.storage.digests import FileDigest, KnownFiles, WriteLog, copy_stream, digest_of, digest_stream
from s2l_ray.storage.disk_faults import disk_faults_named
from s2l_ray.storage.location import Location
from s2l_ray.storage.parquet import read_parquet, write_parquet
from s2l_ray.storage.retry import RetryPolicy
from s2l_ray.storage.scratch import scratch_folder

T = TypeVar("T")

_READ_AHEAD = 16


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file of a listing."""

    name: str
    """Path relative to the Storage that listed the file, as accepted by `read_bytes`, `read_table`, …"""
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time by the storage's clock (nanoseconds since 1970; whole seconds on S3; 0 if unknown)."""


# Inside the class, `list` is its method.
Entries = list[FileEntry]
Names = list[str]
Infos = list[fs.FileInfo]


class Storage(Location):
    """A folder. Paths (`rel`) are relative, with `/`; parent folders are created as needed.

    Transient errors of remote file systems are retried (`RetryPolicy`) and then raised as StorageError; a missing file
    raises FileNotFoundError everywhere. Pickling stores the URI, including its credentials; unpickling opens it again.
    """

    def __init__(self, base: str, subfolder: str = "", retry: RetryPolicy | None = None):
        super().__init__(base, subfolder)
        self.retry = retry or RetryPolicy()
        self._log: WriteLog | None = None
        self._known: KnownBelow | None = None

    @classmethod
    def open(cls, uri: str | os.PathLike[str], retry: RetryPolicy | None = None) -> Storage:
        """Open a folder; it need not exist yet.

        Args:
            uri: a path (`~` and relative paths allowed) or a URI
                (`s3://bucket/folder?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1`, `gs://…`,
                `file://…`, or a scheme that an installed fsspec package knows).
            retry: how transient errors of remote file systems are retried.

        Raises:
            UserError: the URI cannot be parsed, or its scheme is unknown.
            StorageError: the file system cannot be reached.
        """
        return cls(os.fspath(uri), "", retry)

    def recording(self) -> Storage:
        """Return the same folder, recording what is written in it or below; see `take_written`.

        In another process to which it is sent, it records what that process writes.
        """
        child = self.sub()
        child._log = WriteLog(self._subfolder)
        return child

    def checked(self, known: KnownFiles | None) -> Storage:
        """Return the same folder, with reads checked against the digests in `known`."""
        child = self.sub()
        child._log, child._known = None, None if known is None else KnownBelow(self._subfolder, known)
        return child

    def take_written(self) -> list[dict[str, Any]]:
        """Return {name, size, digest} of the files written since the last call, named relative to the recording folder.

        This is plain data that a worker can return; the receiver passes it to `note_written`.
        """
        if self._log is None:
            return []
        files, self._log.files = self._log.files, {}
        return [{"name": name, "size": d.size, "digest": d.digest} for name, d in files.items()]

    def note_written(self, files: Iterable[Mapping[str, Any]]) -> None:
        """Record what another process wrote."""
        if self._log is not None:
            self._log.files.update({f["name"]: FileDigest(f["size"], f["digest"]) for f in files})

    def exists(self, rel: str = "") -> bool:
        """Whether a file or folder with this name exists."""
        info = self._try("looking for", rel, lambda: self.filesystem.get_file_info(self._path(rel)))
        return info.type != fs.FileType.NotFound

    def is_folder(self, rel: str) -> bool:
        """Whether it exists and is a folder."""
        info = self._try("looking for", rel, lambda: self.filesystem.get_file_info(self._path(rel)))
        return info.type == fs.FileType.Directory

    # Reading.

    def open_input(self, rel: str) -> pa.NativeFile:
        """Open the file for reading at any offset; the caller must close it. Raises FileNotFoundError."""
        return self._try("opening", rel, lambda: self.filesystem.open_input_file(self._path(rel)))

    def read_bytes(self, rel: str) -> bytes:
        """Read the whole file. Raises FileNotFoundError; MissingFile, DamagedFile (see `checked`)."""
        known = self._digest_of(rel)

        def read() -> bytes:
            with self.filesystem.open_input_stream(self._path(rel), compression=None) as stream:
                content: bytes = stream.read()
            if known is not None:
                known.check(digest_of(content), self.uri_of(rel))
            return content

        with missing_named(self.uri_of(rel), known is not None):
            return self._try("reading", rel, read)

    def copy_to(self, path: Path, rel: str) -> None:
        """Copy the file to this machine. Raises FileNotFoundError; MissingFile, DamagedFile (see `checked`)."""
        known = self._digest_of(rel)

        def copy() -> None:
            with self.filesystem.open_input_stream(self._path(rel), compression=None) as source:
                written = copy_stream(source, path)
            if known is not None:
                known.check(written, self.uri_of(rel))

        with missing_named(self.uri_of(rel), known is not None):
            self._try("reading", rel, copy)

    def check(self, rel: str) -> None:
        """Compare the file with its digest, if one is known. Raises MissingFile, DamagedFile (see `checked`)."""
        known = self._digest_of(rel)
        if known is not None:
            with missing_named(self.uri_of(rel), True):
                known.check(self.digest(rel), self.uri_of(rel))

    def digest(self, rel: str) -> FileDigest:
        """Compute size and digest of the stored file. Raises FileNotFoundError."""

        def read() -> FileDigest:
            with self.filesystem.open_input_stream(self._path(rel), compression=None) as stream:
                return digest_stream(stream)

        return self._try("reading", rel, read)

    def read_json(self, rel: str) -> Any:
        """Read a JSON file. Raises FileNotFoundError; UserError, naming the file, if it is not JSON."""
        try:
            return json.loads(self.read_bytes(rel))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.uri_of(rel)} is not valid JSON: {error}") from error

    def read_table(
        self, rel: str, columns: Names | None = None, filters: Any = None, optional: Sequence[str] = ()
    ) -> pa.Table:
        """Read a Parquet file into memory, whole or only the rows that pass `filters` (as in pyarrow).

        Args:
            optional: columns to read in addition to `columns`, if the file has them.

        Raises:
            MissingFile: the file does not exist.
            DamagedFile: the file is truncated, or its bytes are not those that were written.
            pa.ArrowInvalid: a column is unknown.
        """
        known = self._digest_of(rel)

        def read() -> pa.Table:
            with self.filesystem.open_input_file(self._path(rel)) as file:
                whole = file
                if known is not None:
                    changed_ns = self.filesystem.get_file_info(self._path(rel)).mtime_ns or 0
                    whole = compare(file, known, self.uri_of(rel), changed_ns, in_memory=filters is None)
                return read_parquet(whole, self.uri_of(rel), columns, filters, optional)

        with missing_named(self.uri_of(rel), True):
            return self._try("reading", rel, read)

    def _digest_of(self, rel: str) -> FileDigest | None:
        return None if self._known is None else self._known.of(self._within(rel))

    def read_tables(self, rels: Iterable[str], columns: Names | None = None) -> Iterator[pa.Table]:
        """Yield `read_table` of each file, in order, reading _READ_AHEAD ahead to save round trips."""
        ahead: deque[Future[pa.Table]] = deque()
        with ThreadPoolExecutor(_READ_AHEAD) as pool:
            try:
                for rel in rels:
                    ahead.append(pool.submit(self.read_table, rel, columns))
                    if len(ahead) == _READ_AHEAD:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    # Writing.

    @contextlib.contextmanager
    def atomic_output(self, rel: str) -> Iterator[IO[bytes]]:
        """Yield a binary stream whose file appears under its name when the block ends without an exception.

        Remote files are first written below `TMPDIR`, which needs as much local disk space. (pyarrow completes uploads
        whenever the stream is closed, even after an exception, and a local copy can be uploaded again.)
        """
        if self.is_local:
            with disk_faults_named(self.uri_of(rel), "writing"), local_atomic(self._path(rel)) as written:
                yield written
            self._note(rel, written.result())
            return
        with scratch_folder() as folder:
            spool = os.path.join(folder, "file")
            with (
                disk_faults_named(f"{spool} (TMPDIR, on the way to {self.uri_of(rel)})", "writing"),
                open(spool, "wb") as stream,
            ):
                yield stream
            self.upload_file(Path(spool), rel)

    def write_bytes(self, rel: str, data: bytes) -> None:
        """Write or replace the file, atomically."""
        if not self.is_local:
            self._upload(rel, data)
            return
        with self.atomic_output(rel) as stream:
            stream.write(data)

    def write_json(self, rel: str, obj: Any) -> None:
        """Write plain data as readable JSON, atomically. Raises ValueError for NaN, TypeError for other types."""
        text = json.dumps(obj, indent=2, allow_nan=False, ensure_ascii=False)
        self.write_bytes(rel, (text + "\n").encode("utf-8", "surrogatepass"))

    def write_table(self, rel: str, table: pa.Table, **parquet_options: Any) -> None:
        """Write a Parquet file, atomically; options as for `pyarrow.parquet.write_table`."""
        with self.atomic_output(rel) as stream:
            write_parquet(table, stream, **parquet_options)

    def upload_file(self, path: Path, rel: str) -> None:
        """Copy a local file into this folder, atomically."""
        with open(path, "rb") as source:
            if self.is_local:
                with self.atomic_output(rel) as stream:
                    shutil.copyfileobj(source, stream, 1 << 22)
            elif os.path.getsize(path) == 0:
                self._upload(rel, b"")
            else:
                with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    self._upload(rel, content)

    def upload_folder(self, folder: Path) -> None:
        """Copy all files of a local folder into this one, each atomically."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.upload_file(path, path.relative_to(folder).as_posix())

    # Folders.

    def list(self, rel: str = "", recursive: bool = False) -> Entries:
        """List the files in a folder by name, without temporary files; [] if the folder is missing."""
        infos = self._infos(rel, recursive)
        entries = [
            FileEntry(self._relative(info.path), info.size or 0, info.mtime_ns or 0)
            for info in infos
            if info.type == fs.FileType.File
        ]
        return sorted(entry for entry in entries if not is_temp(entry.name))

    def folders(self, rel: str = "") -> Names:
        """List the names of the folders directly below, sorted; [] if there are none."""
        try:
            infos = self._infos(rel, recursive=False)
        except FileNotFoundError:  # one was deleted meanwhile
            infos = self._infos(rel, recursive=False)
        names = [info.base_name for info in infos if info.type == fs.FileType.Directory]
        return sorted(name for name in names if not is_temp(name))

    def delete(self, rel: str) -> None:
        """Delete a file; nothing happens if it is missing."""
        with contextlib.suppress(FileNotFoundError):
            self._try("deleting", rel, lambda: self.filesystem.delete_file(self._path(rel)))

    def delete_dir(self, rel: str = "") -> None:
        """Delete a folder with its contents; nothing happens if it is missing. Raises UserError for a root."""
        path = self._path(rel)
        if "/" not in path.strip("/") and not (self.is_local and path != "/"):
            raise UserError(f"Refusing to delete {self.uri_of(rel)}: it is a whole file system or bucket.")
        if not self.exists(rel):
            return
        with contextlib.suppress(FileNotFoundError):
            self._try("deleting", rel, lambda: self.filesystem.delete_dir(path))

    def _try(self, doing: str, rel: str, operation: Callable[[], T]) -> T:
        if not self.is_local:
            return self.retry.run(operation, doing, self.uri_of(rel))
        with disk_faults_named(self.uri_of(rel), doing):
            return operation()

    def _upload(self, rel: str, content: bytes | mmap.mmap) -> None:
        put = put_object if self._kind == "object" else put_by_move
        self._try("writing", rel, lambda: put(self.filesystem, self._path(rel), content))
        if self._log is not None:
            self._note(rel, digest_of(content))

    def _note(self, rel: str, written: FileDigest) -> None:
        if self._log is not None:
            self._log.note(self._within(rel), written)

    def _infos(self, rel: str, recursive: bool) -> Infos:
        def read() -> Any:
            if isinstance(self.filesystem, fs.PyFileSystem):
                self.filesystem.handler.fs.invalidate_cache()  # fsspec caches listings, but other processes write here
            return self.filesystem.get_file_info(
                fs.FileSelector(self._path(rel), allow_not_found=True, recursive=recursive)
            )

        return self._try("listing", rel, read)

    def __reduce__(self) -> tuple[Any, ...]:
        recorded = None if self._log is None else self._log.root
        return _reopen, (self._base, self._subfolder, self.retry, recorded, self._known)


def _reopen(base: str, subfolder: str, retry: RetryPolicy, recorded: str | None, known: Any) -> Storage:
    storage = Storage(base, subfolder, retry)
    storage._log, storage._known = None if recorded is None else WriteLog(recorded), known
    return storage
