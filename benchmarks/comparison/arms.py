"""Selectors with their options, as arms of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from comparison.reference import Reference
from s2l_ray.data.token_examples import Examples
from s2l_ray.selection import cluster_weights, needs_of, order_examples, resolve_options

FULL = "everything"
COST_IN_STEPS = "random, S2L's cost in further steps"
"""A random subset whose target trains longer, by as much compute as S2L's selection costs."""
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Arm:
    """A selector with its options, and its name in the tables."""

    name: str
    selector: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[str]:
        if self.selector == FULL:
            return frozenset()
        return needs_of(self.selector, resolve_options(self.selector, self.options))


def arms_of(
    selectors: Sequence[str], references: Sequence[str] = ("late",), clusters: int | None = None, weights: bool = True
) -> list[Arm]:
    """List the arms of each selector: one per snapshot that it can score with, and the variants of s2l.

    Args:
        references: names of the snapshots, for selectors that score with one.
        clusters: number of clusters for embedding_kmeans, which does its own clustering.
        weights: whether to include s2l with weights.
    """
    found = []
    for name in selectors:
        if name in (FULL, COST_IN_STEPS):
            found.append(Arm(name, FULL if name == FULL else "random"))
            continue
        fields = resolve_options(name).__class__.model_fields
        own = {"num_clusters": clusters} if name == "embedding_kmeans" and clusters else {}
        if "reference" not in fields:
            found.append(Arm(name, name, own))
        found += [
            Arm(name if reference == "late" else f"{name}, {reference}", name, own | {"reference": reference})
            for reference in references
            if "reference" in fields
        ]
        if name == "s2l":
            found.append(Arm("s2l, α ½", name, {"allocation_exponent": 0.5}))
            found += [Arm("s2l, weights", name, {"weights": "cluster"})] * weights
    return found


@dataclass(frozen=True)
class Choice:
    rows: Array
    """(n,) indices into the reference's examples."""
    examples: Examples
    """The selected examples, with weights and stages if the selector assigns them."""
    notes: dict[str, Any]


def choose(reference: Reference, arm: Arm, budget: int, seed: int) -> Choice:
    """Select a subset in the same way as `s2l select`."""
    if arm.selector == FULL:
        return Choice(np.arange(len(reference.train.examples)), reference.train.examples, {})
    options = resolve_options(arm.selector, arm.options)
    ordering = order_examples(arm.selector, reference.inputs(arm.needs), seed, options, budget)
    taken = ordering.take(budget)
    weighted = getattr(options, "weights", "none") == "cluster"
    chosen = replace(
        reference.train.examples.take(taken.rows),
        weights=cluster_weights(ordering, taken, getattr(options, "weights_cap", 10.0)) if weighted else None,
        stages=None if ordering.stage is None else ordering.stage[taken.rows],
    )
    dropped = None if ordering.guard is None else ordering.guard.num_dropped
    return Choice(taken.rows, chosen, {"guard_dropped": dropped, "ineligible": taken.num_ineligible})
