"""Facility location: the subset to which everything else is near; which solver, how many neighbours, in how many parts.

f(S) = Σ_i max_{j∈S} s_ij with s = (1 + cosine) / 2. `knn` is greedy on the graph of nearest neighbours, which takes two
measured rules (5,000 to 50,000 rows in 200 unequal groups; 100 % is the gain of plain greedy over random subsets):

- neighbours m = 1.5 N/n, from 32 to 256: with m n < N the graph does not reach the whole corpus (86 to 94 %);
- with m n ≥ N each row's lowest kept similarity is subtracted, since missing pairs are about as near and not 0 (100 to
  107 % in place of 87 to 99 %). Never more than 7/8 of the way from the mean similarity of all pairs to 1: where many
  rows are alike, all their neighbours are equally near, the difference would be 0, and nothing would ever cover them
  (with 40 % duplicates −28 to −177 %, worse than random, in place of 100 to 104 %).

A subset of less than N/170 needs more than 256 neighbours. `auto` then takes a uniform sample of 170 n rows, for the
corpus and for the candidates alike: 103 to 105 % in seconds, where `exact` greedy over all pairs took minutes and
`stochastic` greedy as long for 97 to 100 %.
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
    """Of `knn`; None: by the rule."""
    epsilon: float = 0.01
    """Of `stochastic`."""
    partitions: int = 1
    seed: int = 0


@dataclass(frozen=True)
class FacilityOrder:
    rows: Array
    """(n,) int64 vectors in the order of their choice."""
    gains: Array
    """(n,) float64, what each added to f on the solver's own objective."""
    notes: dict[str, Any]
    """Solver, neighbours and rows that were looked at; plain data."""
    warnings: list[str] = field(default_factory=list)


def facility_order(unit: UnitVectors, example_ids: Array, budget: int, settings: FacilitySettings) -> FacilityOrder:
    """The greedy order of `budget` vectors.

    Args:
        example_ids: (N, 2) of the vectors, ascending.

    Raises:
        UserError: the solver cannot serve so many rows.
    """
    if settings.partitions > 1:
        return _two_rounds(unit, example_ids, budget, settings)
    num, solver = len(unit), settings.solver
    if solver == "exact" or (solver == "auto" and num <= MIN_NEIGHBOURS):
        if num > MAX_EXACT_ROWS:
            raise UserError(
                f"solver=exact compares each choice with all of {num:,} embeddings, which takes hours past "
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
    """m = ⌈1.5 N/n⌉ within its bounds."""
    return min(num, max(MIN_NEIGHBOURS, min(MAX_NEIGHBOURS, math.ceil(1.5 * num / budget))))


def _on_sample(
    unit: UnitVectors, example_ids: Array, budget: int, size: int, settings: FacilitySettings
) -> FacilityOrder:
    """The order within a uniform sample, which the keys of the ids decide."""
    keys = sampling_keys(example_ids, settings.seed, "facility-location")
    sample = np.sort(np.argsort(keys, kind="stable")[:size])
    part = unit.part(sample)
    # Of a sample that its minimum has made larger than 170 n, 256 neighbours reach too little.
    if size > SAMPLE_PER_CHOICE * budget:
        found = exact_greedy(part, budget)
        notes = {"solver": "exact", "rows": size, "of_rows": len(unit)}
        return FacilityOrder(sample[found.rows], found.gains / MAX_SIMILARITY, notes)
    order = _on_graph(part, budget, None)
    return FacilityOrder(sample[order.rows], order.gains, order.notes | {"of_rows": len(unit)}, order.warnings)


def _on_graph(unit: UnitVectors, budget: int, neighbours: int | None) -> FacilityOrder:
    """Lazy greedy on the graph of nearest neighbours."""
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
            f"{degree} neighbours of each of {budget:,} choices cannot reach all of {num:,} examples, so some regions "
            "count for nothing; set neighbours higher, or solver=auto"
        ]
    found = greedy_cover(CoverageGraph.of_neighbours(graph, num), budget)
    return FacilityOrder(found.rows, found.gains / MAX_SIMILARITY, notes, warnings)


def _above_missing(unit: UnitVectors, graph: Neighbours) -> Neighbours:
    """Similarities above what each row has anyway, without any of its neighbours: about that of its last neighbour."""
    lowest = np.where(graph.rows >= 0, graph.similarities, MAX_SIMILARITY).min(axis=1)  # (N,)
    total = np.zeros(unit.vectors.shape[1])
    for start in range(0, len(unit), 65_536):
        total += unit.vectors[start : start + 65_536].sum(axis=0, dtype=np.float64)  # exact: multiples of 2⁻¹¹
    mean_similarity = (1 + float(np.square(total).sum()) / len(unit) ** 2) / 2
    highest = MAX_SIMILARITY * (1 - (1 - mean_similarity) / 8)
    floor = np.minimum(lowest, int(highest)).astype(np.uint16)[:, None]
    return Neighbours(graph.rows, np.maximum(graph.similarities, floor) - floor)


def _two_rounds(unit: UnitVectors, example_ids: Array, budget: int, settings: FacilitySettings) -> FacilityOrder:
    """RandGreeDi (Barbosa et al., ICML 2015, https://arxiv.org/abs/1502.02606): greedy in each of P random parts, then
    over the union of what they chose, with every row's nearest ones of the union as the graph.

    Counting each choice for the rows of its part that it represents would need no graph of all rows; it reached 90 to
    94 % where this reaches 98 to 100.
    """
    parts = settings.partitions
    if parts * budget > MAX_UNION_ROWS:
        raise UserError(
            f"partitions={parts} × a budget of {budget:,} makes a second round of {parts * budget:,} rows, more than "
            f"the {MAX_UNION_ROWS:,} that one node is meant for; lower the budget or the partitions"
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
