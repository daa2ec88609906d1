"""The rules that choose a subset, behind one interface: an order within groups that does not know the budget.

A selector puts every example into a group and ranks it there (`Ordering`); a budget then becomes quotas, and the lowest
ranks of each group are taken. So budgets are nested, and a further budget costs no further sort. A selector by score
(least confidence, say) is one group ranked by that score; add it to `SELECTORS`.

Memory for N examples: 12 N bytes in an `Ordering`, about 60 N while it is made, beside the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np

from s2l_ray.data.ranking import priority_keys, rank_within, sampling_keys
from s2l_ray.errors import UserError
from s2l_ray.selection.quotas import cluster_quotas

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class SelectionInputs:
    """What selectors may look at, in any order of rows. ValueError if the columns do not belong together."""

    example_ids: Array
    """(N, 2) uint64, high and low halves; unique."""
    clusters: Array | None = None
    """(N,) int32 cluster numbers from 0."""
    sources: Array | None = None
    """(N,) int32 codes into `source_names`."""
    source_names: list[str] = field(default_factory=list)

    @property
    def num_examples(self) -> int:
        return len(self.example_ids)

    def __post_init__(self) -> None:
        if self.sources is None and self.source_names:
            raise UserError("source_names are given but no sources; give both or neither")
        for name, codes in (("clusters", self.clusters), ("sources", self.sources)):
            if codes is None:
                continue
            if codes.shape != (self.num_examples,) or not np.issubdtype(codes.dtype, np.integer):
                raise UserError(f"{name} must be ({self.num_examples},) integers, not {codes.shape} {codes.dtype}")
            if len(codes) and codes.min() < 0:
                raise UserError(f"{name} holds {codes.min()} in row {int(codes.argmin())}; codes count from 0")
        if self.sources is not None and len(self.sources) and self.sources.max() >= len(self.source_names):
            raise UserError(
                f"sources holds the code {self.sources.max()}, but there are {len(self.source_names)} source_names"
            )


class GroupQuota(TypedDict):
    """One line of the table beside a subset; a plain dict, ready for JSON."""

    stratum: str | None
    """Source, where the selector balances sources."""
    cluster: int | None
    """Cluster number, where the selector samples clusters."""
    size: int
    """Examples in the group."""
    taken: int
    """Examples chosen from it."""


@dataclass(frozen=True)
class Selection:
    rows: Array
    """(n,) int64, chosen rows, ascending."""
    rank: Array
    """(n,) int64, each chosen row's 0-based rank within its group."""
    groups: list[GroupQuota]
    """One line for each non-empty group, by stratum, then cluster."""


@dataclass(frozen=True)
class Ordering:
    """All examples, grouped and ranked; `take` cuts it at any budget."""

    groups: Array
    """(N,) int32, codes of the G non-empty groups."""
    rank: Array
    """(N,) int64, rank within the group."""
    group_labels: list[tuple[str | None, int | None]]
    """(G) stratum and cluster."""
    seed: int
    split_strata: bool = False
    """Whether the budget is first split evenly over the strata, and then over the groups of each."""

    def take(self, budget: int) -> Selection:
        """The subset of exactly `budget` examples, 1 ≤ budget ≤ N."""
        num_examples = len(self.groups)
        if not 1 <= budget <= num_examples:
            raise UserError(
                f"budget {budget} cannot be taken from {num_examples} examples; give 1 to {num_examples} "
                "(resolve_budget turns shares into counts)"
            )
        sizes = np.bincount(self.groups, minlength=len(self.group_labels))  # (G,)
        taken = self._quotas(sizes, budget)  # (G,)
        rows = np.flatnonzero(self.rank < taken[self.groups])  # (n,)
        table = [
            GroupQuota(stratum=stratum, cluster=cluster, size=int(size), taken=int(quota))
            for (stratum, cluster), size, quota in zip(self.group_labels, sizes, taken, strict=True)
        ]
        return Selection(rows, self.rank[rows], table)

    def _quotas(self, sizes: Array, budget: int) -> Array:
        keys = priority_keys([repr(label) for label in self.group_labels], self.seed)  # (G,)
        if not self.split_strata:
            return cluster_quotas(sizes, budget, keys)
        strata, stratum_of = np.unique([str(stratum) for stratum, _ in self.group_labels], return_inverse=True)
        stratum_sizes = np.bincount(stratum_of, weights=sizes).astype(np.int64)  # (S,)
        shares = cluster_quotas(stratum_sizes, budget, priority_keys(strata.tolist(), self.seed))  # (S,)
        taken = np.zeros(len(sizes), dtype=np.int64)
        for stratum, share in enumerate(shares):
            members = stratum_of == stratum
            taken[members] = cluster_quotas(sizes[members], int(share), keys[members])
        return taken


@dataclass(frozen=True)
class Selector:
    order: Callable[[SelectionInputs, int, bool], Ordering]
    """(inputs, seed, stratify) → Ordering."""
    summary: str
    takes_stratify: bool = False
    """Whether `stratify` means anything to it; refused otherwise, never ignored."""


def order_examples(selector: str, inputs: SelectionInputs, seed: int, stratify: bool = False) -> Ordering:
    """Group and rank all examples once; `.take(budget)` then costs milliseconds per million, for any budget."""
    if selector not in SELECTORS:
        raise UserError(f"unknown selector {selector!r}; known: {', '.join(sorted(SELECTORS))}")
    if stratify and not SELECTORS[selector].takes_stratify:
        can = ", ".join(name for name, one in sorted(SELECTORS.items()) if one.takes_stratify)
        raise UserError(f"stratify=True means nothing to the selector {selector!r}; leave it out, or use {can}")
    return SELECTORS[selector].order(inputs, seed, stratify)


def select(selector: str, inputs: SelectionInputs, budget: int, seed: int, stratify: bool = False) -> Selection:
    """Choose exactly `budget` examples; for several budgets `order_examples` saves the repeated sort."""
    return order_examples(selector, inputs, seed, stratify).take(budget)


def _order_s2l(inputs: SelectionInputs, seed: int, stratify: bool) -> Ordering:
    if inputs.clusters is None:
        raise UserError("the selector s2l samples clusters and there are none; run k-means on the trajectories first")
    clusters = inputs.clusters.astype(np.int64)  # (N,)
    num_clusters = int(clusters.max(initial=0)) + 1
    if not stratify:
        return _ordered(inputs, seed, clusters, lambda code: (None, code))
    sources, names = _sorted_sources(inputs, "stratify=True")
    return _ordered(
        inputs,
        seed,
        sources * num_clusters + clusters,
        lambda code: (names[code // num_clusters], code % num_clusters),
        split_strata=True,
    )


def _order_random(inputs: SelectionInputs, seed: int, stratify: bool) -> Ordering:
    return _ordered(inputs, seed, np.zeros(inputs.num_examples, np.int64), lambda code: (None, None))


def _order_random_per_source(inputs: SelectionInputs, seed: int, stratify: bool) -> Ordering:
    sources, names = _sorted_sources(inputs, "the selector random_per_source")
    return _ordered(inputs, seed, sources, lambda code: (names[code], None))


def _ordered(
    inputs: SelectionInputs,
    seed: int,
    codes: Array,
    label: Callable[[int], tuple[str | None, int | None]],
    split_strata: bool = False,
) -> Ordering:
    """Sampling without replacement within the groups `codes` (N,): ranks by the seeded keys.

    Every selector uses the same keys. Each subset on its own is as uniform as with keys of its own; in comparison,
    subsets share more examples than by chance, and their difference is the rule's and less the draw's (common random
    numbers, https://en.wikipedia.org/wiki/Variance_reduction).
    """
    present = np.flatnonzero(np.bincount(codes))  # (G,)
    dense = np.zeros(present.max(initial=0) + 1, dtype=np.int32)
    dense[present] = np.arange(len(present), dtype=np.int32)
    groups = dense[codes]  # (N,)
    rank = rank_within(groups, sampling_keys(inputs.example_ids, seed), inputs.example_ids)
    return Ordering(groups, rank, [label(int(code)) for code in present], seed, split_strata)


def _sorted_sources(inputs: SelectionInputs, who: str) -> tuple[Array, list[str]]:
    """(N,) int64 codes into the sorted names: codes in order of appearance would depend on the order of the rows."""
    if inputs.sources is None:
        raise UserError(
            f"{who} balances sources and there is no source column; "
            "set corpus.source_column to the column that names each example's source"
        )
    names, new_code = np.unique(np.array(inputs.source_names, dtype=object), return_inverse=True)
    return new_code.astype(np.int64)[inputs.sources], names.tolist()


SELECTORS: dict[str, Selector] = {
    "s2l": Selector(_order_s2l, "evenly over clusters of alike loss trajectories", takes_stratify=True),
    "random": Selector(_order_random, "uniformly at random"),
    "random_per_source": Selector(_order_random_per_source, "at random, equally many from each source"),
}
