"""Embeddings of unit length on a grid, in the order of the ids, so that similarities are bit-identical everywhere.

Entries are multiples of 2⁻¹¹. Products of two are multiples of 2⁻²², and the sum of any terms of a dot product is at
most 1 (Cauchy-Schwarz), so float32's 24 bits hold every partial sum: dot products are exact, whatever the order of
summation, the number of threads, the library or the processor. The grid costs about 2·10⁻⁴ of a cosine. Rows are sorted
by id, so that the corpus's partitions do not matter either.

Memory for N examples of d dimensions: 2 d N bytes (float16 represents the grid exactly), in a temporary file above
MEMMAP_BYTES, plus 12 N bytes.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import numpy as np

from s2l_ray.data.example_id import array_to_hex
from s2l_ray.errors import DataError, listed
from s2l_ray.selection.inputs import Array, EmbeddingReader

GRID = 2048.0
MEMMAP_BYTES = 4 * 2**30
MAX_SIMILARITY = 65_535
READ_ROWS = 16_384


@dataclass(frozen=True)
class UnitVectors:
    vectors: Array
    """(N, d) float16, multiples of 2⁻¹¹, by ascending id; a memory map if large."""
    inverse_norm: Array
    """(N,) float32, 1 / norm, which differs a little from 1 because of the grid."""
    order: Array
    """(N,) int64, the row of the inputs to which each vector belongs."""

    def __len__(self) -> int:
        return len(self.vectors)

    def part(self, rows: Array) -> UnitVectors:
        """Return the vectors of `rows` (M,), which ascend."""
        return UnitVectors(self.vectors[rows], self.inverse_norm[rows], self.order[rows])


def read_unit_vectors(reader: EmbeddingReader, example_ids: Array) -> UnitVectors:
    """Normalise and sort all embeddings.

    Raises:
        DataError: an embedding is zero or not finite, or an id occurs twice; the message names the examples.
    """
    num, dim = reader.shape
    order = np.lexsort((example_ids[:, 1], example_ids[:, 0]))
    _refuse_repeated(example_ids[order])
    position = np.empty(num, dtype=np.int64)
    position[order] = np.arange(num)
    vectors = new_matrix((num, dim), np.dtype(np.float16))
    inverse_norm = np.empty(num, dtype=np.float32)
    for start in range(0, num, READ_ROWS):
        chunk = normalise(reader.read(start, min(start + READ_ROWS, num)), example_ids[start : start + READ_ROWS])
        where = position[start : start + len(chunk)]
        vectors[where] = chunk
        inverse_norm[where] = 1 / np.sqrt(np.square(chunk, dtype=np.float64).sum(axis=1))
    return UnitVectors(vectors, inverse_norm, order)


def _refuse_repeated(ascending: Array) -> None:
    twice = np.flatnonzero((ascending[1:] == ascending[:-1]).all(axis=1))
    if len(twice):
        example = array_to_hex(ascending[twice[:1]])[0]
        raise DataError(
            f"{len(twice):,} example ids occur more than once, for example {example}; their "
            "order would depend on the corpus's partitions. Ids must be unique: build the corpus again"
        )


def normalise(embeddings: Array, example_ids: Array | None = None) -> Array:
    """Normalise (C, d) floats to unit length and round them to the grid → (C, d) float64.

    Raises:
        DataError: a row is zero or not finite.
    """
    embeddings = np.ascontiguousarray(embeddings, dtype=np.float64)  # one order of summation, whatever the layout
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.square(embeddings).sum(axis=1))  # (C,)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        names = [f"row {row}" for row in bad] if example_ids is None else array_to_hex(example_ids[bad])
        raise DataError(
            f"{len(bad):,} embeddings are zero or not finite (those of {', '.join(listed(names, 4))}), so they have no "
            "direction and nothing is close to them; score the corpus again"
        )
    return np.rint(embeddings / norms[:, None] * GRID) / GRID


def quantised_similarity(dots: Array, norms_of_rows: Array, norms_of_columns: Array) -> Array:
    """Convert (R, C) float32 dot products in place to (1 + cosine) / 2 in steps of 1/65,535, as whole numbers.

    Args:
        norms_of_rows: (R, 1) inverse norms.
        norms_of_columns: (C,) or (R, C) inverse norms.
    """
    dots *= norms_of_rows
    dots *= norms_of_columns
    dots += 1
    dots *= np.float32(MAX_SIMILARITY / 2)
    np.rint(dots, out=dots)
    return np.clip(dots, 0, MAX_SIMILARITY, out=dots)


def new_matrix(shape: tuple[int, int], dtype: np.dtype) -> Array:
    """Return a new array or, above MEMMAP_BYTES, a memory map of a temporary file that disappears with it."""
    if shape[0] * shape[1] * dtype.itemsize <= MEMMAP_BYTES:
        return np.empty(shape, dtype=dtype)
    file = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the map; has no name, so nothing is left behind
    return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
