"""Read rows from Arrow files: those of Hugging Face's `save_to_disk` (IPC streams) and Feather files (IPC files).

Memory: one record batch, whose size was chosen by the program that wrote the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.ipc

from s2l_ray.data.parquet_rows import refuse_doubled, rows_of_batch
from s2l_ray.data.units import MAX_COLUMNS, RawRow, ReadUnit

_FILE_MAGIC = b"ARROW1"


def read_arrow(unit: ReadUnit, filesystem: pafs.FileSystem, path: str, max_row_bytes: int) -> Iterator[RawRow]:
    """Yield the rows of all record batches in order, with class labels as names."""
    index = 0
    with filesystem.open_input_file(path) as file:
        is_file = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        file.seek(0)
        reader = pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)
        if len(reader.schema.names) > MAX_COLUMNS:
            raise OSError(f"it has {len(reader.schema.names):,} columns, more than the {MAX_COLUMNS:,} supported")
        refuse_doubled(reader.schema)
        names = class_names(reader.schema)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
        for batch in batches:
            yield from rows_of_batch(unit, with_class_names(batch, names), index, max_row_bytes)
            index += batch.num_rows


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Map each column of class labels to its class names, which Hugging Face's datasets store in the schema."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features: dict[str, Any] = info["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    labels = {n: f.get("names") for n, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    return {name: list(names) for name, names in labels.items() if isinstance(names, list)}


def with_class_names(batch: pa.RecordBatch, names: dict[str, list[str]]) -> pa.RecordBatch:
    """Replace class numbers by class names; rows without a class (-1) get null."""
    for column, classes in names.items():
        at = batch.schema.get_field_index(column)
        if at >= 0 and pa.types.is_integer(batch.schema.field(at).type):
            codes = batch.column(at).to_pylist()
            texts = [classes[c] if c is not None and 0 <= c < len(classes) else None for c in codes]
            batch = batch.set_column(at, pa.field(column, pa.string()), pa.array(texts, pa.string()))
    return batch
