"""Forgetting events (https://arxiv.org/abs/1812.05159): the number of times a response was right and then wrong."""

from __future__ import annotations

from typing import Literal

import numpy as np

from s2l_ray.errors import UserError
from s2l_ray.selection.grouping import order_by_score
from s2l_ray.selection.inputs import Array, SelectionInputs
from s2l_ray.selection.options import StratifiedOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.signals import TOKEN_ACCURACY, at

_NEED = at(TOKEN_ACCURACY, "all")


class ForgettingOptions(StratifiedOptions):
    never_learnt: Literal["zero", "infinite"] = "zero"
    """Number of times that a response that was never right counts as forgotten; the paper uses `infinite`, which for
    generated text puts most of the corpus first."""


class Forgetting:
    name = "forgetting"
    summary = "responses that the proxy learnt and forgot most often"
    label = "forgetting"
    Options = ForgettingOptions

    def needs(self, options: ForgettingOptions) -> frozenset[str]:
        return options.strata_needs() | {_NEED}

    def order(self, inputs: SelectionInputs, seed: int, options: ForgettingOptions, max_budget: int) -> Ordering:
        accuracy = inputs.signal(_NEED)
        if accuracy.shape[1] < 2:
            raise UserError(f"{self.name} compares snapshots, but there is only one; raise trajectories.num_snapshots")
        events, ever_right = _forgetting_events(accuracy)
        if options.never_learnt == "infinite":
            events[~ever_right] = accuracy.shape[1]
        return order_by_score(inputs, seed, -events, options.stratify, notes={"ever_right": int(ever_right.sum())})


def _forgetting_events(accuracy: Array) -> tuple[Array, Array]:
    """Count forgetting events in shares of right tokens (N, T): (N,) int64 events, and (N,) bool whether ever right."""
    events = np.zeros(len(accuracy), np.int64)
    right = accuracy[:, 0] >= 1
    ever_right = right.copy()
    for column in accuracy.T[1:]:
        events += right & (column < 1)
        right = column >= 1
        ever_right |= right
    return events, ever_right
