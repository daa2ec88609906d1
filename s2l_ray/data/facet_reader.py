"""Read facets of examples from the corpus's parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.data.facets import PREFIX
from s2l_ray.storage.folder import Storage


def read_facets(examples: Storage, part: str, ids: np.ndarray, names: Sequence[str]) -> list[pa.Array]:
    """Return the facets `names` of the examples `ids` (n, 2) of one part, each (n,) text in their order."""
    table = examples.read_table(part, ["example_id", *(PREFIX + name for name in names)])
    known = {tuple(one): at for at, one in enumerate(ids_to_array(table["example_id"]).tolist())}
    at = pa.array([known[tuple(one)] for one in ids.tolist()], pa.int64())
    return [table[PREFIX + name].combine_chunks().cast(pa.string()).take(at) for name in names]


def load_facet(
    examples: Storage, part_rows: Sequence[tuple[int, int]], ids: np.ndarray, name: str
) -> tuple[list[str], np.ndarray]:
    """Return (values, (N,) int32 codes into them) for all examples `ids` (N, 2), given in the order of the parts.

    Rows without a value get "". Memory: 4 bytes per example, and one part.
    """
    codes: dict[str, int] = {}
    out = np.empty(len(ids), np.int32)
    start = 0
    for part, rows in part_rows:
        [values] = read_facets(examples, part_name(part), ids[start : start + rows], [name])
        encoded = values.fill_null("").dictionary_encode()
        local = np.array([codes.setdefault(v, len(codes)) for v in encoded.dictionary.to_pylist()], np.int32)
        out[start : start + rows] = local[encoded.indices.to_numpy()]
        start += rows
    return list(codes), out
