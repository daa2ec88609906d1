"""Read token parts from storage into Examples."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ID_TYPE, ids_to_array
from s2l_ray.data.token_examples import Examples
from s2l_ray.storage.folder import Storage

TOKEN_SCHEMA = pa.schema(
    [
        ("example_id", ID_TYPE),
        ("source", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("response_mask", pa.list_(pa.bool_())),
    ]
)


def to_examples(table: pa.Table) -> Examples:
    """Convert rows of token parts to flat arrays."""
    table = table.combine_chunks()
    if table.num_rows == 0:
        return Examples(np.zeros((0, 2), np.uint64), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(1, np.int64))
    tokens, mask = table["input_ids"].chunk(0), table["response_mask"].chunk(0)
    offsets = tokens.offsets.to_numpy().astype(np.int64)
    return Examples(
        ids_to_array(table["example_id"]),
        tokens.flatten().to_numpy(),
        mask.flatten().to_numpy(zero_copy_only=False),
        offsets - offsets[0],
    )


def read_parts(tokens: Storage, parts: list[int]) -> Examples:
    """Read several parts and concatenate them in the given order."""
    columns = ["example_id", "input_ids", "response_mask"]
    return Examples.concatenate([to_examples(tokens.read_table(part_name(p), columns=columns)) for p in parts])
