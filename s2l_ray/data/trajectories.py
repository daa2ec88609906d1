"""Load the trajectories of all examples into one process, for clustering and selection.

Memory: N × (4 T + 16 + 4) bytes, 7 GB at N = 10^8 and T = 12; above MEMMAP_BYTES the losses are in a temporary file.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.storage.folder import Storage

MEMMAP_BYTES = 4 * 2**30

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Trajectories:
    """Loss trajectories of all N examples at T snapshots."""

    ids: Array
    """(N, 2) uint64 example ids."""
    losses: Array
    """(N, T) float32 losses in nats per response token; memory-mapped if large."""
    sources: Array
    """(N,) int32 codes into `source_names`."""
    source_names: list[str]
    part_rows: list[tuple[int, int]]
    """(part, number of rows), in row order."""


def load_trajectories(storage: Storage, part_rows: list[tuple[int, int]], num_snapshots: int) -> Trajectories:
    """Read all parts, given as (part, rows), in order, into preallocated arrays."""
    num = sum(rows for _, rows in part_rows)
    losses = _new_matrix(num, num_snapshots)
    ids = np.empty((num, 2), dtype=np.uint64)
    sources = np.empty(num, dtype=np.int32)
    codes: dict[str, int] = {}
    start = 0
    columns = ["example_id", "source", "loss_nats"]
    tables = storage.read_tables([part_name(part) for part, _ in part_rows], columns)
    for (_, rows), table in zip(part_rows, tables, strict=True):
        end = start + rows
        ids[start:end] = ids_to_array(table["example_id"])
        losses[start:end] = table["loss_nats"].combine_chunks().flatten().to_numpy().reshape(rows, num_snapshots)
        encoded = table["source"].combine_chunks().dictionary_encode()
        local = np.array([codes.setdefault(name, len(codes)) for name in encoded.dictionary.to_pylist()], np.int32)
        sources[start:end] = local[encoded.indices.to_numpy()]
        start = end
    return Trajectories(ids, losses, sources, list(codes), part_rows)


def load_columns(storage: Storage, part_rows: list[tuple[int, int]], column: str, num_snapshots: int) -> Array:
    """Read a column with one value per example and snapshot, in the order of the parts → (N, T) float32."""
    matrix = _new_matrix(sum(rows for _, rows in part_rows), num_snapshots)
    start = 0
    tables = storage.read_tables([part_name(part) for part, _ in part_rows], [column])
    for (_, rows), table in zip(part_rows, tables, strict=True):
        matrix[start : start + rows] = table[column].combine_chunks().flatten().to_numpy().reshape(rows, num_snapshots)
        start += rows
    return matrix


def _new_matrix(num: int, num_snapshots: int) -> Array:
    shape = (num, num_snapshots)
    if 4 * num * num_snapshots <= MEMMAP_BYTES:
        return np.empty(shape, dtype=np.float32)
    file = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the map; has no name, so nothing is left behind
    return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def snapshot_columns(recorded: int, used: int | None, which: str) -> np.ndarray:
    """Return the columns of the matrix to use: all, the first `used`, or `used` evenly spaced with first and last.

    A single evenly spaced column is the last one, because the trained proxy says more than the untrained one.
    """
    if used is None or used >= recorded:
        return np.arange(recorded)
    if which == "first":
        return np.arange(used)
    return np.linspace(0, recorded - 1, used).round().astype(int) if used > 1 else np.array([recorded - 1])
