"""High learnability: the amount by which training lowers the loss, first minus last.

After LoBaSS (https://arxiv.org/abs/2310.13008), with the proxy in place of the fully fine-tuned target.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from s2l_ray.errors import DataError, UserError
from s2l_ray.selection.grouping import order_by_score
from s2l_ray.selection.inputs import SelectionInputs
from s2l_ray.selection.options import StratifiedOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.signals import LOSS, at


class LearnabilityOptions(StratifiedOptions):
    before: Literal["first", "early", "start"] = "first"
    """Snapshot that counts as before training: the `first` recorded one (step 0 with trajectories.include_step_zero),
    the `early` one, or `start`, which accepts only step 0."""
    relative: bool = False
    """Whether to divide by the loss before training, so that hard responses count no more than others."""


class HighLearnability:
    name = "high_learnability"
    summary = "responses whose loss falls most during training"
    label = "high learnability"
    Options = LearnabilityOptions

    def needs(self, options: LearnabilityOptions) -> frozenset[str]:
        before = at(LOSS, options.before)
        return options.strata_needs() | {before, at(LOSS, "late")}

    def order(self, inputs: SelectionInputs, seed: int, options: LearnabilityOptions, max_budget: int) -> Ordering:
        before, after = inputs.signal(at(LOSS, options.before)), inputs.signal(at(LOSS, "late"))
        from_trajectories = inputs.losses is not None and at(LOSS, "late") not in inputs.signals
        if from_trajectories and inputs.loss_column(options.before) == inputs.loss_column("late"):
            raise UserError(
                f"the snapshot before training ({options.before}) is also the last one, so no loss can fall between "
                "them; record more snapshots (trajectories.num_snapshots), or set before=first"
            )
        drop = before.astype(np.float64) - after
        if options.relative:
            if before.min(initial=1.0) <= 0:
                row = int(before.argmin())
                raise DataError(
                    f"relative=true divides by the loss before training, which is {before[row]} for example "
                    f"{inputs.hex_ids(np.array([row]))[0]}; set relative=false"
                )
            drop /= before
        notes: dict[str, object] = {"before": options.before}
        if from_trajectories:  # the steps are the proxy's
            notes["before_step"] = inputs.step_of(options.before)
        return order_by_score(inputs, seed, -drop, options.stratify, notes=notes)
