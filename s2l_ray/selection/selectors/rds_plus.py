"""RDS+ (https://arxiv.org/abs/2503.01807): the examples nearest to the user's own examples of the task.

Embeddings are means of last hidden states, weighted by position. Query examples take turns, each choosing its most
similar unused example, so that every query is represented.

Memory for N examples, Q queries, n choices: embeddings as in `unit_vectors`, and 16 bytes for each of at least 2 n/Q
candidates of every query.
"""

from __future__ import annotations

import math

import numpy as np

from s2l_ray.errors import UserError
from s2l_ray.selection.inputs import Array, SelectionInputs
from s2l_ray.selection.options import SelectorOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.selectors.facility_location import listed_order
from s2l_ray.selection.signals import QUERY, WEIGHTED_EMBEDDING, Snapshot, at
from s2l_ray.selection.unit_vectors import UnitVectors, normalise, read_unit_vectors

_BLOCK_ROWS = 16_384
_BLOCK_QUERIES = 256
_STEPS = 1 << 22
"""Steps per unit of similarity: apart from the norms, cosines on the grid are multiples of 2⁻²²."""
_ROWS = 1 << 38


class RdsOptions(SelectorOptions):
    reference: Snapshot = "late"
    """Snapshot whose embeddings are compared."""


class RdsPlus:
    name = "rds_plus"
    summary = "examples nearest to your own examples of the task"
    label = "RDS+"
    Options = RdsOptions

    def needs(self, options: RdsOptions) -> frozenset[str]:
        return frozenset({at(WEIGHTED_EMBEDDING, options.reference), QUERY})

    def order(self, inputs: SelectionInputs, seed: int, options: RdsOptions, max_budget: int) -> Ordering:
        queries = inputs.query_embeddings
        assert queries is not None
        reader = inputs.embeddings[at(WEIGHTED_EMBEDDING, options.reference)]
        if queries.ndim != 2 or not len(queries) or queries.shape[1] != reader.shape[1]:
            raise UserError(
                f"query embeddings must be (Q, {reader.shape[1]}) with at least one query, not {queries.shape}; embed "
                "your examples of the task with the same snapshot as the corpus"
            )
        unit = read_unit_vectors(reader, inputs.example_ids)
        if inputs.eligible is not None:
            unit = unit.part(np.flatnonzero(inputs.eligible[unit.order]))
        rows = take_turns(_Similarities(unit, normalise(queries)), min(max_budget, len(unit)))
        return listed_order(inputs, seed, unit.order[rows], max_budget, {"queries": len(queries)}, [])


class _Similarities:
    """Finds the k rows most similar to each query, with ties going to the lowest row."""

    def __init__(self, unit: UnitVectors, queries: Array) -> None:
        self.unit, self.queries = unit, queries.astype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.queries), len(self.unit)

    def top(self, queries: Array, k: int) -> Array:
        """Return the rows most similar to `queries` (B,), most similar first, (B, k) int64."""
        best = np.empty((len(queries), 0), dtype=np.int64)
        for start in range(0, len(self.unit), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            dots = (
                self.queries[queries] @ self.unit.vectors[block].astype(np.float32).T
            )  # exact, so it is the same everywhere
            steps = np.rint(dots.astype(np.float64) * self.unit.inverse_norm[block] * _STEPS).astype(np.int64)
            # One integer that sorts by falling similarity, then by row, so that partition has no ties to break.
            keys = -steps * _ROWS + np.arange(start, start + steps.shape[1])
            best = np.concatenate([best, keys], axis=1)
            if best.shape[1] > k:
                best = np.partition(best, k - 1, axis=1)[:, :k]
        return np.sort(best, axis=1) % _ROWS


def take_turns(similarities: _Similarities, num_choices: int) -> Array:
    """Return the rows in the order in which the queries, taking turns, choose them, (n,) int64."""
    num_queries, num_rows = similarities.shape
    depth = min(num_rows, max(16, 2 * math.ceil(num_choices / num_queries)))
    lists: list[list[int]] = []
    for start in range(0, num_queries, _BLOCK_QUERIES):
        batch = np.arange(start, min(start + _BLOCK_QUERIES, num_queries))
        lists.extend(similarities.top(batch, depth).tolist())
    used = bytearray(num_rows)
    next_place = [0] * num_queries
    rows: list[int] = []
    while len(rows) < num_choices:
        for query in range(num_queries):
            place = next_place[query]
            while True:
                if place == len(lists[query]):  # others have used up its list: get a longer one
                    deeper = min(num_rows, 2 * len(lists[query]))
                    lists[query] = similarities.top(np.array([query]), deeper)[0].tolist()
                if not used[lists[query][place]]:
                    break
                place += 1
            next_place[query] = place + 1
            used[lists[query][place]] = 1
            rows.append(lists[query][place])
            if len(rows) == num_choices:
                break
    return np.array(rows, dtype=np.int64)
