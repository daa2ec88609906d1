"""Facility location by hand, against brute force and against exact greedy; neighbours; partitions; threads."""

from __future__ import annotations

import heapq
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from s2l_ray.errors import DataError, UserError
from s2l_ray.selection import ArrayEmbeddings, order_examples
from s2l_ray.selection import facility_location as module
from s2l_ray.selection.dense_greedy import exact_greedy, stochastic_greedy
from s2l_ray.selection.facility_location import FacilitySettings, facility_order, num_neighbours
from s2l_ray.selection.lazy_greedy import CoverageGraph, GreedyOrder, greedy_cover
from s2l_ray.selection.neighbours import find_neighbours
from s2l_ray.selection.unit_vectors import MAX_SIMILARITY, UnitVectors, read_unit_vectors
from tests.support.paths import ROOT
from tests.support.selection_data import (
    arrangements,
    ascending_ids,
    chosen,
    embedded,
    options_of,
    order_of,
    random_ids,
    subset_of,
    synthetic,
)

Array = np.ndarray[Any, np.dtype[Any]]


def quantised(similarities: Any) -> Array:
    return np.rint(np.asarray(similarities) * MAX_SIMILARITY).astype(np.uint16)


def solve(similarities: Any) -> tuple[str, list[float]]:
    """The greedy order of everything as letters, and the gains."""
    matrix = quantised(similarities)
    found = greedy_cover(CoverageGraph.of_matrix(matrix), len(matrix))
    return "".join("abcdefghij"[row] for row in found.rows), [
        round(g / MAX_SIMILARITY, 3) for g in found.gains.tolist()
    ]


def brute_force(matrix: Array, budget: int) -> GreedyOrder:
    """Greedy by the definition, in whole numbers: every candidate anew in every step."""
    whole = matrix.astype(np.int64)
    cover = np.zeros(len(whole), dtype=np.int64)
    rows: list[int] = []
    gains: list[int] = []
    for _ in range(budget):
        added = np.maximum(whole - cover[:, None], 0).sum(axis=0)
        added[rows] = -1
        rows.append(int(added.argmax()))
        gains.append(int(added[rows[-1]]))
        cover = np.maximum(cover, whole[:, rows[-1]])
    return GreedyOrder(np.array(rows), np.array(gains), 0)


def same(one: GreedyOrder, other: GreedyOrder) -> bool:
    return np.array_equal(one.rows, other.rows) and np.array_equal(one.gains, other.gains)


def groups(num: int, dim: int = 16, num_groups: int = 60, seed: int = 0, alike: int = 0) -> Array:
    """(N, d) float16: unequal groups; the first `alike` rows are nearly the same."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, num_groups + 1)
    centers = rng.standard_normal((num_groups, dim))
    vectors = centers[rng.choice(num_groups, num, p=share / share.sum())] + 0.6 * rng.standard_normal((num, dim))
    vectors[:alike] = vectors[:1] + 0.02 * rng.standard_normal((alike, dim))
    return vectors.astype(np.float16)


def unit_of(vectors: Array, seed: int = 0) -> UnitVectors:
    return read_unit_vectors(ArrayEmbeddings(vectors), random_ids(len(vectors), seed))


def coverage(unit: UnitVectors, rows: Array) -> float:
    """f(S) / N in float64 by the definition."""
    vectors = unit.vectors.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(((1 + vectors @ vectors[rows].T) / 2).max(axis=1).mean())


def share_of_gain(unit: UnitVectors, rows: Array, exact: Array) -> float:
    """How much of exact greedy's gain over random subsets `rows` reach."""
    rng = np.random.default_rng(0)
    random = np.mean([coverage(unit, rng.choice(len(unit), len(exact), replace=False)) for _ in range(5)])
    return float((coverage(unit, rows) - random) / (coverage(unit, exact) - random))


# --- by hand --------------------------------------------------------------------------------------------------------


def test_points_by_hand() -> None:
    points = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1], [-1, 0]])
    order, gains = solve(np.maximum(points @ points.T, 0))
    assert order[:3] == "bed"
    assert gains[:3] == [3.36, 1.0, 0.4]


def test_duplicates_by_hand() -> None:
    points = np.repeat(np.eye(3), [2, 3, 1], axis=0)
    assert solve(points @ points.T) == ("cafbde", [3, 2, 1, 0, 0, 0])


def test_a_sparse_graph_may_answer_differently() -> None:
    matrix = np.array([[1, 0.9, 0.1, 0], [0.9, 1, 0.2, 0], [0.1, 0.2, 1, 0.6], [0, 0, 0.6, 1]])
    assert solve(matrix) == ("bcda", [2.1, 1.4, 0.4, 0.1])
    assert solve(np.where(matrix < 0.5, 0, matrix)) == ("acdb", [1.9, 1.6, 0.4, 0.1])


@pytest.mark.parametrize("seed", range(50))
def test_lazy_greedy_is_brute_force(seed: int) -> None:
    """Coarse values, so that ties are common."""
    rng = np.random.default_rng(seed)
    levels = [4, 20, 65_535][seed % 3]
    matrix = (rng.integers(0, levels + 1, (30, 30)) * (MAX_SIMILARITY // levels)).astype(np.uint16)
    np.fill_diagonal(matrix, MAX_SIMILARITY)
    assert same(greedy_cover(CoverageGraph.of_matrix(matrix), 30), brute_force(matrix, 30))


@pytest.mark.parametrize("seed", range(50))
def test_all_neighbours_and_all_pairs_are_brute_force(seed: int) -> None:
    """From embeddings, with duplicates: the graph with m = N, and greedy over all pairs in blocks."""
    rng = np.random.default_rng(seed)
    unit = unit_of(rng.integers(-2, 3, (30, 3)) + np.array([0.5, 0, 0]), seed)
    vectors = unit.vectors.astype(np.float64)
    cosine = (vectors @ vectors.T) / np.sqrt(np.outer((vectors**2).sum(1), (vectors**2).sum(1)))
    matrix = np.rint((1 + cosine) / 2 * MAX_SIMILARITY).clip(0, MAX_SIMILARITY).astype(np.uint16)
    neighbours = find_neighbours(unit, 30)
    dense = np.zeros((30, 30), np.uint16)
    dense[np.arange(30)[:, None], neighbours.rows] = neighbours.similarities
    assert np.abs(dense.astype(int) - matrix).max() <= 1  # float32 against float64, before rounding
    expected = brute_force(dense, 30)
    assert same(greedy_cover(CoverageGraph.of_neighbours(neighbours, 30), 30), expected)
    assert same(exact_greedy(unit, 30), expected)


# --- the selector ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", "knn", "exact"])
def test_the_selector_by_hand(solver: str) -> None:
    """On a half circle; the middle is nearest to all, then the ends."""
    angle = np.array([0, 30, 60, 90, 120, 150, 180]) * np.pi / 180
    inputs = embedded(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    assert order_of("facility_location", inputs, solver=solver).startswith("da") or solver != "exact"
    assert subset_of("facility_location", inputs, 1, solver=solver) == "d"
    lengths = np.array([[1], [7], [0.5], [100], [3], [2], [9]])
    scaled = embedded(np.stack([np.cos(angle), np.sin(angle)], axis=1) * lengths)
    assert order_of("facility_location", scaled, solver=solver) == order_of("facility_location", inputs, solver=solver)


def test_duplicates_come_last_and_by_id() -> None:
    inputs = embedded(np.repeat(np.eye(3), [2, 3, 1], axis=0))
    assert order_of("facility_location", inputs, solver="exact") == "cafbde"


@pytest.mark.parametrize("options", [{}, {"solver": "stochastic"}, {"partitions": 3}], ids=str)
def test_prefixes_rows_and_partitions(options: dict[str, Any]) -> None:
    inputs = synthetic(300, dim=5)
    answers = []
    for arranged in arrangements(inputs):
        ordering = order_examples("facility_location", arranged, 4, options_of("facility_location", **options), 60)
        subsets = [chosen(arranged, ordering.take(budget).rows) for budget in (1, 17, 60)]
        assert [len(one) for one in subsets] == [1, 17, 60]
        assert set(subsets[0]) < set(subsets[1]) < set(subsets[2])
        answers.append(subsets)
    assert all(answer == answers[0] for answer in answers)


def test_budgets_past_the_ranked_ones_are_refused() -> None:
    ordering = order_examples("facility_location", synthetic(50), 0, None, 20)
    with pytest.raises(UserError, match="budget 21 is larger than 20, the largest"):
        ordering.take(21)


def test_ineligible_examples_are_no_candidates_and_come_last() -> None:
    inputs = synthetic(60)
    eligible = np.arange(60) % 3 > 0
    ordering = order_examples("facility_location", replace(inputs, eligible=eligible), 0)
    assert eligible[ordering.take(40).rows].all()
    past = ordering.take(45)
    assert past.num_ineligible == 5
    nothing = order_examples("facility_location", replace(inputs, eligible=np.zeros(60, bool)), 0)
    assert len(nothing.take(7).rows) == 7


def test_embeddings_without_direction_are_refused() -> None:
    for spoil in (0.0, np.nan, np.inf):
        vectors = np.ones((4, 2), np.float32)
        vectors[2] = spoil
        with pytest.raises(DataError, match=r"1 embeddings are zero or not finite .those of 0{15}10{15}5"):
            order_examples("facility_location", embedded(vectors), 0)


def test_ids_that_occur_twice_are_refused() -> None:
    inputs = embedded(np.eye(4))
    ids = inputs.example_ids.copy()
    ids[3] = ids[1]
    with pytest.raises(DataError, match=r"1 example ids occur more than once, for example 0{31}6"):
        order_examples("facility_location", replace(inputs, example_ids=ids), 0)


# --- quality and determinism ----------------------------------------------------------------------------------------


def dense_greedy(unit: UnitVectors, budget: int) -> Array:
    """Lazy greedy on the whole matrix in float32, without anything of the package's solvers."""
    vectors = unit.vectors.astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = (1 + vectors @ vectors.T) / 2
    cover = np.zeros(len(vectors), np.float32)
    bounds = [(-float(gain), row) for row, gain in enumerate(similarity.sum(axis=0))]
    heapq.heapify(bounds)
    rows: list[int] = []
    while len(rows) < budget:
        row = bounds[0][1]
        gain = float(np.maximum(similarity[row] - cover, 0).sum())
        heapq.heapreplace(bounds, (-gain, row))
        if bounds[0][1] == row:
            heapq.heappop(bounds)
            rows.append(row)
            np.maximum(cover, similarity[row], out=cover)
    return np.array(rows)


@pytest.mark.thorough
def test_knn_reaches_exact_greedy() -> None:
    unit = unit_of(groups(5000, 64, 200))
    order = facility_order(unit, np.zeros((5000, 2), np.uint64), 500, FacilitySettings())
    assert order.notes == {"solver": "knn", "neighbours": 32, "rows": 5000, "subtracted": True}
    assert share_of_gain(unit, order.rows, dense_greedy(unit, 500)) >= 0.97


@pytest.mark.parametrize("alike", [0, 160, 800])
def test_many_that_are_alike_do_not_lose_their_weight(alike: int) -> None:
    unit = unit_of(groups(2000, alike=alike))
    exact = exact_greedy(unit, 60)
    order = facility_order(unit, np.zeros((2000, 2), np.uint64), 60, FacilitySettings())
    assert share_of_gain(unit, order.rows, exact.rows) >= 0.97


@pytest.mark.thorough
def test_small_subsets_are_chosen_from_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_SAMPLE", 1500)
    unit, ids = unit_of(groups(4000, 8)), random_ids(4000)
    ids = ids[np.lexsort((ids[:, 1], ids[:, 0]))]
    for budget, solver, rows in ((20, "knn", 3400), (5, "exact", 1500)):
        order = facility_order(unit, ids, budget, FacilitySettings(seed=1))
        assert (order.notes["solver"], order.notes["rows"], order.notes["of_rows"]) == (solver, rows, 4000)
        assert share_of_gain(unit, order.rows, dense_greedy(unit, budget)) >= 0.9


@pytest.mark.thorough
def test_partitions_come_near_to_one_part() -> None:
    unit, ids = unit_of(groups(4000)), random_ids(4000)
    ids = ids[np.lexsort((ids[:, 1], ids[:, 0]))]
    whole = facility_order(unit, ids, 200, FacilitySettings())
    parts = facility_order(unit, ids, 200, FacilitySettings(partitions=4))
    assert parts.notes["partitions"] == 4
    assert len(set(parts.rows.tolist())) == 200
    assert share_of_gain(unit, parts.rows, whole.rows) >= 0.95
    with pytest.raises(
        UserError, match="partitions=9000 × a budget of 4,000 gives a second round over 36,000,000 rows"
    ):
        facility_order(unit, ids, 4000, FacilitySettings(partitions=9000))


def test_stochastic_greedy_is_near_and_seeded() -> None:
    unit, ids = unit_of(groups(800)), ascending_ids(800)
    exact = exact_greedy(unit, 40)
    found = [stochastic_greedy(unit, ids, 40, seed, 0.01).rows for seed in (0, 0, 1)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert len(set(found[0].tolist())) == 40
    assert share_of_gain(unit, found[0], exact.rows) > 0.85
    few = unit.part(np.arange(100))
    assert sorted(stochastic_greedy(few, ids[:100], 100, 0, 0.01).rows.tolist()) == list(range(100))


def test_settings_that_cannot_serve_are_refused_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = unit_of(groups(400))
    few = facility_order(unit, ascending_ids(400), 5, FacilitySettings(solver="knn", neighbours=8))
    assert few.warnings[0].startswith("8 neighbours of each of 5 selected examples cannot reach all 400 examples")
    assert not few.notes["subtracted"]
    monkeypatch.setattr(module, "MAX_EXACT_ROWS", 399)
    with pytest.raises(UserError, match="solver=exact compares each choice with all 400 embeddings"):
        facility_order(unit, ascending_ids(400), 5, FacilitySettings(solver="exact"))


def test_the_number_of_neighbours() -> None:
    assert [num_neighbours(10_000, n) for n in (1000, 312, 100, 58, 1)] == [32, 49, 150, 256, 256]
    assert num_neighbours(20, 5) == 20


@pytest.mark.parametrize("flat_rows", [50_000, 100], ids=["flat", "inverted file"])
def test_neighbours_are_the_nearest(flat_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2l_ray.selection.neighbours.FLAT_ROWS", flat_rows)
    unit = unit_of(groups(3000))
    found = find_neighbours(unit, 10)
    vectors = unit.vectors.astype(np.float64) * unit.inverse_norm[:, None]
    cosine = vectors @ vectors.T
    assert (found.rows[:, 0] == np.arange(3000)).all()
    assert (found.similarities[:, 0] == MAX_SIMILARITY).all()
    np.fill_diagonal(cosine, 2)
    tenth = np.sort(cosine, axis=1)[:, -10]
    hits = cosine[np.arange(3000)[:, None], found.rows] >= tenth[:, None] - 1e-3
    assert hits.mean() >= (0.999 if flat_rows > 3000 else 0.8)
    similar = np.rint((1 + cosine[np.arange(3000)[:, None], found.rows[:, 1:]]) / 2 * MAX_SIMILARITY)
    assert np.abs(similar - found.similarities[:, 1:]).max() <= 1


PROGRAM = """
import hashlib
import numpy as np
from s2l_ray.selection import neighbours, ArrayEmbeddings, SelectionInputs, order_examples
neighbours.QUERY_ROWS = 300
ids = np.random.default_rng(0).integers(0, 2**64, size=(2000, 2), dtype=np.uint64)
vectors = np.random.default_rng(1).standard_normal((2000, 24)) + np.arange(2000)[:, None] % 7
inputs = SelectionInputs(ids, embeddings={"embedding@late": ArrayEmbeddings(vectors)})
for neighbours.FLAT_ROWS in (50_000, 100):  # all pairs, and the inverted file
    ordering = order_examples("facility_location", inputs, 0, None, 200)
    print(hashlib.sha256(ordering.rank.tobytes()).hexdigest())
"""


@pytest.mark.thorough
def test_threads_do_not_change_a_bit() -> None:
    root = ROOT
    answers = set()
    for threads in ("1", "3"):
        env = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=200, check=True
        )
        answers.add(done.stdout)
    assert len(answers) == 1
    assert len(set(answers.pop().split())) == 2
