"""Least confidence: the examples whose response the model finds least probable.

After https://arxiv.org/abs/2401.06692; the formula is ours. It prefers wrong answers, so check the guard's share.
"""

from __future__ import annotations

from typing import Literal

from s2l_ray.selection.grouping import order_by_score
from s2l_ray.selection.inputs import Array, SelectionInputs
from s2l_ray.selection.options import ScoreOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.signals import LOSS, MEAN_PROBABILITY, MIN_PROBABILITY, at

Confidence = Literal["mean", "geometric", "minimum"]


class ConfidenceOptions(ScoreOptions):
    confidence: Confidence = "mean"
    """Confidence in a response's tokens: `mean` probability, `geometric` mean (exp(−loss)), or `minimum`."""


class LeastConfidence:
    name = "least_confidence"
    summary = "responses that the proxy finds least probable"
    label = "least confidence"
    Options = ConfidenceOptions

    def needs(self, options: ConfidenceOptions) -> frozenset[str]:
        return confidence_needs(options)

    def order(self, inputs: SelectionInputs, seed: int, options: ConfidenceOptions, max_budget: int) -> Ordering:
        return order_by_score(inputs, seed, confidence_of(inputs, options), options.stratify)


def confidence_needs(options: ConfidenceOptions) -> frozenset[str]:
    column = {"mean": MEAN_PROBABILITY, "geometric": LOSS, "minimum": MIN_PROBABILITY}[options.confidence]
    return options.strata_needs() | {at(column, options.reference)}


def confidence_of(inputs: SelectionInputs, options: ConfidenceOptions) -> Array:
    """Return (N,) numbers in the order of confidence; for the geometric mean −loss, of which it is monotone."""
    if options.confidence == "geometric":
        return -inputs.signal(at(LOSS, options.reference))
    column = MEAN_PROBABILITY if options.confidence == "mean" else MIN_PROBABILITY
    return inputs.signal(at(column, options.reference))
