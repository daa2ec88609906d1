"""The gradient check: its sample, similarity with intervals and permuted nulls, and errors estimated from a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from s2l_ray.errors import DataError, UserError
from s2l_ray.selection.gradient_agreement import agreement, error_of_rows, explained_share, mean_cosines, subset_error
from s2l_ray.selection.gradient_errors import ClusterDraw, GradientError, Members, SampledGradients, UniformDraw
from s2l_ray.selection.gradient_sample import NUM_GROUPS, GradientSample, draw_sample
from s2l_ray.selection.gradient_similarity import Similarity, UniformGradients

Array = np.ndarray[Any, np.dtype[Any]]


def random_ids(num: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 2**63, (num, 2)).astype(np.uint64)


def world(num: int = 2000, dim: int = 12, seed: int = 0, apart: float = 1.0) -> tuple[Array, Array, Array]:
    """Ids, clusters of unequal sizes, and gradients that differ between clusters by `apart`."""
    rng = np.random.default_rng(seed)
    clusters = rng.choice(6, num, p=[0.5, 0.25, 0.15, 0.06, 0.03, 0.01])
    centres = rng.standard_normal((6, dim)) * np.array([1, 1, 1, 2, 3, 4])[:, None] * apart
    gradients = centres[clusters] + 0.5 + rng.standard_normal((num, dim))
    return random_ids(num, seed), clusters, gradients


def sampled(ids: Array, clusters: Array, gradients: Array, num: int, seed: int = 0) -> SampledGradients:
    sample = draw_sample(ids, clusters, num, seed)
    return SampledGradients(gradients[sample.rows], sample)


def error(of: SampledGradients, subset: UniformDraw | ClusterDraw | Members) -> GradientError:
    return of.errors({"subset": subset})["subset"]


# --- the sample -----------------------------------------------------------------------------------------------------


def test_the_sample_is_uniform_and_fills_up_small_clusters() -> None:
    ids, clusters, _ = world(5000)
    sample = draw_sample(ids, clusters, 200, seed=3)
    assert sample.is_uniform.sum() == 200
    counts = np.bincount(sample.clusters)
    assert counts.min() >= 16
    assert counts[0] == sample.is_uniform[sample.clusters == 0].sum()
    assert (np.diff(ids[sample.rows, 0].astype(np.float64)) >= 0).all()
    drawn = [draw_sample(ids, clusters, 200, seed) for seed in range(20)]
    share = np.mean([(one.is_uniform & (one.clusters == 0)).sum() / 200 for one in drawn])
    assert share == pytest.approx((clusters == 0).mean(), abs=0.03)


def test_the_order_of_the_rows_changes_nothing() -> None:
    ids, clusters, gradients = world(3000)
    shuffled = np.random.default_rng(1).permutation(3000)
    one, other = draw_sample(ids, clusters, 300, 0), draw_sample(ids[shuffled], clusters[shuffled], 300, 0)
    np.testing.assert_array_equal(one.rows, shuffled[other.rows])
    for name in ("is_uniform", "clusters", "uniform_groups", "cluster_groups", "cluster_sizes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    taken = np.array([40, 40, 40, 40, 40, 20])
    assert error(SampledGradients(gradients[one.rows], one), ClusterDraw(taken)) == error(
        SampledGradients(gradients[shuffled][other.rows], other), ClusterDraw(taken)
    )


def test_another_seed_is_another_sample_and_clusters_that_are_taken_whole_are_no_chance() -> None:
    ids, clusters, _ = world(2000)
    one, other = (draw_sample(ids, clusters, 300, seed) for seed in (0, 1))
    assert len(np.intersect1d(one.rows, other.rows)) < 150
    small = draw_sample(ids[:60], clusters[:60], 60, 0)
    assert (small.cluster_groups == -1).all()
    assert set(one.cluster_groups[one.clusters == 0]) == set(range(NUM_GROUPS))


def test_too_few_for_the_clusters_are_refused() -> None:
    ids = random_ids(500)
    with pytest.raises(UserError, match=r"gradients.num_examples=199 .* each of 100 clusters.* raise it to 200"):
        draw_sample(ids, np.arange(500) % 100, 199, 0)
    assert len(draw_sample(ids, np.arange(500) % 100, 200, 0).rows) >= 200
    assert len(draw_sample(ids[:5], np.arange(5), 5, 0).rows) == 5


# --- similarity -----------------------------------------------------------------------------------------------------


def uniform(gradients: Array, seed: int = 0) -> UniformGradients:
    return UniformGradients(gradients, np.random.default_rng(seed).permutation(len(gradients)) % NUM_GROUPS)


def similarity(of: UniformGradients, labels: Array, seed: int = 0) -> Similarity:
    return of.similarities({"labels": labels}, seed)["labels"]


def test_similarity_is_that_of_the_definitions() -> None:
    _, clusters, gradients = world(400)
    gradients[7] = 0
    found, expected = similarity(uniform(gradients), clusters, seed=5), agreement(gradients, clusters, seed=5)
    assert found.within == pytest.approx(expected.cosine.within)
    assert found.across == pytest.approx(expected.cosine.across)
    assert found.explained is not None
    assert found.explained.value == pytest.approx(expected.explained)
    assert found.null_within == pytest.approx(expected.null_within)
    assert found.null_explained == pytest.approx(expected.null_explained)
    assert uniform(gradients).num_zero == 1


@pytest.mark.thorough
def test_random_clusters_are_flat_and_real_ones_are_not() -> None:
    covered = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        gradients, labels = rng.standard_normal((400, 10)) + 0.3, rng.integers(0, 8, 400)
        found = similarity(uniform(gradients, seed), labels, seed)
        assert found.difference is not None
        assert found.null_difference is not None
        assert abs(found.difference.value) < 0.05
        covered += found.difference.low <= 0 <= found.difference.high
    assert covered >= 26, "a 95 % interval of nothing holds 0"
    _, clusters, gradients = world(400)
    found = similarity(uniform(gradients), clusters)
    assert found.difference is not None
    assert found.null_difference is not None
    assert found.difference.low > found.null_difference[1]


def test_nothing_to_compare_is_none() -> None:
    equal = similarity(uniform(np.ones((40, 3))), np.arange(40) % 4)
    assert equal.explained is None
    assert equal.difference is not None
    assert equal.difference.value == pytest.approx(0)
    alone = similarity(uniform(np.random.default_rng(0).standard_normal((40, 3))), np.zeros(40, int))
    assert (alone.across, alone.difference, alone.null_difference) == (None, None, None)
    assert similarity(uniform(np.zeros((40, 3))), np.arange(40) % 4).within is None


def sketches(gradients: Array, num: int) -> list[Array]:
    """(m, D) → (m, 16 · 16), of 16 independent blocks, by several seeds."""
    signs = [np.random.default_rng(seed).choice([-1.0, 1.0], (gradients.shape[1], 256)) for seed in range(num)]
    return [gradients @ one / 16 for one in signs]


@pytest.mark.thorough
def test_intervals_cover_what_the_sketch_loses() -> None:
    """All examples are in the sample, so that there is no other chance."""
    ids, clusters, gradients = world(300, dim=400, apart=0.6)
    sample = draw_sample(ids, clusters, 300, 0)
    gradients, clusters = gradients[sample.rows], clusters[sample.rows]
    taken = np.array([30, 30, 30, 20, 10, 4])
    exact = error(SampledGradients(gradients, sample), ClusterDraw(taken))
    cosine = mean_cosines(gradients, clusters)
    assert cosine.within is not None
    assert cosine.across is not None
    truth = {"difference": cosine.within - cosine.across, "explained": explained_share(gradients, clusters)}
    names = ("bias", "rms", "random_rms", "rms_by_random", "weighted_by_random")
    covered = dict.fromkeys((*names, *truth), 0)
    for sketch in sketches(gradients, 30):
        found = error(SampledGradients(sketch, sample, num_blocks=16), ClusterDraw(taken))
        for name in names:
            interval = getattr(found, name)
            covered[name] += interval.low <= getattr(exact, name).value <= interval.high
        pairs = UniformGradients(sketch, np.zeros(300, int), num_blocks=16)  # one group: no chance in the sample
        alike = pairs.similarities({"labels": clusters})["labels"]
        for name, value in truth.items():
            interval = getattr(alike, name)
            assert interval.high - interval.low < 0.1
            covered[name] += interval.low <= value <= interval.high
    assert min(covered.values()) >= 25, covered


# --- errors ---------------------------------------------------------------------------------------------------------


def whole(clusters: Array) -> GradientSample:
    return draw_sample(random_ids(len(clusters)), clusters, len(clusters), 0)


def test_all_examples_in_the_sample_give_the_closed_form() -> None:
    ids, clusters, gradients = world(600)
    taken = np.array([30, 30, 30, 20, 10, 4])
    expected = subset_error(gradients, clusters, taken)
    found = error(sampled(ids, clusters, gradients, 600), ClusterDraw(taken))
    for name, value in (("bias", expected.bias), ("rms", expected.rms), ("weighted_rms", expected.weighted_rms),
                        ("random_rms", expected.random_rms)):  # fmt: skip
        interval = getattr(found, name)
        assert [interval.value, interval.low, interval.high] == pytest.approx([value] * 3), "no chance is left"
    assert expected.weighted_rms is not None
    assert found.weighted_by_random is not None
    assert found.weighted_by_random.value == pytest.approx(expected.weighted_rms / expected.random_rms)


def test_a_sample_estimates_the_corpus_and_its_intervals_cover_it() -> None:
    names = ("bias", "rms", "weighted_rms", "random_rms", "rms_by_random", "weighted_by_random")
    ids, clusters, gradients = world(4000, dim=40)
    taken = np.array([60, 60, 60, 60, 60, 20])
    truth = error(sampled(ids, clusters, gradients, 4000), ClusterDraw(taken))
    covered = dict.fromkeys(names, 0)
    values: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(40):
        found = error(sampled(ids, clusters, gradients, 300, seed), ClusterDraw(taken))
        for name in names:
            interval = getattr(found, name)
            values[name].append(interval.value)
            covered[name] += interval.low <= getattr(truth, name).value <= interval.high
    for name in names:
        assert np.mean(values[name]) == pytest.approx(getattr(truth, name).value, rel=0.03), name
        assert covered[name] >= 34, (name, covered[name])


@pytest.mark.thorough
def test_a_subset_is_measured_as_it_is() -> None:
    """One that prefers a direction within its clusters, which no table of clusters would show."""
    ids, clusters, gradients = world(4000, dim=40)
    chosen = gradients[:, 0] + np.random.default_rng(0).standard_normal(4000) > 1.5
    truth = error_of_rows(gradients, np.flatnonzero(chosen))
    covered, values = 0, []
    for seed in range(40):
        sample = draw_sample(ids, clusters, 400, seed)
        members = Members(int(chosen.sum()), chosen[sample.rows])
        found = error(SampledGradients(gradients[sample.rows], sample), members)
        assert found.rms is not None
        values.append(found.rms.value)
        covered += found.rms.low <= truth <= found.rms.high
    assert np.mean(values) == pytest.approx(truth, rel=0.05)
    assert covered >= 34


def test_weights_of_a_subset_count() -> None:
    ids, clusters, gradients = world(3000)
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.choice(np.flatnonzero(clusters == k), min(30, (clusters == k).sum()), replace=False)
                           for k in range(6)])  # fmt: skip
    weights = np.bincount(clusters)[clusters] / 30.0
    chosen = np.isin(np.arange(3000), rows)
    of = sampled(ids, clusters, gradients, 3000)
    plain = error(of, Members(len(rows), chosen[of.sample.rows]))
    weighted = error(of, Members(len(rows), chosen[of.sample.rows], weights[of.sample.rows]))
    assert plain.rms is not None
    assert weighted.weighted_rms is not None
    assert (plain.weighted_rms, weighted.rms) == (None, None)
    assert plain.rms.value == pytest.approx(error_of_rows(gradients, rows))
    assert weighted.weighted_rms.value == pytest.approx(error_of_rows(gradients, rows, weights[rows]))


def test_what_cannot_be_said_is_none_with_the_reason() -> None:
    ids, clusters, gradients = world(2000)
    of = sampled(ids, clusters, gradients, 200)
    found = error(of, ClusterDraw(np.array([50, 50, 50, 50, 0, 0])))
    assert (found.weighted_rms, found.weighted_by_random) == (None, None)
    assert "2 clusters give nothing" in found.note
    few = error(of, Members(100, np.arange(len(of.gradients)) < 5))
    assert (few.rms, few.rms_by_random) == (None, None)
    assert "only 5 of its 100 examples" in few.note
    flat = np.random.default_rng(0).standard_normal((2000, 60))
    assert sampled(ids, clusters, flat - flat.mean(axis=0), 100).errors({"any": UniformDraw(9)}) == {}


def test_all_of_the_corpus_has_no_error() -> None:
    ids, clusters, gradients = world(500)
    found = error(sampled(ids, clusters, gradients, 100), ClusterDraw(np.bincount(clusters)))
    assert found.random_rms is not None
    assert found.rms is not None
    assert (found.random_rms.value, found.rms_by_random) == (0, None)
    assert found.rms.value == pytest.approx(0, abs=1e-6)


def test_a_random_subset_is_its_own_yardstick() -> None:
    of = sampled(*world(2000), 300)
    found = error(of, UniformDraw(200))
    assert found.rms == found.random_rms
    assert (found.closed_form, found.bias, found.rms_by_random) == (True, None, None)


def test_gradients_that_are_not_finite_are_refused() -> None:
    _, clusters, gradients = world(100)
    gradients[3, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        SampledGradients(gradients, whole(clusters))
