"""From group codes and keys to an `Ordering`; what all selectors share.

Memory for N examples: about 60 N bytes at the peak, beside the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from s2l_ray.data.ranking import rank_within, sampling_keys
from s2l_ray.selection.allocation import EVENLY, AllocationRule, GroupLabel
from s2l_ray.selection.inputs import Facet, SelectionInputs
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.signals import FACET, SOURCES

Array = np.ndarray[Any, np.dtype[Any]]


def order_sample(
    inputs: SelectionInputs,
    seed: int,
    codes: Array,
    label: Callable[[int], GroupLabel],
    allocation: AllocationRule = EVENLY,
    stage: Array | None = None,
) -> Ordering:
    """Sample without replacement within the groups `codes` (N,): ranks by the seeded keys.

    Every selector uses the same keys. Each subset on its own is as uniform as with keys of its own; in comparison,
    subsets share more examples than by chance, and their difference is the rule's and less the draw's (common random
    numbers, https://en.wikipedia.org/wiki/Variance_reduction).
    """
    groups, present = dense_groups(codes)
    rank = rank_eligible_first(groups, sampling_keys(inputs.example_ids, seed), inputs.example_ids, inputs.eligible)
    labels = [label(int(code)) for code in present]
    return Ordering(groups, rank, labels, seed, allocation, inputs.eligible, stage, random_within_groups=True)


def order_by_score(
    inputs: SelectionInputs,
    seed: int,
    scores: Array,
    stratify: bool | str,
    eligible: Array | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Ordering:
    """Ascending by `scores` (N,), equal ones by id; within each stratum where `stratify`.

    Args:
        eligible: (N,) bool, the selector's own rule, beside the guards'.
    """
    eligible = combine_eligible(inputs.eligible, eligible)
    groups, labels, allocation = stratified_groups(inputs, stratify)
    rank = rank_eligible_first(groups, score_keys(scores), inputs.example_ids, eligible)
    return Ordering(groups, rank, labels, seed, allocation, eligible, notes=notes or {})


def stratified_groups(inputs: SelectionInputs, stratify: bool | str) -> tuple[Array, list[GroupLabel], AllocationRule]:
    """(N,) int32 groups, their labels and the rule: one group in all, or one for each stratum."""
    if not stratify:
        return np.zeros(inputs.num_examples, np.int32), [GroupLabel()], EVENLY
    strata, names = sorted_strata(inputs, stratify, f"stratify={stratify}")
    groups, present = dense_groups(strata)
    return groups, [GroupLabel(names[code]) for code in present], AllocationRule(split_strata=True)


def dense_groups(codes: Array) -> tuple[Array, Array]:
    """(N,) codes → (N,) int32 codes of the G groups that are not empty, and (G,) the codes that they had."""
    present = np.flatnonzero(np.bincount(codes))  # (G,)
    dense = np.zeros(present.max(initial=0) + 1, dtype=np.int32)
    dense[present] = np.arange(len(present), dtype=np.int32)
    return dense[codes], present


def sorted_strata(inputs: SelectionInputs, stratify: bool | str, who: str) -> tuple[Array, list[str]]:
    """(N,) int64 codes into the sorted names: codes in order of appearance would depend on the order of the rows.

    Args:
        stratify: True: by source; a text: by the facet of this name.
    """
    if isinstance(stratify, str):
        inputs.require(who, [FACET + stratify])
        facet = inputs.facets[stratify]
    else:
        inputs.require(who, [SOURCES])
        assert inputs.sources is not None
        facet = Facet(inputs.sources, inputs.source_names)
    names, new_code = np.unique(np.array(facet.names, dtype=object), return_inverse=True)
    return new_code.astype(np.int64)[facet.codes], names.tolist()


def rank_eligible_first(groups: Array, keys: Array, example_ids: Array, eligible: Array | None) -> Array:
    """(N,) int64 rank within the group by (not eligible, key, id)."""
    if eligible is None:
        return rank_within(groups, keys, example_ids)
    rank = rank_within(2 * groups.astype(np.int64) + ~eligible, keys, example_ids)
    last = ~eligible
    rank[last] += np.bincount(groups[eligible], minlength=int(groups.max(initial=0)) + 1)[groups[last]]
    return rank


def combine_eligible(one: Array | None, other: Array | None) -> Array | None:
    return other if one is None else one if other is None else one & other


def score_keys(scores: Array) -> Array:
    """(N,) finite floats → (N,) uint64 in the same order: IEEE 754 bits, with the negative ones turned around."""
    bits = (scores.astype(np.float64) + 0.0).view(np.uint64)  # + 0.0: −0.0 equals 0.0
    sign = np.uint64(1) << np.uint64(63)
    return np.where(bits & sign, ~bits, bits | sign)
