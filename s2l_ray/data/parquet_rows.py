"""Read rows from Parquet files in batches that are bounded by their unpacked bytes, not only by rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from s2l_ray.data.readers import refuse_row
from s2l_ray.data.units import MAX_COLUMNS, OutOfRange, RawRow, ReadUnit, clip

_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 256
_LARGE_GROUP_BYTES = 64 * 2**20
_LARGE_GROUP_BATCH_ROWS = 64
"""Batch size for large groups, in which many rows far above the average size may fall into one batch."""
_LARGE_ROW_BYTES = 256 * 2**10
"""Rows of this average size are read one by one and without dictionaries, which would hold large values that hardly
repeat three times."""


def read_parquet(unit: ReadUnit, filesystem: pafs.FileSystem, path: str, max_row_bytes: int) -> Iterator[RawRow]:
    """Yield the rows of all row groups in order."""
    index = 0
    with filesystem.open_input_file(path) as file:
        metadata = pq.read_metadata(file)
        if metadata.num_columns > MAX_COLUMNS:
            raise OSError(f"it has {metadata.num_columns:,} columns, more than the {MAX_COLUMNS:,} that are supported")
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if not group.num_rows:
                continue
            row_bytes = group.total_byte_size // group.num_rows
            if row_bytes > 2 * max_row_bytes:  # the size includes headers: rows near the limit are measured when read
                where = f"the average row of row group {number:,} ({group.num_rows:,} rows)"
                raise refuse_row(unit.origin, where, max_row_bytes, row_bytes)
            one_by_one = row_bytes >= _LARGE_ROW_BYTES
            reader = pq.ParquetFile(
                file,
                metadata=metadata,
                read_dictionary=[] if one_by_one else _repeated_columns(group),
                page_checksum_verification=True,
                buffer_size=1 << 20,
                pre_buffer=False,
            )
            if number == 0:
                refuse_doubled(reader.schema_arrow)
            most = _BATCH_ROWS if group.total_byte_size <= _LARGE_GROUP_BYTES else _LARGE_GROUP_BATCH_ROWS
            size = 1 if one_by_one else max(1, min(most, _BATCH_BYTES // max(1, row_bytes)))
            for batch in reader.iter_batches(batch_size=size, row_groups=[number]):
                yield from rows_of_batch(unit, batch, index, max_row_bytes)
                index += batch.num_rows


def _repeated_columns(group: Any) -> list[str]:
    """Return the columns to read as dictionaries, with each value once: expanded, kilobytes could become gigabytes."""
    names = []
    for i in range(group.num_columns):
        chunk = group.column(i)
        if chunk.physical_type != "BYTE_ARRAY" or not chunk.has_dictionary_page:
            continue
        dictionary = chunk.data_page_offset - chunk.dictionary_page_offset
        if 2 * dictionary > chunk.total_compressed_size:
            names.append(chunk.path_in_schema)
    return names


def refuse_doubled(schema: pa.Schema) -> None:
    """Raise OSError if two columns or fields have the same name, because one of them would be lost."""

    def visit(fields: list[pa.Field], within: str) -> None:
        names = [f.name for f in fields]
        if len(set(names)) < len(names):
            name = next(n for n in names if names.count(n) > 1)
            raise OSError(f"it has two columns or fields named {clip(within + name)!r}, of which one would be lost")
        for field in fields:
            kind, path = field.type, f"{within}{field.name}."
            children = [kind.field(i) for i in range(kind.num_fields)]
            # The fields of a list are its elements, those of a map its pairs; the format defines their names.
            visit(children, path)

    visit(list(schema), "")


def rows_of_batch(unit: ReadUnit, batch: pa.RecordBatch, index: int, max_row_bytes: int) -> Iterator[RawRow]:
    """Yield the rows of one batch, the first of which is row `index` of the file."""
    origin = unit.origin
    bounds = [0, batch.num_rows]
    if _may_exceed(batch, min(_BATCH_BYTES, max_row_bytes)):
        sizes = sum((row_sizes(column) for column in batch.columns), np.zeros(batch.num_rows, np.int64))
        largest = int(sizes.argmax())
        if sizes[largest] > max_row_bytes:
            raise refuse_row(origin, f"row {index + largest:,}", max_row_bytes, int(sizes[largest]))
        bounds = [0]
        for i, end in enumerate(np.cumsum(sizes)):
            if end - sizes[: bounds[-1]].sum() > _BATCH_BYTES and i > bounds[-1]:
                bounds.append(i)
        bounds.append(batch.num_rows)
    for start, end in pairwise(bounds):
        piece = batch.slice(start, end - start)
        try:
            rows = piece.to_pylist()
        except (ValueError, OverflowError, pa.ArrowException):
            for i in range(piece.num_rows):
                yield _row_alone(unit, piece.slice(i, 1), index + start + i)
            continue
        for i, row in enumerate(rows):
            yield RawRow(origin, index + start + i, row, is_typed=True)


def _may_exceed(batch: pa.RecordBatch, limit: int) -> bool:
    return batch.nbytes > limit or batch.num_rows * sum(_dictionary_bytes(c) for c in batch.columns) > limit


def _dictionary_bytes(array: pa.Array) -> int:
    if isinstance(array, pa.DictionaryArray):
        return int(array.dictionary.nbytes)
    if isinstance(array, pa.StructArray):
        return sum(_dictionary_bytes(array.field(i)) for i in range(array.type.num_fields))
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray | pa.MapArray):
        return _dictionary_bytes(array.values) * 64  # a guess for lists with many elements
    return 0


def row_sizes(array: pa.Array) -> np.ndarray:
    """Return the bytes of every row's value without dictionaries, (N,) int64."""
    kind = array.type
    if isinstance(array, pa.DictionaryArray):
        sizes = row_sizes(array.dictionary)
        return np.append(sizes, 0)[array.indices.fill_null(len(sizes)).to_numpy(zero_copy_only=False)]
    if isinstance(array, pa.StructArray):
        fields = [row_sizes(array.field(i)) for i in range(kind.num_fields)]
        return sum(fields, np.zeros(len(array), np.int64))
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.MapArray):
        offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
        total = np.concatenate([[0], np.cumsum(row_sizes(array.values))])
        return total[offsets[1:]] - total[offsets[:-1]] + 8
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    ):
        return pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.full(len(array), array.nbytes // max(1, len(array)), np.int64)


def _row_alone(unit: ReadUnit, row: pa.RecordBatch, index: int) -> RawRow:
    """Convert a row with a value that Python cannot represent; that value becomes `OutOfRange`."""
    values: dict[str, Any] = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            values[name] = column[0].as_py()
        except (ValueError, OverflowError, pa.ArrowException) as error:
            values[name] = OutOfRange(f"a value of type {clip(column.type, 60)} that is out of range: {clip(error)}")
    return RawRow(unit.origin, index, values, is_typed=True)
