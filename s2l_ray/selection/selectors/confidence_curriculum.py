"""Confidence curriculum: stages of falling confidence, sampled evenly; the target trains them in this order.

After https://arxiv.org/abs/2205.09898; the schedule is ours. As a set, the subset is a stratified random sample; what
matters is the order, so a program that ignores the stages must refuse such a subset.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from s2l_ray.config.section import bounded
from s2l_ray.data.ranking import rank_within
from s2l_ray.selection.allocation import AllocationRule, GroupLabel
from s2l_ray.selection.grouping import order_sample, score_keys, sorted_strata
from s2l_ray.selection.inputs import Array, SelectionInputs
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.selectors.least_confidence import ConfidenceOptions, confidence_needs, confidence_of


class CurriculumOptions(ConfidenceOptions):
    stages: int = bounded(5, 127, "that many stages leave too few steps for each", ge=2)
    """S: bands of equal size, from the most confident examples to the least."""
    replay: Literal["none", "cumulative"] = "cumulative"
    """What the target trains on in a stage: only its own examples, or those of all stages so far."""


class ConfidenceCurriculum:
    name = "confidence_curriculum"
    summary = "evenly over stages of falling confidence, trained in that order"
    label = "confidence curriculum"
    Options = CurriculumOptions

    def needs(self, options: CurriculumOptions) -> frozenset[str]:
        return confidence_needs(options)

    def order(self, inputs: SelectionInputs, seed: int, options: CurriculumOptions, max_budget: int) -> Ordering:
        stages = options.stages
        stage = _bands(confidence_of(inputs, options), inputs.example_ids, stages)  # (N,)
        if not options.stratify:
            return order_sample(inputs, seed, stage, lambda code: GroupLabel(stage=code), stage=stage.astype(np.int8))
        strata, names = sorted_strata(inputs, options.stratify, f"stratify={options.stratify}")
        return order_sample(
            inputs,
            seed,
            strata * stages + stage,
            lambda code: GroupLabel(names[code // stages], stage=code % stages),
            AllocationRule(split_strata=True),
            stage.astype(np.int8),
        )


def _bands(confidence: Array, example_ids: Array, stages: int) -> Array:
    """Divide examples into bands by falling confidence, then id, (N,) int64; the first are larger by at most one."""
    num = len(confidence)
    position = rank_within(np.zeros(num, np.int64), score_keys(-confidence), example_ids)
    ends = np.cumsum([num // stages + (band < num % stages) for band in range(stages)])
    return np.searchsorted(ends, position, side="right")
