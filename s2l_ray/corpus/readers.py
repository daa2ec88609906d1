"""One reader per kind of file: a ReadUnit → its rows, one at a time. A row that cannot be read says why."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from s2l_ray.corpus.units import RawRow, ReadUnit


def read_jsonl(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> Iterator[RawRow]:
    if unit.compression:
        with filesystem.open_input_stream(path, compression=unit.compression) as stream:
            for number, line in enumerate(io.BufferedReader(_Readable(stream), 1 << 20)):
                if line.strip():
                    yield _parse(unit.origin, number, line)
        return
    assert unit.end is not None
    with filesystem.open_input_file(path) as file:
        # A slice owns the lines that start in it. Starting one byte early tells whether `start` begins a line.
        position = max(0, unit.start - 1)
        file.seek(position)
        reader = io.BufferedReader(_Readable(file), 1 << 20)
        if unit.start:
            position += len(reader.readline())
        while position < unit.end:
            line = reader.readline()
            if not line:
                return
            if line.strip():
                yield _parse(unit.origin, position, line)
            position += len(line)


class _Readable(io.RawIOBase):
    """pyarrow stream → raw Python stream (its own readline is slow)."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _parse(origin: str, index: int, line: bytes) -> RawRow:
    try:
        text = line.decode("utf-8-sig" if index == 0 else "utf-8").strip()
    except UnicodeDecodeError:
        return RawRow(origin, index, None, "not UTF-8", line[:500].decode("utf-8", "replace"))
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return RawRow(origin, index, None, f"bad JSON: {error}", text[:500])
    if not isinstance(row, dict):
        return RawRow(origin, index, None, f"the line holds {type(row).__name__}, not an object", text[:500])
    return RawRow(origin, index, row)


def read_json(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> Iterator[RawRow]:
    """One array of objects; the whole file is in memory, so large corpora want JSONL."""
    with filesystem.open_input_stream(path, compression=unit.compression) as stream:
        data = stream.read()
    if data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        try:
            rows = json.loads(data.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise OSError(f"not a JSON array: {error}") from error
        for index, row in enumerate(rows):
            if isinstance(row, dict):
                yield RawRow(unit.origin, index, row)
            else:
                reason = f"the element is {type(row).__name__}, not an object"
                yield RawRow(unit.origin, index, None, reason, str(row)[:500])
        return
    # Many ".json" files are JSON lines in truth.
    for index, line in enumerate(data.splitlines()):
        if line.strip():
            yield _parse(unit.origin, index, line)


def read_csv(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> Iterator[RawRow]:
    with filesystem.open_input_stream(path, compression=unit.compression) as stream:
        text = io.TextIOWrapper(io.BufferedReader(_Readable(stream), 1 << 20), encoding="utf-8-sig", newline="")
        csv.field_size_limit(2**31 - 1)  # the default, 128 kB, is less than a long document
        reader = csv.DictReader(text, strict=True)
        names = list(reader.fieldnames or [])
        if len(set(names)) < len(names):
            raise OSError(f"its header names a column twice: {names}")
        for index, row in enumerate(reader):
            if None in row or any(v is None for v in row.values()):
                shown = str({k: v for k, v in row.items() if k is not None})[:500]
                yield RawRow(unit.origin, index, None, "the row has another number of fields than the header", shown)
            else:
                yield RawRow(unit.origin, index, dict(row))


def read_parquet(unit: ReadUnit, filesystem: pafs.FileSystem, path: str) -> Iterator[RawRow]:
    index = 0
    with filesystem.open_input_file(path) as file:
        for batch in pq.ParquetFile(file, page_checksum_verification=True).iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                yield RawRow(unit.origin, index, row)
                index += 1
