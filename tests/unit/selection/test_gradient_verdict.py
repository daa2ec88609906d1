"""Verdicts of the gradient check: every word follows from an interval."""

from __future__ import annotations

from dataclasses import replace

import pytest

from s2l_ray.selection.gradient_errors import GradientError
from s2l_ray.selection.gradient_similarity import Interval, Similarity
from s2l_ray.selection.gradient_verdict import SnapshotFindings, against_random, how_similar, verdict

NULL = (-0.01, 0.02)


def similar(low: float, high: float) -> Similarity:
    return Similarity(5, 0.3, 0.1, Interval((low + high) / 2, low, high), None, 0.1, NULL, 0.01)


def ratio(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high)


def findings(name: str, similarity: Similarity, **errors: tuple[Interval | None, Interval | None]) -> SnapshotFindings:
    made = {
        subset: GradientError(100, True, None, None, None, None, plain, weighted)
        for subset, (plain, weighted) in errors.items()
    }
    return SnapshotFindings(name, 0, 0, {"clusters": similarity}, None, made)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.5, 0.9, "strongly"), (0.2, 0.9, "moderately"), (0.03, 0.4, "weakly"), (0.01, 0.4, "not"), (-0.1, 0.1, "not"),
        (-0.5, -0.1, "less"),
    ],
)  # fmt: skip
def test_similar_is_what_lies_above_chance(low: float, high: float, word: str) -> None:
    assert how_similar(similar(low, high)) == word


def test_one_cluster_is_unknown() -> None:
    assert how_similar(replace(similar(0, 1), difference=None)) == "unknown"
    [sentence] = verdict([findings("last", replace(similar(0, 1), null_difference=None))])
    assert sentence == ("Gradients of one cluster are not compared: there are not two clusters with two examples each.")


def test_an_interval_around_one_says_nothing() -> None:
    assert against_random(ratio(0.8, 0.99)) == "better"
    assert against_random(ratio(1.01, 2)) == "worse"
    assert against_random(ratio(0.9, 1.1)) == against_random(None) == ""


def test_the_design_s_example_in_words() -> None:
    """Unweighted S2L estimates the gradient worse than random, weighted S2L better once training has begun."""
    said = verdict([
        findings("start", similar(0.1, 0.12), s2l=(ratio(2, 2.4), ratio(0.9, 1.7))),
        findings("middle", similar(0.05, 0.12), s2l=(ratio(1.5, 1.7), ratio(0.8, 0.9))),
        findings("last", similar(0.05, 0.12), s2l=(ratio(1.6, 1.8), ratio(0.7, 0.8))),
    ])  # fmt: skip
    assert said == [
        "Gradients of one cluster are similar, weakly.",
        "s2l estimates the full gradient worse than random (error 1.60 to 2.20 times random's).",
        "s2l with weights estimates the full gradient no better or worse than random before training (error 1.30 times "
        "random's); better than random once training has begun (error 0.75 to 0.85 times random's).",
    ]


def test_snapshots_that_differ_are_told_apart() -> None:
    said = verdict([
        findings("start", similar(-0.1, 0.1), hard=(ratio(2, 3), None)), findings("last", similar(0.3, 0.4)),
    ])  # fmt: skip
    assert said == [
        "Gradients of one cluster are no more similar than chance allows (before training); similar, moderately (at "
        "the end of training).",
        "hard estimates the full gradient worse than random (error 2.50 times random's).",
        "At the end of training, the sample's mean gradient cannot be distinguished from zero, so no subset is "
        "compared with it.",
    ]


def test_gradients_without_a_mean_are_spoken_of_where_there_are_subsets() -> None:
    flat = [findings("start", similar(-0.1, 0.1)), findings("last", similar(-0.1, 0.1))]
    assert len(verdict(flat)) == 1
    assert verdict(flat, has_subsets=True)[1] == (
        "Before training and at its end, the sample's mean gradient cannot be distinguished from zero, so no subset is "
        "compared with it."
    )


def test_a_subset_that_could_not_be_compared_is_not_spoken_of() -> None:
    assert verdict([findings("last", similar(0.3, 0.4), few=(None, None))]) == [
        "Gradients of one cluster are similar, moderately."
    ]
