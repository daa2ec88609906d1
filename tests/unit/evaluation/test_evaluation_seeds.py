"""Figures over several training seeds: intervals that hold the truth, comparisons paired by seed and question."""

from __future__ import annotations

import numpy as np
import pytest

from s2l_ray.evaluation import seeds, statistics
from s2l_ray.evaluation.summaries import bleu


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def coin(share: float, num: int, seed: int) -> np.ndarray:
    return rng(seed).random(num) < share


def test_one_seed_has_no_interval_and_nothing_to_compare():
    values = np.array([[1, 0, 1, 1]])
    assert seeds.average_over_seeds({"": values}, rng()) == (0.75, None, None, None, 1)
    with pytest.raises(ValueError, match="at least two seeds"):
        seeds.compare_over_seeds({"a": values}, {"a": values}, rng())


def test_seeds_widen_the_interval():
    same = np.tile(coin(0.5, 400, 3), (3, 1))
    apart = np.stack([coin(share, 400, 3) for share in (0.4, 0.5, 0.6)])
    narrow, wide = seeds.average_over_seeds({"": same}, rng()), seeds.average_over_seeds({"": apart}, rng())
    assert narrow.deviation == 0
    assert wide.deviation == pytest.approx(0.1, abs=0.03)
    assert (wide.high or 0) - (wide.low or 0) > 1.3 * ((narrow.high or 0) - (narrow.low or 0))


def test_seeds_that_are_all_alike_give_the_interval_over_questions():
    right = coin(0.6, 500, 1)
    told = seeds.average_over_seeds({"": np.tile(right, (2, 1))}, rng())
    alone = statistics.mean(right.astype(float), rng(7))
    assert (told.low, told.high) == (pytest.approx(alone.low, abs=0.005), pytest.approx(alone.high, abs=0.005))


def test_sets_of_any_size_count_alike_in_their_average():
    sets = {"small": np.ones((2, 10)), "large": np.zeros((2, 1000))}
    assert seeds.average_over_seeds(sets, rng()).mean == 0.5


def test_a_difference_is_paired_by_seed_and_question():
    """Seeds that differ much, questions that differ much, and one target that gets 5 points more of each."""
    hard = np.linspace(0.0, 1.0, 400)
    base = np.stack([hard + shift for shift in (-0.2, 0.0, 0.2)])
    told = seeds.compare_over_seeds({"a": base + 0.05}, {"a": base}, rng())
    assert told.difference == pytest.approx(0.05)
    assert told.low == pytest.approx(0.05)
    assert told.high == pytest.approx(0.05)
    assert told.p_value < 0.001
    apart = seeds.average_over_seeds({"": base}, rng())
    assert (apart.high or 0) - (apart.low or 0) > 0.1


@pytest.mark.thorough
def test_p_values_of_targets_that_do_not_differ_are_seldom_small():
    small = 0
    for trial in range(100):
        one, other = (np.stack([coin(0.5, 100, 1000 * k + 10 * trial + s) for s in range(5)]) for k in (1, 2))
        small += seeds.compare_over_seeds({"a": one}, {"a": other}, rng(trial), 500).p_value < 0.05
    assert small <= 15


def test_a_figure_of_sums_is_computed_in_every_resample():
    counts = rng(3).integers(1, 6, (2, 40, 10)).astype(float)
    told = seeds.average_over_seeds({"a": counts}, rng(), 200, statistic=bleu)
    assert told.mean == pytest.approx(np.mean([bleu(one.sum(axis=0, keepdims=True))[0] for one in counts]))
    assert (told.low or 0) < told.mean < (told.high or 0)
    same = seeds.compare_over_seeds({"a": counts}, {"a": counts}, rng(), 200, statistic=bleu)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_other_seeds_or_questions_cannot_be_paired():
    with pytest.raises(ValueError, match="nothing can be paired"):
        seeds.compare_over_seeds({"a": np.ones((2, 5))}, {"a": np.ones((3, 5))}, rng())
    with pytest.raises(ValueError, match="nothing can be paired"):
        seeds.compare_over_seeds({"a": np.ones((2, 5))}, {"b": np.ones((2, 5))}, rng())


@pytest.mark.thorough
@pytest.mark.parametrize("values", [coin(0.5, 2000, 5).astype(float), rng(5).random(2000)])
def test_targets_are_asked_the_same_questions_in_every_resample_whatever_their_seeds(values):
    """Of answers that are right or wrong, and of figures of which no two are alike."""
    targets = {"one": np.tile(values, (1, 1)), "three": np.tile(values, (3, 1)), "better": (values + 0.05)[None]}
    drawn = seeds.resampled_each(targets, rng(4), 4000)
    assert drawn["one"] == pytest.approx(drawn["three"])
    assert drawn["better"] - drawn["one"] == pytest.approx(np.full(4000, 0.05))
    alone = statistics.mean(values, rng(7))
    told = np.quantile(drawn["one"], [0.025, 0.975])
    assert told == pytest.approx([alone.low, alone.high], abs=0.002)


def test_right_and_wrong_answers_are_drawn_by_their_patterns():
    """As wide as of the questions one by one."""
    first, second = coin(0.5, 700, 8), coin(0.6, 700, 9)
    told = seeds.compare_over_seeds({"": np.tile(second, (2, 1))}, {"": np.tile(first, (2, 1))}, rng())
    alone = statistics.compare(second, first, rng(1))
    assert (told.low, told.high) == (pytest.approx(alone.low, abs=0.005), pytest.approx(alone.high, abs=0.005))
