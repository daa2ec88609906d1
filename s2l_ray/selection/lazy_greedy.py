"""Greedy facility location on a sparse graph of similarities (Lindgren et al., NeurIPS 2016), by lazy evaluation.

f(S) = Σ_i max_{j∈S} s_ij is monotone and submodular, so every prefix of the greedy order reaches at least 1 − 1/e of
the best subset of its size (Nemhauser et al. 1978), on the given graph. A candidate's gain never rises, so an old gain
is an upper bound, and only candidates that come to the top are evaluated again (Minoux 1978). Gains are sums of whole
numbers, so that neither the order of summation nor threads can break a tie. Ties go to the lowest row.

Memory for N rows with k neighbours each: 12 k N bytes for the two directions of the graph, plus about 60 N.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from s2l_ray.selection.inputs import Array
from s2l_ray.selection.neighbours import Neighbours

_BLOCK = 2**16
"""Candidates sorted at once: numpy sorts 16-bit numbers in linear time."""


@dataclass(frozen=True)
class GreedyOrder:
    """Rows in the order in which a greedy algorithm chose them."""

    rows: Array
    """(n,) int64, in the order in which they were chosen."""
    gains: Array
    """(n,) int64, what each added to f, in units of similarity steps."""
    num_evaluations: int
    """Number of gains that were recomputed."""


@dataclass(frozen=True)
class CoverageGraph:
    """Rows that each candidate covers, with similarities."""

    starts: Array
    """(N + 1,) int64: candidate j covers the entries starts[j] … starts[j + 1]."""
    rows: Array
    """(E,) int32."""
    similarities: Array
    """(E,) uint16."""
    num_rows: int
    """Number of rows, N; there may be fewer candidates."""

    @property
    def num_candidates(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of_neighbours(cls, neighbours: Neighbours, num_candidates: int) -> CoverageGraph:
        """Invert the neighbours of each row, so that each candidate lists its rows, by a counting sort in blocks."""
        candidates, similarities = neighbours.rows, neighbours.similarities
        num_rows, degree = candidates.shape
        flat, flat_similarities = candidates.reshape(-1), similarities.reshape(-1)
        counts = np.zeros(num_candidates, dtype=np.int64)
        for slot in range(degree):
            found = candidates[:, slot]
            counts += np.bincount(found[found >= 0], minlength=num_candidates)
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows, out = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=np.uint16)
        for first in range(0, num_candidates, _BLOCK):
            entries = np.flatnonzero((flat >= first) & (flat < first + _BLOCK))
            entries = entries[np.argsort((flat[entries] - first).astype(np.uint16), kind="stable")]
            where = slice(starts[first], starts[min(first + _BLOCK, num_candidates)])
            rows[where] = entries // degree
            out[where] = flat_similarities[entries]
        return cls(starts, rows, out, num_rows)

    @classmethod
    def of_matrix(cls, similarities: Array) -> CoverageGraph:
        """Build the graph from (N, N) uint16 similarities s_ij in row i, column j, leaving out zeros."""
        candidates, rows = np.nonzero(similarities.T)
        starts = np.concatenate([[0], np.cumsum(np.bincount(candidates, minlength=len(similarities)))])
        return cls(starts, rows.astype(np.int32), similarities.T[candidates, rows], len(similarities))


def greedy_cover(graph: CoverageGraph, budget: int) -> GreedyOrder:
    """Choose `budget` candidates, largest gain first, with ties going to the lowest number."""
    num = graph.num_candidates
    gains = _first_gains(graph)  # (C,)
    budget = min(budget, num)
    bounds = np.sort(-gains * num + np.arange(num)).tolist()  # sorted, hence a heap
    cover = np.zeros(graph.num_rows, dtype=np.int32)
    chosen: list[int] = []
    chosen_gains: list[int] = []
    num_evaluations = 0
    while len(chosen) < budget:
        row = bounds[0] % num
        gain = _gain(graph, row, cover)
        num_evaluations += 1
        key = _key(gain, row, num)
        heapq.heapreplace(bounds, key)
        if bounds[0] != key:
            continue
        if gain == 0:  # the highest bound is 0, so no candidate can gain anything: order the rest by row
            others = sorted(bound % num for bound in bounds)[: budget - len(chosen)]
            chosen += others
            chosen_gains += [0] * len(others)
            break
        heapq.heappop(bounds)
        chosen.append(row)
        chosen_gains.append(gain)
        entries = slice(graph.starts[row], graph.starts[row + 1])
        covered = graph.rows[entries]
        cover[covered] = np.maximum(cover[covered], graph.similarities[entries])
    return GreedyOrder(np.array(chosen, dtype=np.int64), np.array(chosen_gains, dtype=np.int64), num_evaluations)


def _key(gain: int, row: int, num: int) -> int:
    """Encode gain and row in one integer that sorts by falling gain, then by row; modulo `num`, it is the row."""
    return -gain * num + row


def _first_gains(graph: CoverageGraph) -> Array:
    """Compute the gains over the empty set, (C,) int64."""
    num = graph.num_candidates
    gains = np.empty(num, dtype=np.int64)
    for first in range(0, num, _BLOCK):
        stop = min(first + _BLOCK, num)
        entries = slice(graph.starts[first], graph.starts[stop])
        total = np.concatenate([[0], np.cumsum(graph.similarities[entries], dtype=np.int64)])
        offsets = graph.starts[first : stop + 1] - graph.starts[first]
        gains[first:stop] = np.diff(total[offsets])
    return gains


def _gain(graph: CoverageGraph, row: int, cover: Array) -> int:
    entries = slice(graph.starts[row], graph.starts[row + 1])
    covered = graph.rows[entries]
    better = graph.similarities[entries] - cover[covered]
    np.maximum(better, 0, out=better)
    return int(better.sum(dtype=np.int64))
