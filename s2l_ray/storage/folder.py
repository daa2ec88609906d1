"""One folder on any file system that pyarrow opens; files appear there whole or not at all."""

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
from urllib.parse import quote, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from s2l_ray.errors import UserError
from s2l_ray.storage.atomic_files import is_temp, local_atomic, put_by_move, put_object
from s2l_ray.storage.digests import FileDigest, KnownFiles, WriteLog, digest_of, digest_stream
from s2l_ray.storage.disk_faults import disk_faults_named
from s2l_ray.storage.filesystems import absolute, open_filesystem
from s2l_ray.storage.parquet import read_parquet, write_parquet
from s2l_ray.storage.retry import MissingFile, RetryPolicy
from s2l_ray.storage.scratch import scratch_folder
from s2l_ray.text.redact import strip_credentials

T = TypeVar("T")

_READ_AHEAD = 16
_IN_MEMORY_BYTES = 64 << 20
"""Files up to this size are read whole, so that the very bytes that are used are the ones that were compared."""
_compared: set[tuple[str, FileDigest, int]] = set()
"""(URI, digest, time of last change) of the larger files that this process has found whole."""


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file of a listing."""

    name: str
    """Path relative to the Storage that listed it: pass it straight back to `read_bytes`, `read_table`, …"""
    size: int
    """Bytes."""
    mtime_ns: int
    """Last change by the storage's clock (nanoseconds since 1970; whole seconds on S3; 0 where unknown)."""


# Inside the class, `list` is its method.
Entries = list[FileEntry]
Names = list[str]
Infos = list[fs.FileInfo]


class Storage:
    """One folder. Paths (`rel`) are relative, with `/`; parents are made as needed.

    Transient errors of remote file systems are retried (`RetryPolicy`) and then raised as StorageError; a missing file
    is FileNotFoundError everywhere. Pickles as its URI (credentials in the URI included) and opens anew on arrival.
    """

    def __init__(self, base: str, subfolder: str = "", retry: RetryPolicy | None = None):
        self._base, self._subfolder = absolute(base), subfolder
        self.retry = retry or RetryPolicy()
        self.filesystem, root, self._kind = open_filesystem(self._base)
        self._root = root.rstrip("/") or "/"
        self.path = _join(self._root, subfolder)
        self.uri = self._display(subfolder)
        self._log: WriteLog | None = None
        self._known: tuple[str, KnownFiles] | None = None

    @classmethod
    def open(cls, uri: str | os.PathLike[str], retry: RetryPolicy | None = None) -> Storage:
        """Open a folder; it need not exist yet.

        Args:
            uri: a path (`~` and relative paths allowed) or a URI
                (`s3://bucket/folder?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1`, `gs://…`,
                `file://…`, or a scheme that an installed fsspec package knows).
            retry: how transient errors of remote file systems are retried.

        Raises:
            ValueError: the URI cannot be parsed or nobody knows its scheme.
            StorageError: the file system cannot be reached.
        """
        return cls(os.fspath(uri), "", retry)

    def sub(self, *parts: str) -> Storage:
        """A folder below this one, on the same connection."""
        child = object.__new__(Storage)
        child.__dict__.update(self.__dict__)
        child._subfolder = "/".join(filter(None, (self._subfolder, *map(_clean, parts))))
        child.path = _join(self._root, child._subfolder)
        child.uri = child._display(child._subfolder)
        return child

    def recording(self) -> Storage:
        """The same folder; what is written there or below is remembered, see `take_written`.

        Sent to another process, it records there what that process writes.
        """
        child = self.sub()
        child._log = WriteLog(self._subfolder)
        return child

    def checked(self, known: KnownFiles | None) -> Storage:
        """The same folder; a file that `known` has is read only if it has the bytes that were written."""
        child = self.sub()
        child._log, child._known = None, None if known is None else (self._subfolder, known)
        return child

    def take_written(self) -> list[dict[str, Any]]:
        """{name, size, digest} of the files written since the last call, by name relative to what is recorded.

        Plain data, for the way back from a worker; the other side gives it to `note_written`.
        """
        if self._log is None:
            return []
        files, self._log.files = self._log.files, {}
        return [{"name": name, "size": d.size, "digest": d.digest} for name, d in files.items()]

    def note_written(self, files: Iterable[Mapping[str, Any]]) -> None:
        """Remember what another process wrote."""
        if self._log is not None:
            self._log.files.update({f["name"]: FileDigest(f["size"], f["digest"]) for f in files})

    def locator(self, rel: str = "") -> str:
        """Path or URI under which others open the file, credentials in the URI included: never show or store it."""
        if self.is_local:
            return self._path(rel)
        parts = urlsplit(self._base)
        path = "/".join(p for p in (parts.path.rstrip("/"), self._subfolder, rel) if p)
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, parts.fragment))

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's file system (network mounts included)."""
        return self._kind == "local"

    def local_path(self, rel: str = "") -> Path:
        """The path for code that needs a real file. Raises ValueError on remote storage."""
        if not self.is_local:
            raise UserError(f"{self.uri} is not on a local disk; read or copy the file through Storage instead.")
        return Path(self._path(rel))

    def exists(self, rel: str = "") -> bool:
        """Whether a file or folder of this name is there."""
        info = self._try("looking for", rel, lambda: self.filesystem.get_file_info(self._path(rel)))
        return info.type != fs.FileType.NotFound

    # Reading.

    def open_input(self, rel: str) -> pa.NativeFile:
        """The file for reading at any offset; the caller closes it. Raises FileNotFoundError."""
        return self._try("opening", rel, lambda: self.filesystem.open_input_file(self._path(rel)))

    def read_bytes(self, rel: str) -> bytes:
        """The whole file. Raises FileNotFoundError; DamagedFile (see `checked`)."""
        known = self._known_of(rel)

        def read() -> bytes:
            with self.filesystem.open_input_stream(self._path(rel), compression=None) as stream:
                content: bytes = stream.read()
            if known is not None:
                known.check(digest_of(content), self._display_of(rel))
            return content

        with self._missing_named(rel, known is not None):
            return self._try("reading", rel, read)

    def digest(self, rel: str) -> FileDigest:
        """Size and digest of the file as it lies there. Raises FileNotFoundError."""

        def read() -> FileDigest:
            with self.filesystem.open_input_stream(self._path(rel), compression=None) as stream:
                return digest_stream(stream)

        return self._try("reading", rel, read)

    def read_json(self, rel: str) -> Any:
        """The file's JSON. Raises FileNotFoundError; ValueError, naming the file, if it is not JSON."""
        try:
            return json.loads(self.read_bytes(rel))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self._display_of(rel)} is not valid JSON: {error}") from error

    def read_table(
        self, rel: str, columns: Names | None = None, filters: Any = None, optional: Sequence[str] = ()
    ) -> pa.Table:
        """The Parquet file in memory, whole or the rows that pass `filters` (as in pyarrow).

        Args:
            optional: columns to read beside `columns`, as far as the file has them.

        Raises MissingFile, DamagedFile (torn, or other bytes than were written); pa.ArrowInvalid on an unknown column.
        """

        known = self._known_of(rel)

        def read() -> pa.Table:
            with self.filesystem.open_input_file(self._path(rel)) as file:
                whole = file if known is None else self._compare(file, known, rel, in_memory=filters is None)
                return read_parquet(whole, self._display_of(rel), columns, filters, optional)

        with self._missing_named(rel, True):
            return self._try("reading", rel, read)

    def _compare(self, file: pa.NativeFile, known: FileDigest, rel: str, in_memory: bool) -> pa.NativeFile:
        """The file, or its content in memory, once it is what was written. Raises DamagedFile."""
        uri, size = self._display_of(rel), file.size()
        if size != known.size:
            known.check(FileDigest(size, ""), uri)
        if in_memory and size <= _IN_MEMORY_BYTES:
            content = file.read_buffer()
            known.check(digest_of(content), uri)
            return pa.BufferReader(content)
        changed_ns = self.filesystem.get_file_info(self._path(rel)).mtime_ns or 0
        if (uri, known, changed_ns) not in _compared:
            known.check(digest_stream(file), uri)
            file.seek(0)
            _compared.add((uri, known, changed_ns))
        return file

    def _known_of(self, rel: str) -> FileDigest | None:
        if self._known is None:
            return None
        root, known = self._known
        return known.get("/".join(p for p in (self._subfolder, _clean(rel)) if p)[len(root) :].lstrip("/"))

    @contextlib.contextmanager
    def _missing_named(self, rel: str, is_of_a_stage: bool) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if not is_of_a_stage:
                raise
            raise MissingFile(
                f"{self._display_of(rel)} is gone, which another stage needs. Run `s2l run` on this run's "
                "configuration again: what it belongs to is rebuilt"
            ) from error

    def read_tables(self, rels: Iterable[str], columns: Names | None = None) -> Iterator[pa.Table]:
        """`read_table` of each, in order, _READ_AHEAD of them on their way: one after another, thousands of objects
        would be thousands of round trips."""
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
        """A binary stream whose file appears under its name, whole, when the block ends without an exception.

        Remote files are first written below `TMPDIR`: as much local disk as the file has bytes. (pyarrow completes an
        upload whenever its stream is closed, after an exception too; and a local copy can be uploaded again.)
        """
        if self.is_local:
            with disk_faults_named(self._display_of(rel), "writing"), local_atomic(self._path(rel)) as written:
                yield written
            self._note(rel, written.result())
            return
        with scratch_folder() as folder:
            spool = os.path.join(folder, "file")
            with (
                disk_faults_named(f"{spool} (TMPDIR, on the way to {self._display_of(rel)})", "writing"),
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
        """Write plain data as readable JSON, atomically. Raises ValueError on NaN, TypeError on what JSON lacks."""
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
        """The files in a folder, by name, without the temp files of writers; [] if the folder is missing."""
        infos = self._infos(rel, recursive)
        entries = [
            FileEntry(self._relative(info.path), info.size or 0, info.mtime_ns or 0)
            for info in infos
            if info.type == fs.FileType.File
        ]
        return sorted(entry for entry in entries if not is_temp(entry.name))

    def folders(self, rel: str = "") -> Names:
        """Names of the folders directly below, sorted, without looking into them; [] if there are none."""
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
        """Delete a folder with all that is in it; nothing happens if it is missing. Raises ValueError for a root."""
        path = self._path(rel)
        if "/" not in path.strip("/") and not (self.is_local and path != "/"):
            raise UserError(f"Refusing to delete {self._display_of(rel)}: it is a whole file system or bucket.")
        if not self.exists(rel):
            return
        with contextlib.suppress(FileNotFoundError):
            self._try("deleting", rel, lambda: self.filesystem.delete_dir(path))

    def _try(self, doing: str, rel: str, operation: Callable[[], T]) -> T:
        if not self.is_local:
            return self.retry.run(operation, doing, self._display_of(rel))
        with disk_faults_named(self._display_of(rel), doing):
            return operation()

    def _upload(self, rel: str, content: bytes | mmap.mmap) -> None:
        put = put_object if self._kind == "object" else put_by_move
        self._try("writing", rel, lambda: put(self.filesystem, self._path(rel), content))
        if self._log is not None:
            self._note(rel, digest_of(content))

    def _note(self, rel: str, written: FileDigest) -> None:
        if self._log is not None:
            self._log.note("/".join(p for p in (self._subfolder, _clean(rel)) if p), written)

    def _infos(self, rel: str, recursive: bool) -> Infos:
        def read() -> Any:
            if isinstance(self.filesystem, fs.PyFileSystem):
                self.filesystem.handler.fs.invalidate_cache()  # fsspec remembers listings; other processes write here
            return self.filesystem.get_file_info(
                fs.FileSelector(self._path(rel), allow_not_found=True, recursive=recursive)
            )

        return self._try("listing", rel, read)

    def _path(self, rel: str) -> str:
        return _join(self.path, _clean(rel))

    def _relative(self, path: str) -> str:
        return path.strip("/")[len(self.path.strip("/")) :].lstrip("/")

    def _display_of(self, rel: str) -> str:
        return self._display("/".join(part for part in (self._subfolder, _clean(rel)) if part))

    def _display(self, rel: str) -> str:
        if self.is_local:
            return _join(self._base, rel)
        parts = urlsplit(strip_credentials(self._base))
        # fsspec takes paths as they are; pyarrow parses them as URIs.
        quoted = rel if isinstance(self.filesystem, fs.PyFileSystem) else quote(rel, safe="/=+,@~")
        path = f"{parts.path.rstrip('/')}/{quoted}" if rel else parts.path
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, parts.fragment))

    def __reduce__(self) -> tuple[Any, ...]:
        recorded = None if self._log is None else self._log.root
        return _reopen, (self._base, self._subfolder, self.retry, recorded, self._known)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and (self._base, self.path) == (other._base, other.path)

    def __hash__(self) -> int:
        return hash((self._base, self.path))

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"


def _reopen(base: str, subfolder: str, retry: RetryPolicy, recorded: str | None, known: Any) -> Storage:
    storage = Storage(base, subfolder, retry)
    storage._log, storage._known = None if recorded is None else WriteLog(recorded), known
    return storage


def _clean(rel: str) -> str:
    """`a//b/` → `a/b`. Raises ValueError on absolute paths and `..`: nothing outside the folder is meant."""
    parts = [part for part in rel.split("/") if part not in ("", ".")]
    if rel.startswith("/") or ".." in parts:
        raise UserError(f"{rel!r} leads outside the folder; paths within a Storage are relative and have no `..`.")
    return "/".join(parts)


def _join(folder: str, rel: str) -> str:
    return f"{folder.rstrip('/')}/{rel}" if rel else folder
