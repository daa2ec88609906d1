"""Baselines: uniformly at random, from everything or equally from each source."""

from __future__ import annotations

import numpy as np

from s2l_ray.selection.allocation import GroupLabel
from s2l_ray.selection.grouping import order_sample, sorted_strata
from s2l_ray.selection.inputs import SelectionInputs
from s2l_ray.selection.options import SamplingOptions, SelectorOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.signals import SOURCES


class Random:
    name = "random"
    summary = "uniformly at random"
    label = "random"
    Options = SelectorOptions

    def needs(self, options: SelectorOptions) -> frozenset[str]:
        return frozenset()

    def order(self, inputs: SelectionInputs, seed: int, options: SelectorOptions, max_budget: int) -> Ordering:
        return order_sample(inputs, seed, np.zeros(inputs.num_examples, np.int64), lambda code: GroupLabel())


class RandomPerSource:
    name = "random_per_source"
    summary = "at random, the same number from each source"
    label = "random per source"
    Options = SamplingOptions

    def needs(self, options: SamplingOptions) -> frozenset[str]:
        return frozenset({SOURCES})

    def order(self, inputs: SelectionInputs, seed: int, options: SamplingOptions, max_budget: int) -> Ordering:
        sources, names = sorted_strata(inputs, True, f"the selector {self.name}")
        return order_sample(inputs, seed, sources, lambda code: GroupLabel(names[code]))
