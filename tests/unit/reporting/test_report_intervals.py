"""Intervals of the report: what they cover, and what is resampled together."""

from __future__ import annotations

import numpy as np
import pytest

from s2l_ray.reporting.intervals import (
    MIN_EXAMPLES,
    Estimate,
    estimate,
    means_over_seeds,
    resampled_means,
    verdict,
)


def test_only_an_interval_that_leaves_zero_out_tells_apart():
    for low, high, less, more in ((0.1, 0.3, "worse", "better"), (-0.3, -0.1, "better", "worse")):
        assert verdict(Estimate(0.2, low, high), more_is_better=False) == less
        assert verdict(Estimate(0.2, low, high), more_is_better=True) == more
    for undecided in (Estimate(0.2, -0.01, 0.4), Estimate(0.0, 0.0, 0.0), Estimate(5.0), Estimate(0.1, 0.0, 0.2)):
        assert verdict(undecided, more_is_better=True) == "not told apart"


def test_few_examples_have_no_interval():
    rng = np.random.default_rng(0)
    sums = rng.normal(5, 0.1, (MIN_EXAMPLES - 1, 1))
    told = estimate(5.0, resampled_means(sums, np.ones(len(sums)))[:, 0], len(sums))
    assert (told.low, told.high) == (None, None)


def test_intervals_cover_the_truth_about_as_often_as_they_promise():
    rng = np.random.default_rng(1)
    covered = 0
    for i in range(200):
        sums = rng.normal(1.0, 2.0, (80, 1))
        told = estimate(sums.mean(), resampled_means(sums, np.ones(80), seed=i, num=300)[:, 0], 80)
        assert told.low is not None
        assert told.high is not None
        covered += told.low <= 1.0 <= told.high
    assert 0.88 <= covered / 200 <= 0.99


def test_sequences_of_one_example_are_resampled_together():
    rng = np.random.default_rng(2)
    each = rng.normal(0, 1, 50)
    alone = resampled_means(each[:, None], np.ones(50)).std()
    # Ten equal sequences an example say no more than one.
    assert resampled_means(each[:, None] * 10, np.full(50, 10)).std() == pytest.approx(alone)


def test_seeds_spread_the_interval():
    means = np.column_stack([np.zeros(400), np.ones(400)])
    assert set(np.unique(means_over_seeds(means, [[0, 1]]))) == {0.0, 0.5, 1.0}
    assert np.unique(means_over_seeds(means, [[1]])).tolist() == [1.0]


def test_an_example_without_a_sequence_is_none():
    """As one whose sequences were all set aside; a resample of such alone would have no mean."""
    sums, counts = np.array([[2.0], [0.0], [4.0]]), np.array([1, 0, 1])
    means = resampled_means(sums, counts, num=200)
    assert np.isfinite(means).all()
    assert set(means[:, 0]) == {2.0, 3.0, 4.0}
    assert np.isnan(resampled_means(sums, np.zeros(3), num=2)).all()
