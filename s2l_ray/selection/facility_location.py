"""Facility location: choose the solver, the number of neighbours and the partitions, and compute the order.

The objective is f(S) = Σ_i max_{j∈S} s_ij with s = (1 + cosine) / 2: every example should be close to a selected one.
`knn` is greedy on the graph of nearest neighbours and needs two rules, which were found by measurement (5,000 to 50,000
rows in 200 unequal groups; 100 % is the gain of plain greedy over random subsets):

- Neighbours: m = 1.5 N/n, from 32 to 256. With m n < N the graph does not reach the whole corpus (86 to 94 %).
- With m n ≥ N, each row's lowest kept similarity is subtracted, because missing pairs are about as similar and not 0
  (100 to 107 % instead of 87 to 99 %). The subtracted value is at most 7/8 of the way from the mean similarity of all
  pairs to 1: if many rows are alike, all their neighbours are equally close, the difference would be 0, and nothing
  would ever cover them (with 40 % duplicates −28 to −177 %, worse than random, instead of 100 to 104 %).

A subset of less than N/170 needs more than 256 neighbours. `auto` then uses a uniform sample of 170 n rows, both as the
corpus and as the candidates: 103 to 105 % in seconds, where `exact` greedy over all pairs took minutes, and
`stochastic` greedy took as long to reach 97 to 100 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from s2l_ray.data.ranking import sampling_keys
from s2l_ray.errors import UserError
from s2l_ray.selection.dense_greedy import exact_greedy, stochastic_greedy
from s2l_ray.selection.inputs import Array
from s2l_ray.selection.lazy_greedy import CoverageGraph, greedy_cover
from s2l_ray.selection.neighbours import Neighbours, find_among, find_neighbours
from s2l_ray.selection.unit_vectors import MAX_SIMILARITY, UnitVectors

MIN_NEIGHBOURS, MAX_NEIGHBOURS = 32, 256
SAMPLE_PER_CHOICE = 170
MIN_SAMPLE = 10_000
MIN_UNION_NEIGHBOURS = 8
MAX_EXACT_ROWS = 100_000
MAX_UNION_ROWS = 10_000_000

Solver = Literal["auto", "knn", "exact", "stochastic"]


@dataclass(frozen=True)
class FacilitySettings:
    solver: Solver = "auto"
    neighbours: int | None = None
    """Neighbours of the solver `knn`; None: by the rule."""
    epsilon: float = 0.01
    """ε of the solver `stochastic`."""
    partitions: int = 1
    seed: int = 0


@dataclass(frozen=True)
class FacilityOrder:
    rows: Array
    """(n,) int64, vectors in the order in which they were chosen."""
    gains: Array
    """(n,) float64, what each added to the solver's own objective."""
    notes: dict[str, Any]
    """Solver, neighbours and rows that were used; plain data."""
    warnings: list[str] = field(default_factory=list)


def facility_order(unit: UnitVectors, example_ids: Array, budget: int, settings: FacilitySettings) -> FacilityOrder:
    """Compute the greedy order of `budget` vectors.

    Args:
        example_ids: (N, 2) ids of the vectors, ascending.

    Raises:
        UserError: the solver cannot handle so many rows.
    """
    if settings.partitions > 1:
        return _two_rounds(unit, example_ids, budget, settings)
    num, solver = len(unit), settings.solver
    if solver == "exact" or (solver == "auto" and num <= MIN_NEIGHBOURS):
        if num > MAX_EXACT_ROWS:
            raise UserError(
                f"solver=exact compares each choice with all {num:,} embeddings, which takes hours above "
                f"{MAX_EXACT_ROWS:,}; set solver=auto"
            )
        found = exact_greedy(unit, budget)
        return FacilityOrder(found.rows, found.gains / MAX_SIMILARITY, {"solver": "exact", "rows": num})
    if solver == "stochastic":
        found = stochastic_greedy(unit, example_ids, budget, settings.seed, settings.epsilon)
        notes = {"solver": "stochastic", "epsilon": settings.epsilon, "rows": num}
        return FacilityOrder(found.rows, found.gains / MAX_SIMILARITY, notes)
    needed = max(SAMPLE_PER_CHOICE * budget, MIN_SAMPLE)
    if solver == "auto" and settings.neighbours is None and needed < num:
        return _on_sample(unit, example_ids, budget, needed, settings)
    return _on_graph(unit, budget, settings.neighbours)


def num_neighbours(num: int, budget: int) -> int:
    """Return the number of neighbours, m = ⌈1.5 N/n⌉ within its bounds."""
    return min(num, max(MIN_NEIGHBOURS, min(MAX_NEIGHBOURS, math.ceil(1.5 * num / budget))))


def _on_sample(
    unit: UnitVectors, example_ids: Array, budget: int, size: int, settings: FacilitySettings
) -> FacilityOrder:
    """Compute the order within a uniform sample, which the seeded keys of the ids determine."""
    keys = sampling_keys(example_ids, settings.seed, "facility-location")
    sample = np.sort(np.argsort(keys, kind="stable")[:size])
    part = unit.part(sample)
    # In a sample that its minimum size makes larger than 170 n, 256 neighbours reach too few rows.
    if size > SAMPLE_PER_CHOICE * budget:
        found = exact_greedy(part, budget)
        notes = {"solver": "exact", "rows": size, "of_rows": len(unit)}
        return FacilityOrder(sample[found.rows], found.gains / MAX_SIMILARITY, notes)
    order = _on_graph(part, budget, None)
    return FacilityOrder(sample[order.rows], order.gains, order.notes | {"of_rows": len(unit)}, order.warnings)


def _on_graph(unit: UnitVectors, budget: int, neighbours: int | None) -> FacilityOrder:
    """Compute the order by lazy greedy on the graph of nearest neighbours."""
    num = len(unit)
    degree = min(num, neighbours or num_neighbours(num, budget))
    graph = find_neighbours(unit, degree)
    covers_all = degree * min(budget, num) >= num
    notes = {"solver": "knn", "neighbours": degree, "rows": num, "subtracted": covers_all}
    if covers_all:
        graph = _above_missing(unit, graph)
        warnings = []
    else:
        warnings = [
            f"{degree} neighbours of each of {budget:,} selected examples cannot reach all {num:,} examples, so some "
            "regions do not count; raise neighbours, or set solver=auto"
        ]
    found = greedy_cover(CoverageGraph.of_neighbours(graph, num), budget)
    return FacilityOrder(found.rows, found.gains / MAX_SIMILARITY, notes, warnings)


def _above_missing(unit: UnitVectors, graph: Neighbours) -> Neighbours:
    """Subtract from similarities what each row has without any of its neighbours: about that to its last neighbour."""
    lowest = np.where(graph.rows >= 0, graph.similarities, MAX_SIMILARITY).min(axis=1)  # (N,)
    total = np.zeros(unit.vectors.shape[1])
    for start in range(0, len(unit), 65_536):
        total += unit.vectors[start : start + 65_536].sum(axis=0, dtype=np.float64)  # exact: multiples of 2⁻¹¹
    mean_similarity = (1 + float(np.square(total).sum()) / len(unit) ** 2) / 2
    highest = MAX_SIMILARITY * (1 - (1 - mean_similarity) / 8)
    floor = np.minimum(lowest, int(highest)).astype(np.uint16)[:, None]
    return Neighbours(graph.rows, np.maximum(graph.similarities, floor) - floor)


def _two_rounds(unit: UnitVectors, example_ids: Array, budget: int, settings: FacilitySettings) -> FacilityOrder:
    """Compute the order by RandGreeDi (Barbosa et al., ICML 2015, https://arxiv.org/abs/1502.02606): greedy in each of
    P random parts, then over the union of their choices, on the graph of every row's nearest neighbours in the union.

    Weighting each choice by the rows of its part that it represents would need no graph of all rows, but reached 90 to
    94 % where this reaches 98 to 100 %.
    """
    parts = settings.partitions
    if parts * budget > MAX_UNION_ROWS:
        raise UserError(
            f"partitions={parts} × a budget of {budget:,} gives a second round over {parts * budget:,} rows, more than "
            f"the {MAX_UNION_ROWS:,} that fit on one node; lower the budget or the number of partitions"
        )
    which = sampling_keys(example_ids, settings.seed, "facility-location-part") % np.uint64(parts)
    chosen = []
    for part in range(parts):
        rows = np.flatnonzero(which == part)
        if len(rows):
            order = _on_graph(unit.part(rows), min(budget, len(rows)), settings.neighbours)
            chosen.append(rows[order.rows])
    union = np.sort(np.concatenate(chosen))
    degree = max(MIN_UNION_NEIGHBOURS, math.ceil(1.5 * len(union) / budget))
    graph = _above_missing(unit, find_among(unit, union, degree))
    found = greedy_cover(CoverageGraph.of_neighbours(graph, len(union)), budget)
    notes = {"solver": "knn", "neighbours": degree, "rows": len(unit), "partitions": parts, "second_round": len(union)}
    return FacilityOrder(union[found.rows], found.gains / MAX_SIMILARITY, notes)
