"""Greedy facility location over all pairs, with similarities recomputed in blocks, for subsets too small for a graph.

`exact_greedy` is the plain greedy order by lazy evaluation (Minoux 1978). `stochastic_greedy` evaluates a random sample
of candidates in each step and reaches 1 − 1/e − ε in expectation (Mirzasoleiman et al., AAAI 2015,
https://arxiv.org/abs/1409.7938). Gains are whole numbers, as in `lazy_greedy`.

Memory for N rows of d dimensions: 4 d N bytes and about 30 N; there is no (N, N) matrix.
"""

from __future__ import annotations

import heapq
import math

import numpy as np

from s2l_ray.data.ranking import sampling_keys
from s2l_ray.selection.inputs import Array
from s2l_ray.selection.lazy_greedy import GreedyOrder
from s2l_ray.selection.unit_vectors import MAX_SIMILARITY, UnitVectors, quantised_similarity

_BLOCK_ROWS = 2048
_BATCH = 32
"""Candidates evaluated at once: one matrix product instead of several matrix-vector products."""


class AllPairs:
    """Coverage of all rows so far, and the gains of further candidates."""

    def __init__(self, unit: UnitVectors) -> None:
        self.unit = unit
        self.vectors = unit.vectors.astype(np.float32)  # (N, d)
        self.cover = np.zeros(len(unit), dtype=np.float32)  # whole numbers

    def gains(self, rows: Array) -> Array:
        """Return what each of `rows` (B,) would add, (B,) int64."""
        total = np.zeros(len(rows), dtype=np.float64)
        for start in range(0, len(self.cover), _BLOCK_ROWS):
            block = self._similarities(start, rows)  # (C, B)
            block -= self.cover[start : start + _BLOCK_ROWS, None]
            total += np.maximum(block, 0, out=block).sum(axis=0, dtype=np.float64)  # whole numbers below 2⁵³: exact
        return total.astype(np.int64)

    def choose(self, row: int) -> None:
        rows = np.array([row])
        for start in range(0, len(self.cover), _BLOCK_ROWS):
            block = self.cover[start : start + _BLOCK_ROWS]
            np.maximum(block, self._similarities(start, rows)[:, 0], out=block)

    def upper_bounds(self) -> Array:
        """Return upper bounds on the gains over the empty set, (N,) int64, computed without pairs."""
        mean = self.vectors.astype(np.float64) * self.unit.inverse_norm[:, None]
        total = self.vectors @ mean.sum(axis=0).astype(np.float64) * self.unit.inverse_norm  # (N,) sum of cosines
        num = len(total)
        slack = 2 + 0.51 * num + 1e-6 * num * MAX_SIMILARITY  # for rounding to whole numbers, and float32
        return np.ceil((num + total) * (MAX_SIMILARITY / 2) + slack).astype(np.int64)

    def _similarities(self, start: int, rows: Array) -> Array:
        """Return similarities between a block of all rows and `rows` (B,), (C, B) float32 whole numbers."""
        dots = self.vectors[start : start + _BLOCK_ROWS] @ self.vectors[rows].T
        block = quantised_similarity(
            dots, self.unit.inverse_norm[start : start + _BLOCK_ROWS, None], self.unit.inverse_norm[rows]
        )
        own = np.flatnonzero((rows >= start) & (rows < start + len(block)))
        block[rows[own] - start, own] = MAX_SIMILARITY
        return block


def exact_greedy(unit: UnitVectors, budget: int) -> GreedyOrder:
    """Compute the greedy order, with ties going to the lowest row. Time: about 100 N d per choice."""
    pairs, num = AllPairs(unit), len(unit)
    bounds = [-int(bound) * num + row for row, bound in enumerate(pairs.upper_bounds())]
    heapq.heapify(bounds)
    fresh: set[int] = set()  # keys computed since the last choice
    rows: list[int] = []
    gains: list[int] = []
    num_evaluations = 0
    while len(rows) < min(budget, num):
        if bounds[0] in fresh:
            key = heapq.heappop(bounds)
            rows.append(key % num)
            gains.append(-(key // num))
            fresh.clear()
            pairs.choose(rows[-1])
            continue
        top = [heapq.heappop(bounds) for _ in range(min(_BATCH, len(bounds)))]
        stale = np.array([key % num for key in top if key not in fresh])
        num_evaluations += len(stale)
        found = [-int(gain) * num + int(row) for gain, row in zip(pairs.gains(stale), stale, strict=True)]
        for key in [key for key in top if key in fresh] + found:
            heapq.heappush(bounds, key)
        fresh.update(found)
    return GreedyOrder(np.array(rows, np.int64), np.array(gains, np.int64), num_evaluations)


def stochastic_greedy(unit: UnitVectors, example_ids: Array, budget: int, seed: int, epsilon: float) -> GreedyOrder:
    """Choose, in each step, the best of ⌈N/n · ln(1/ε)⌉ random candidates. Time: N² d ln(1/ε) for any budget.

    Args:
        example_ids: (N, 2) ids of the vectors, which with the seed determine the candidates of each step.
    """
    pairs, num = AllPairs(unit), len(unit)
    budget = min(budget, num)
    size = min(num, math.ceil(num / budget * math.log(1 / epsilon)))
    left = np.argsort(sampling_keys(example_ids, seed, "facility-location"), kind="stable")  # a random permutation
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = np.empty(budget, dtype=np.int64)
    gains = np.empty(budget, dtype=np.int64)
    num_evaluations = 0
    for step in range(budget):
        remaining = num - step
        places = rng.choice(remaining, min(size, remaining), replace=False, shuffle=False)
        candidates = np.sort(left[places])
        found = np.concatenate([pairs.gains(candidates[i : i + _BATCH]) for i in range(0, len(candidates), _BATCH)])
        num_evaluations += len(candidates)
        best = int(found.argmax())  # the first one, which is the lowest row
        rows[step], gains[step] = candidates[best], found[best]
        pairs.choose(int(rows[step]))
        left[places[left[places] == rows[step]]] = left[remaining - 1]
    return GreedyOrder(rows, gains, num_evaluations)
