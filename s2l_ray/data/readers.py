"""Read rows one at a time from text files: JSON lines, JSON arrays, CSV. Unreadable rows carry the reason.

Memory: one row, and a buffer. Compressed files are unpacked as they are read; a row beyond `max_row_bytes` is refused
before it is in memory, so that a few kilobytes cannot unpack to more than a task's memory.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow.fs as pafs

from s2l_ray.data.units import MAX_COLUMNS, RawRow, ReadUnit, SourceError, clip, clip_names
from s2l_ray.errors import DataError

_BUFFER = 1 << 20
_SHOWN = 500
_MARK = "\ufeff"
_BLANK = (b"", codecs.BOM_UTF8)


def refuse_row(origin: str, where: str, limit: int, size: int | None = None) -> SourceError:
    """Return the error for a row that is too large; `size`: its bytes, if known."""
    has = f"has more than {limit:,} bytes" if size is None else f"has {size:,} bytes, more than the {limit:,}"
    return SourceError(
        f"{clip(origin)}: {where} {has} that one row may have (corpus.max_row_bytes), because a task needs about 30 "
        "times as much memory. Remove the row, or raise corpus.max_row_bytes if the nodes' memory allows"
    )


def read_jsonl(unit: ReadUnit, filesystem: pafs.FileSystem, path: str, max_row_bytes: int) -> Iterator[RawRow]:
    """Yield the rows of a compressed file, or of a byte range of an uncompressed one."""
    origin = unit.origin  # looked up once: computing it for every row would take a fifth of the time
    if unit.compression:
        with filesystem.open_input_stream(path, compression=unit.compression) as stream:
            reader, number = _buffered(stream), -1
            while line := reader.readline(max_row_bytes + 1):
                number += 1
                if len(line) > max_row_bytes:
                    raise refuse_row(origin, f"line {number + 1:,}", max_row_bytes)
                if line.strip() not in _BLANK:
                    yield _parse(origin, number, line)
        return
    assert unit.end is not None
    with filesystem.open_input_file(path) as file:
        # A slice owns the lines that start in it. Starting one byte early shows whether a line begins at `start`.
        position = max(0, unit.start - 1)
        file.seek(position)
        reader = _buffered(file)
        if unit.start:
            position += _skip_line(reader)
        while position < unit.end:
            line = reader.readline(max_row_bytes + 1)
            if not line:
                return
            if len(line) > max_row_bytes:
                raise refuse_row(origin, f"the line at byte {position:,}", max_row_bytes)
            if line.strip() not in _BLANK:
                yield _parse(origin, position, line)
            position += len(line)


class _Readable(io.RawIOBase):
    """Raw Python stream over a pyarrow stream, whose own readline is slow."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _buffered(stream: Any) -> io.BufferedReader:
    return io.BufferedReader(_Readable(stream), _BUFFER)


def _skip_line(reader: io.BufferedReader) -> int:
    """Skip the rest of a line of any length, which belongs to another slice, and return the number of its bytes."""
    skipped = 0
    while piece := reader.readline(_BUFFER):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


class _DoubledKey(DataError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(n for i, n in enumerate(names) if n in names[:i])
        raise _DoubledKey(f"an object has the key {clip(name, 60)!r} twice, so one of its values would be lost")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def why_unreadable(error: Exception) -> str:
    """Return why a text is not usable JSON."""
    if isinstance(error, _DoubledKey):
        return str(error)
    return "bad JSON: nested too deeply" if isinstance(error, RecursionError) else f"bad JSON: {clip(error)}"


def _parse(origin: str, index: int, line: bytes) -> RawRow:
    try:
        text = line.decode("utf-8-sig" if index == 0 else "utf-8").strip()
    except UnicodeDecodeError:
        reason = f"not UTF-8{encoding_hint(line)}"
        return RawRow(origin, index, None, reason, line[:_SHOWN].decode("utf-8", "replace"))
    try:
        row = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        hint = "; a byte order mark precedes it, as after joining files" if text[:1] == _MARK else ""
        return RawRow(origin, index, None, why_unreadable(error) + (hint or encoding_hint(line)), text[:_SHOWN])
    if not isinstance(row, dict):
        return RawRow(origin, index, None, f"the line holds {type(row).__name__}, not an object", text[:_SHOWN])
    return RawRow(origin, index, row)


def encoding_hint(data: bytes) -> str:
    """Return `; it seems to be UTF-16 …` if the bytes look like it, else ""."""
    head = data[:64]
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "; it seems to be UTF-32: convert it with iconv -f UTF-32 -t UTF-8"
    zeros = [head[start::2].count(0) for start in (0, 1)]
    looks_wide = min(zeros) == 0 and max(zeros) * 3 >= max(3, len(head))  # one byte of every pair, never the other
    if looks_wide or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "; it seems to be UTF-16: convert it with iconv -f UTF-16 -t UTF-8"
    return ""


def read_json(unit: ReadUnit, filesystem: pafs.FileSystem, path: str, max_row_bytes: int) -> Iterator[RawRow]:
    """Yield the rows of one array of objects, or of JSON lines, which many ".json" files really are."""
    origin = unit.origin
    with filesystem.open_input_stream(path, compression=unit.compression) as stream:
        reader = _buffered(stream)
        if reader.peek(3).startswith(codecs.BOM_UTF8):
            reader.read(len(codecs.BOM_UTF8))
        head = reader.peek(1)
        while not head.strip() and (skipped := reader.read(max(1, len(head)))):  # blank, as far as the buffer goes
            head = reader.peek(1) if skipped else b""
        if head.lstrip().startswith(b"["):
            yield from _read_array(unit, reader, max_row_bytes)
            return
        index = -1
        while line := reader.readline(max_row_bytes + 1):
            if len(line) > max_row_bytes:
                raise refuse_row(origin, f"line {index + 2:,}", max_row_bytes)
            for piece in line.splitlines():
                index += 1
                if piece.strip() not in _BLANK:
                    yield _parse(origin, index, piece)


_SPACE = " \t\n\r"
_CUT = 64
"""In a text that is still incomplete, errors of the parser lie within this many characters of its end, except for
unterminated strings."""


class _ArrayText:
    """Unparsed part of an array's text; elements are parsed as soon as they are complete."""

    def __init__(self, reader: io.BufferedReader, limit: int) -> None:
        self._reader, self._decode = reader, codecs.getincrementaldecoder("utf-8-sig")()
        self._limit = limit
        self.text, self.at, self.is_whole = "", 0, False

    def more(self) -> bool:
        """Read as much again as is there, so that long elements are not parsed too often; False at the end."""
        if self.is_whole:
            return False
        data = self._reader.read(max(_BUFFER, len(self.text) - self.at))
        self.is_whole = not data
        self.text, self.at = self.text[self.at :] + self._decode.decode(data, final=self.is_whole), 0
        return True

    def next_character(self) -> str:
        """Return the next non-space character without consuming it; "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def element(self) -> Any:
        """Parse the next element.

        Raises:
            ValueError: there is none, or it is not JSON.
            OverflowError: it is longer than the limit.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                if end < len(self.text) or self.is_whole:  # at the very end, a number may continue
                    if end - self.at > self._limit:
                        raise OverflowError
                    self.at = end
                    return value
                problem: json.JSONDecodeError | None = None
            except json.JSONDecodeError as error:
                problem = error
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _CUT
                if not is_cut:
                    raise
            if len(self.text) - self.at > self._limit:
                raise OverflowError
            if not self.more() and problem is not None:
                raise problem


def _read_array(unit: ReadUnit, reader: io.BufferedReader, max_row_bytes: int) -> Iterator[RawRow]:
    """Yield the rows of an array, built by json's own scanner, which is several times faster than event parsers."""
    origin = unit.origin
    array = _ArrayText(reader, max_row_bytes)
    index = 0
    try:
        array.next_character()
        array.at += 1
        if array.next_character() == "]":
            array.at += 1
        else:
            while True:
                row = array.element()
                if isinstance(row, dict):
                    yield RawRow(origin, index, row)
                else:
                    reason = f"the element is {type(row).__name__}, not an object"
                    yield RawRow(origin, index, None, reason, str(row)[:_SHOWN])
                index += 1
                mark = array.next_character()
                array.at += 1
                if mark == "]":
                    break
                if mark != ",":
                    raise ValueError(f"it is followed by {mark!r}" if mark else "the file ends within the array")
                if array.next_character() == "]":
                    raise ValueError("there is a comma before the closing bracket")
        if rest := array.next_character():
            raise ValueError(f"the array is followed by {rest!r}")
    except OverflowError:
        raise refuse_row(origin, f"element {index:,}", max_row_bytes) from None
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise OSError(f"not a JSON array: element {index:,}: {why_unreadable(error)}") from error


def read_csv(unit: ReadUnit, filesystem: pafs.FileSystem, path: str, max_row_bytes: int) -> Iterator[RawRow]:
    """Yield the rows of a CSV file whose first line names the columns."""
    origin = unit.origin
    with filesystem.open_input_stream(path, compression=unit.compression) as stream:
        text = io.TextIOWrapper(_buffered(stream), encoding="utf-8-sig", newline="")
        csv.field_size_limit(max_row_bytes)  # the default, 128 kB, is less than a long document
        lines = _CsvLines(text, origin, max_row_bytes)
        reader = csv.reader(lines, strict=True)
        names = next(reader, [])
        if len(set(names)) < len(names):
            raise OSError(f"its header names a column twice: {clip_names(names)}")
        if len(names) > MAX_COLUMNS:
            raise OSError(f"its header has {len(names):,} columns, more than the {MAX_COLUMNS:,} that are supported")
        index = -1
        for values in reader:
            lines.length = 0
            if not values:
                continue
            index += 1
            if len(values) == len(names):
                yield RawRow(origin, index, dict(zip(names, values, strict=True)))
            else:
                reason = "the row does not have as many fields as the header"
                yield RawRow(origin, index, None, reason, str(values[:100])[:_SHOWN])


class _CsvLines:
    """Lines for the CSV reader; `length` counts the characters since the last complete row."""

    def __init__(self, text: io.TextIOWrapper, origin: str, limit: int) -> None:
        self._text, self._origin, self._limit = text, origin, limit
        self._number = 0
        self.length = 0

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._limit + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self.length += len(line)
        if self.length > self._limit:
            raise refuse_row(self._origin, f"the row that ends on line {self._number:,} or later", self._limit)
        return line
