"""Facility location on the proxy's embeddings: choose examples so that every other is close to a chosen one.

After https://arxiv.org/abs/2401.06692; embedding, solver and similarity are ours (see `selection.facility_location`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from s2l_ray.config.section import bounded
from s2l_ray.data.ranking import sampling_keys
from s2l_ray.selection.allocation import GroupLabel
from s2l_ray.selection.facility_location import FacilitySettings, Solver, facility_order
from s2l_ray.selection.inputs import Array, SelectionInputs
from s2l_ray.selection.options import SelectorOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.signals import PROMPT_EMBEDDING, RESPONSE_EMBEDDING, Snapshot, at
from s2l_ray.selection.unit_vectors import read_unit_vectors

EmbeddingKind = Literal["response", "prompt"]
EMBEDDING_COLUMN = {"response": RESPONSE_EMBEDDING, "prompt": PROMPT_EMBEDDING}


class FacilityOptions(SelectorOptions):
    reference: Snapshot = "late"
    """Snapshot whose embeddings are compared."""
    embedding: EmbeddingKind = "response"
    """Mean hidden state of the response, or of the prompt, which a wrong answer cannot affect."""
    solver: Solver = "auto"
    """`knn`: greedy on nearest neighbours; `exact` and `stochastic`: on all pairs; `auto`: `knn`, on a sample if the
    subset is less than 1/170 of the corpus."""
    neighbours: int | None = bounded(None, 4096, "the graph would not fit in memory", ge=2)
    """Neighbours for `knn`; None: 1.5 × corpus / budget, from 32 to 256."""
    epsilon: float = bounded(0.01, 0.5, "candidates would be picked almost at random", gt=0)
    """ε for `stochastic`, which reaches 1 − 1/e − ε of the optimum in expectation."""
    partitions: int = bounded(1, 10_000, "each partition would hold almost nothing", ge=1)
    """Parts of a corpus that is too large for one node's memory: greedy in each, then over the union of their choices.
    """


class FacilityLocation:
    name = "facility_location"
    summary = "examples to which all others are close, in the proxy's embeddings"
    label = "facility location"
    Options = FacilityOptions
    order_depends_on_budget = True
    """The largest budget determines the number of neighbours."""

    def needs(self, options: FacilityOptions) -> frozenset[str]:
        return frozenset({at(EMBEDDING_COLUMN[options.embedding], options.reference)})

    def order(self, inputs: SelectionInputs, seed: int, options: FacilityOptions, max_budget: int) -> Ordering:
        reader = inputs.embeddings[at(EMBEDDING_COLUMN[options.embedding], options.reference)]
        unit = read_unit_vectors(reader, inputs.example_ids)
        if inputs.eligible is not None:
            unit = unit.part(np.flatnonzero(inputs.eligible[unit.order]))
        settings = FacilitySettings(options.solver, options.neighbours, options.epsilon, options.partitions, seed)
        budget = min(max_budget, len(unit))
        if not budget:
            return listed_order(inputs, seed, np.zeros(0, np.int64), max_budget, {}, [])
        found = facility_order(unit, inputs.example_ids[unit.order], budget, settings)
        return listed_order(inputs, seed, unit.order[found.rows], max_budget, found.notes, found.warnings)


def listed_order(
    inputs: SelectionInputs, seed: int, rows: Array, max_budget: int, notes: dict[str, object], warnings: list[str]
) -> Ordering:
    """Return one group in the order of `rows` (n,), then ineligible examples by their keys; others have no rank."""
    num = inputs.num_examples
    rank = np.full(num, num, dtype=np.int64)
    rank[rows] = np.arange(len(rows))
    if inputs.eligible is not None and len(rows) < max_budget:
        last = np.flatnonzero(~inputs.eligible)
        ids = inputs.example_ids[last]
        last = last[np.lexsort((ids[:, 1], ids[:, 0], sampling_keys(ids, seed)))]
        rank[last] = len(rows) + np.arange(len(last))
    groups, eligible = np.zeros(num, np.int32), inputs.eligible
    return Ordering(
        groups, rank, [GroupLabel()], seed, eligible=eligible, max_budget=max_budget, notes=notes, warnings=warnings
    )
