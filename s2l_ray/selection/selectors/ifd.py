"""Instruction-following difficulty: how little the prompt helps with the response.

As in the code of Superfiltering (https://arxiv.org/abs/2402.00530), this is the perplexity with the prompt divided by
that without it. From 1 on, the prompt does not help at all, which suggests a wrong answer: such examples go last.
"""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.grouping import order_by_score
from s2l_ray.selection.inputs import SelectionInputs
from s2l_ray.selection.options import ScoreOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.signals import LOSS, LOSS_UNCONDITIONAL, at


class InstructionFollowingDifficulty:
    name = "ifd"
    summary = "responses that the prompt helps least, among those it does help (IFD)"
    label = "IFD"
    Options = ScoreOptions

    def needs(self, options: ScoreOptions) -> frozenset[str]:
        losses = {at(LOSS, options.reference), at(LOSS_UNCONDITIONAL, options.reference)}
        return options.strata_needs() | losses

    def order(self, inputs: SelectionInputs, seed: int, options: ScoreOptions, max_budget: int) -> Ordering:
        conditional = inputs.signal(at(LOSS, options.reference)).astype(np.float64)
        log_ifd = conditional - inputs.signal(at(LOSS_UNCONDITIONAL, options.reference))  # has the same order as IFD
        return order_by_score(inputs, seed, -log_ifd, options.stratify, eligible=log_ifd < 0)
