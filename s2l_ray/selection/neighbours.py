"""Nearest neighbours by cosine (faiss, https://github.com/facebookresearch/faiss), the same with any number of threads.

Up to FLAT_ROWS rows, every pair is compared. Beyond that, faiss's inverted file searches PROBES of about 4 √N lists,
for which choosing lists and comparing vectors cost the same. It misses a few neighbours; which ones can differ between
types of processors, with the last bits of its centroids. Parallelism comes from Python threads over chunks with fixed
borders.

Memory for N examples of d dimensions and k neighbours: 4 d N bytes in faiss's index, 6 k N for the result.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.selection.inputs import Array, EmbeddingReader
from s2l_ray.selection.kmeans import MAX_THREADS, import_faiss, one_openmp_thread
from s2l_ray.selection.unit_vectors import (
    MAX_SIMILARITY,
    UnitVectors,
    quantised_similarity,
    read_unit_vectors,
)

FLAT_ROWS = 50_000
PROBES = 16
QUERY_ROWS = 4096
ADD_ROWS = 65_536
_TRAIN_POINTS_PER_LIST = 39  # with fewer, faiss warns
_TRAIN_ITERATIONS = 8


@dataclass(frozen=True)
class Neighbours:
    """The k most similar vectors of each vector, itself first."""

    rows: Array
    """(N, k) int32; −1 where fewer were found."""
    similarities: Array
    """(N, k) uint16, (1 + cosine) / 2 in steps of 1/65,535; 0 where fewer were found."""


def find_neighbours(unit: UnitVectors, num_neighbours: int, num_threads: int | None = None) -> Neighbours:
    """Find the `num_neighbours` most similar vectors of each, including itself even if it has many duplicates.

    Args:
        num_threads: at most MAX_THREADS; None: OMP_NUM_THREADS. The result does not depend on it.
    """
    num = len(unit)
    num_neighbours = min(num_neighbours, num)
    rows = np.empty((num, num_neighbours), dtype=np.int32)
    similarities = np.empty((num, num_neighbours), dtype=np.uint16)
    faiss = import_faiss()
    with one_openmp_thread(faiss) as allowed:
        index = _build_index(faiss, unit)

        def search(start: int) -> None:
            stop = min(start + QUERY_ROWS, num)
            dots, found = index.search(unit.vectors[start:stop].astype(np.float32), num_neighbours)  # (C, k)
            own = np.arange(start, stop)[:, None]
            others = _without(found, own)  # (C, k) bool, all but one of each row
            shape = (stop - start, num_neighbours - 1)
            found, dots = found[others].reshape(shape), dots[others].reshape(shape)
            similar = quantised_similarity(dots, unit.inverse_norm[own], unit.inverse_norm[found])
            similar[found < 0] = 0
            rows[start:stop, :1], rows[start:stop, 1:] = own, found
            similarities[start:stop, 0], similarities[start:stop, 1:] = MAX_SIMILARITY, similar

        _each_chunk(faiss, search, num, num_threads or allowed)
    return Neighbours(rows, similarities)


def find_among(unit: UnitVectors, candidates: Array, num_neighbours: int, num_threads: int | None = None) -> Neighbours:
    """Find the most similar of some `candidates` (C,) for every vector; results are positions in `candidates`."""
    num, num_neighbours = len(unit), min(num_neighbours, len(candidates))
    rows = np.empty((num, num_neighbours), dtype=np.int32)
    similarities = np.empty((num, num_neighbours), dtype=np.uint16)
    faiss, part = import_faiss(), unit.part(candidates)
    with one_openmp_thread(faiss) as allowed:
        index = _build_index(faiss, part)

        def search(start: int) -> None:
            block = slice(start, min(start + QUERY_ROWS, num))
            dots, found = index.search(unit.vectors[block].astype(np.float32), num_neighbours)  # (C, k)
            similar = quantised_similarity(dots, unit.inverse_norm[block, None], part.inverse_norm[found])
            similar[found < 0] = 0
            rows[block], similarities[block] = found, similar

        _each_chunk(faiss, search, num, num_threads or allowed)
    return Neighbours(rows, similarities)


def nearest_rows(reader: EmbeddingReader, example_ids: Array, num_neighbours: int) -> Array:
    """Return the nearest other rows of each row of the inputs, (N, k) int64, with k at most `num_neighbours`.

    If the inverted file finds fewer, the nearest one is repeated.
    """
    unit = read_unit_vectors(reader, example_ids)
    others = find_neighbours(unit, num_neighbours + 1).rows[:, 1:]  # (N, k) in the order of the ids
    lacking = others < 0
    if lacking.any():
        own = np.broadcast_to(np.arange(len(others))[:, None], others.shape)
        others = np.where(lacking, np.where(others[:, :1] < 0, own, others[:, :1]), others)
    result = np.empty(others.shape, dtype=np.int64)
    result[unit.order] = unit.order[others]
    return result


def _without(found: Array, own: Array) -> Array:
    """Return (C, k) bool, False once in each row: where it contains `own` (C, 1), or else at the end."""
    is_own = found == own
    drop = np.where(is_own.any(axis=1), is_own.argmax(axis=1), found.shape[1] - 1)
    keep = np.ones(found.shape, dtype=bool)
    keep[np.arange(len(found)), drop] = False
    return keep


def _build_index(faiss: Any, unit: UnitVectors) -> Any:
    num, dim = unit.vectors.shape
    if num <= FLAT_ROWS:
        index = faiss.IndexFlatIP(dim)
    else:
        num_lists = int(4 * np.sqrt(num))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, num_lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = PROBES
        index.cp.niter = _TRAIN_ITERATIONS
        index.cp.min_points_per_centroid = 1
        step = max(1, num // (_TRAIN_POINTS_PER_LIST * num_lists))  # ids are hashes: every n-th is a random sample
        index.train(unit.vectors[::step].astype(np.float32))
    for start in range(0, num, ADD_ROWS):
        index.add(unit.vectors[start : start + ADD_ROWS].astype(np.float32))
    return index


def _each_chunk(faiss: Any, work: Callable[[int], None], num_rows: int, num_threads: int) -> None:
    starts = range(0, num_rows, QUERY_ROWS)
    num_threads = min(num_threads, MAX_THREADS, len(starts))
    if num_threads <= 1:
        for start in starts:
            work(start)
        return
    # OpenMP's number of threads is a setting of each thread, so each thread of the pool sets its own.
    with ThreadPoolExecutor(num_threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        list(pool.map(work, starts))
