"""Writes the selected rows as JSONL and Parquet, with the corpus's own columns and the s2l_ columns.

`subset.jsonl` and `subset.parquet`, or numbered shards of at most ROWS_PER_FILE rows. Rows keep the order of the
example ids, which is random with respect to the corpus.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2l_ray.data.columns import Columns
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.stages.subset.layout import RowLayout
from s2l_ray.storage.folder import Storage

ROWS_PER_FILE = 250_000
_BLOCK_BYTES = 32 * 2**20
"""Amount of JSON text that is converted into one row group of Parquet."""


def plan_files(chosen: pa.Table) -> list[tuple[str, pa.Table]]:
    """Divide the rows into files → (name without extension, its rows); rows of one corpus part stay together."""
    if chosen.num_rows <= ROWS_PER_FILE:
        return [("subset", chosen)]
    parts = chosen["part"].to_numpy()
    starts = np.flatnonzero(np.r_[True, parts[1:] != parts[:-1]])
    cuts = [0]
    for start in starts[1:]:
        if start - cuts[-1] >= ROWS_PER_FILE:
            cuts.append(int(start))
    cuts.append(chosen.num_rows)
    count = len(cuts) - 1
    return [(f"subset-{i:05d}-of-{count:05d}", chosen.slice(cuts[i], cuts[i + 1] - cuts[i])) for i in range(count)]


def write_rows(
    stem: str, chosen: pa.Table, examples: Storage, out: Storage, columns: Columns | None = None
) -> tuple[list[str], RowLayout]:
    """Look the rows up in the corpus's parts, and write both files, some rows at a time → their names, and the rows'
    layout.

    Args:
        columns: columns of the corpus, as determined when it was read; None: an earlier version read it, so they are
            determined now.
    """
    if columns is None:
        columns = Columns()
        for text, _ in _lookup(chosen, examples):
            columns.add(json.loads(text))
    types = columns.arrow_types()
    own = chosen.drop_columns(["example_id", "part"]).schema
    schema = pa.schema([(name, pa.string() if kind is None else kind) for name, kind in types.items()] + list(own))
    block: list[dict[str, Any]] = []
    block_bytes = 0
    layout = RowLayout()
    with (
        out.atomic_output(f"{stem}.jsonl") as jsonl,
        out.atomic_output(f"{stem}.parquet") as parquet,
        pq.ParquetWriter(parquet, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for text, extra in _lookup(chosen, examples):
            # Spliced as text, so that the rows stay unchanged to the last digit.
            comma = ", " if len(text) > len("{}") else ""
            jsonl.write(f"{text[:-1]}{comma}{json.dumps(extra)[1:]}\n".encode())
            row = json.loads(text)
            layout.add(row)
            block.append(row | extra)
            block_bytes += len(text)
            if block_bytes > _BLOCK_BYTES:
                writer.write_table(_to_table(block, types, schema))
                block, block_bytes = [], 0
        writer.write_table(_to_table(block, types, schema))
    return [f"{stem}.jsonl", f"{stem}.parquet"], layout


def _lookup(chosen: pa.Table, examples: Storage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (row as JSON, the s2l_ columns) for every selected example, with one part in memory at a time."""
    for part in dict.fromkeys(chosen["part"].to_pylist()):
        mine = chosen.filter(pc.equal(chosen["part"], part))
        table = examples.read_table(part_name(part), columns=["example_id", "row"])
        at = {tuple(i): n for n, i in enumerate(ids_to_array(table["example_id"]).tolist())}
        texts = table["row"]
        extras = mine.drop_columns(["example_id", "part"]).to_pylist()
        for example_id, extra in zip(ids_to_array(mine["example_id"]).tolist(), extras, strict=True):
            yield texts[at[tuple(example_id)]].as_py(), extra


def _to_table(rows: list[dict[str, Any]], types: dict[str, pa.DataType | None], schema: pa.Schema) -> pa.Table:
    """Convert rows to a table; columns without a type become JSON text."""
    arrays = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if types.get(field.name, field.type) is None:
            values = [None if v is None else json.dumps(v, ensure_ascii=False) for v in values]
        arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)
