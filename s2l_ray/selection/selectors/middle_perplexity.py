"""Middle perplexity: neither what the model knows nor what puzzles it.

After https://arxiv.org/abs/2309.04564. A budget n takes the n examples around the middle of the losses' order, so that
subsets are nested, unlike those of the published code for RDS+ (a window from a fixed rank on). Perplexity is exp(loss)
and has the same order.
"""

from __future__ import annotations

import numpy as np

from s2l_ray.config.section import bounded
from s2l_ray.selection.grouping import rank_eligible_first, score_keys, stratified_groups
from s2l_ray.selection.inputs import Array, SelectionInputs
from s2l_ray.selection.options import ScoreOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.signals import LOSS, at


class MiddleOptions(ScoreOptions):
    center: float = bounded(0.5, 1.0, "where the highest losses are", ge=0)
    """Middle of the window, as a share of the examples in ascending order of their losses."""


class MiddlePerplexity:
    name = "middle_perplexity"
    summary = "responses of middling perplexity"
    label = "middle perplexity"
    Options = MiddleOptions

    def needs(self, options: MiddleOptions) -> frozenset[str]:
        return options.strata_needs() | {at(LOSS, options.reference)}

    def order(self, inputs: SelectionInputs, seed: int, options: MiddleOptions, max_budget: int) -> Ordering:
        groups, labels, allocation = stratified_groups(inputs, options.stratify)
        keys = score_keys(inputs.signal(at(LOSS, options.reference)))
        position = rank_eligible_first(groups, keys, inputs.example_ids, inputs.eligible)  # (N,)
        rank = _middle_first(groups, position, inputs.eligible, options.center)
        return Ordering(groups, rank, labels, seed, allocation, inputs.eligible)


def _middle_first(groups: Array, position: Array, eligible: Array | None, center: float) -> Array:
    """Rank by distance of `position` (N,) from the center, ties by lower position, ineligible last → (N,) int64."""
    part = 2 * groups.astype(np.int64) if eligible is None else 2 * groups.astype(np.int64) + ~eligible
    sizes = np.bincount(part)  # of each group's eligible and ineligible examples
    behind = sizes.copy()  # positions of ineligible examples continue those of eligible ones
    behind[0::2] = 0
    behind[1::2] = sizes[0::2][: len(behind[1::2])]
    position = position - behind[part]
    distance = np.abs(2.0 * position - 2.0 * center * (sizes[part] - 1))
    order = np.lexsort((position, distance, part))
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(order)) - starts[part[order]]
    return rank + behind[part]
