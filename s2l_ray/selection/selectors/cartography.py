"""Dataset cartography (https://arxiv.org/abs/2009.10795), from the mean token probabilities at all snapshots."""

from __future__ import annotations

import numpy as np

from s2l_ray.errors import UserError
from s2l_ray.selection.grouping import order_by_score
from s2l_ray.selection.inputs import Array, SelectionInputs
from s2l_ray.selection.options import StratifiedOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.signals import MEAN_PROBABILITY, at

_NEED = at(MEAN_PROBABILITY, "all")


class CartographyHard:
    name = "cartography_hard"
    summary = "responses with the lowest mean probability over training"
    label = "cartography (hard)"
    Options = StratifiedOptions

    def needs(self, options: StratifiedOptions) -> frozenset[str]:
        return options.strata_needs() | {_NEED}

    def order(self, inputs: SelectionInputs, seed: int, options: StratifiedOptions, max_budget: int) -> Ordering:
        mean, _ = _mean_and_variance(inputs.signal(_NEED))
        return order_by_score(inputs, seed, mean, options.stratify)


class CartographyAmbiguous(CartographyHard):
    name = "cartography_ambiguous"
    summary = "responses whose probability varies most over training"
    label = "cartography (ambiguous)"

    def order(self, inputs: SelectionInputs, seed: int, options: StratifiedOptions, max_budget: int) -> Ordering:
        probabilities = inputs.signal(_NEED)
        if probabilities.shape[1] < 2:
            raise UserError(
                f"{self.name} compares probabilities at several snapshots, but there is only one; "
                "raise trajectories.num_snapshots"
            )
        _, variance = _mean_and_variance(probabilities)
        return order_by_score(inputs, seed, -variance, options.stratify)


def _mean_and_variance(values: Array) -> tuple[Array, Array]:
    """Return mean and variance over T of (N, T), each (N,), summed by snapshot so that memory layout has no effect."""
    num_snapshots = values.shape[1]
    mean, variance = np.zeros(len(values)), np.zeros(len(values))
    for column in values.T:
        mean += column
    mean /= num_snapshots
    for column in values.T:
        variance += np.square(column - mean)
    return mean, variance / num_snapshots
