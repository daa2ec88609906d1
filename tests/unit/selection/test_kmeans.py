from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from s2l_ray.selection import kmeans
from s2l_ray.selection.kmeans import assign_clusters, fit_kmeans
from tests.support.paths import ROOT


def curves(num: int, length: int = 6, seed: int = 0) -> np.ndarray:
    """(N, T) float32 falling curves of ten kinds, one of them half of all."""
    rng = np.random.default_rng(seed)
    kind = np.where(rng.random(num) < 0.5, 0, rng.integers(0, 10, num))
    means = 5 * np.exp(-np.outer(np.linspace(0.2, 3, 10), np.linspace(0, 2, length)))
    return (means[kind] + 0.1 * rng.standard_normal((num, length))).astype(np.float32)


def lloyd(points: np.ndarray, centroids: np.ndarray, iterations: int) -> float:
    """Textbook k-means in float64 → inertia, from given centroids."""
    points, centroids = points.astype(np.float64), centroids.astype(np.float64).copy()
    for step in range(iterations + 1):
        squared = ((points[:, None, :] - centroids[None]) ** 2).sum(-1)  # (N, K)
        nearest = squared.argmin(1)
        if step < iterations:
            for k in np.unique(nearest):
                centroids[k] = points[nearest == k].mean(0)
    return float(squared.min(1).sum())


def assert_consistent(points: np.ndarray, result: kmeans.KMeansResult) -> None:
    """Everything the result claims, recomputed in float64 the plain way."""
    squared = ((points[:, None, :].astype(np.float64) - result.centroids[None]) ** 2).sum(-1)  # (N, K)
    own = squared[np.arange(len(points)), result.assignment]
    assert np.allclose(own, squared.min(1), atol=1e-4)
    assert result.inertia == pytest.approx(own.sum(), rel=1e-5, abs=1e-6)
    assert np.array_equal(result.sizes, np.bincount(result.assignment, minlength=len(result.centroids)))
    assert result.sizes.min() > 0
    assert result.sizes.sum() == len(points)
    assert (np.diff(result.centroids.mean(1)) >= -1e-6).all()
    assert (result.centroids.dtype, result.assignment.dtype, result.sizes.dtype) == (np.float32, np.int32, np.int64)


@pytest.mark.parametrize("init", ["kmeans++", "random"])
@pytest.mark.parametrize("length", [1, 6, 40])
def test_result_is_consistent(init: kmeans.Init, length: int) -> None:
    points = curves(3000, length)
    result = fit_kmeans(points, num_clusters=12, seed=1, init=init)
    assert_consistent(points, result)
    assert len(result.centroids) == 12
    assert result.warnings == []
    assert result.num_train_points == 3000


def test_separated_groups_are_found() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(5, 2000, p=[0.6, 0.2, 0.1, 0.09, 0.01])
    points = (truth[:, None] * 3 + 0.1 * rng.standard_normal((2000, 4))).astype(np.float32)
    result = fit_kmeans(points, num_clusters=5, seed=0)
    assert np.array_equal(result.assignment, truth)  # the numbering too: ascending mean loss


@pytest.mark.thorough
def test_objective_is_not_worse_than_plain_lloyd() -> None:
    points = curves(4000)
    for init in ("kmeans++", "random"):
        ours = [fit_kmeans(points, num_clusters=15, seed=s, init=init).inertia for s in range(4)]
        rng = np.random.default_rng(7)
        plain = [lloyd(points, points[rng.choice(4000, 15, replace=False)], 20) for _ in range(4)]
        assert np.mean(ours) <= 1.05 * np.mean(plain), init


def test_result_is_a_fixed_point_of_lloyd() -> None:
    points = curves(2000)
    result = fit_kmeans(points, num_clusters=6, seed=0, num_iterations=200)
    assert lloyd(points, result.centroids, 5) == pytest.approx(result.inertia, rel=1e-4)
    few = fit_kmeans(points, num_clusters=6, seed=0, num_iterations=1)
    assert few.inertia > result.inertia  # num_iterations reaches faiss


def test_init_is_selectable() -> None:
    points = curves(4000)
    plus = fit_kmeans(points, num_clusters=15, seed=3, init="kmeans++", num_iterations=2)
    random = fit_kmeans(points, num_clusters=15, seed=3, init="random", num_iterations=2)
    assert not np.array_equal(plus.centroids, random.centroids)
    # A far, rare kind: k-means++ cannot overlook it, random initialisation nearly always does.
    far = np.concatenate([points, np.full((4, 6), 60, np.float32) + curves(4)])
    sizes = [fit_kmeans(far, num_clusters=8, seed=s, init="kmeans++", num_iterations=1).sizes[-1] for s in range(5)]
    assert max(sizes) <= 4


def test_seed_decides() -> None:
    points = curves(3000)
    first, again, other = (fit_kmeans(points, num_clusters=10, seed=s) for s in (5, 5, 6))
    assert first.centroids.tobytes() == again.centroids.tobytes()
    assert first.assignment.tobytes() == again.assignment.tobytes()
    assert first.inertia == again.inertia
    assert first.centroids.tobytes() != other.centroids.tobytes()
    fit_kmeans(points, num_clusters=10, seed=2**70)  # any whole number is a seed


FINGERPRINT = """
import hashlib, sys
import numpy as np
from s2l_ray.selection import kmeans
kmeans.CHUNK_ROWS = 5000
rng = np.random.default_rng(0)
for length in (12, 40):  # faiss has own kernels for short vectors, and calls BLAS for long ones
    points = np.abs(rng.standard_normal((60_000, length), dtype=np.float32))
    result = kmeans.fit_kmeans(points, num_clusters=50, seed=4, num_iterations=8, max_train_points=40_000)
    data = result.centroids.tobytes() + result.assignment.tobytes() + repr(result.inertia).encode()
    print(hashlib.sha256(data).hexdigest())
import faiss
print(faiss.omp_get_max_threads())
"""


@pytest.mark.thorough
def test_same_bits_for_any_number_of_threads() -> None:
    outputs = []
    for threads in ("1", "2", "5"):
        env = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", FINGERPRINT], env=env, cwd=ROOT, check=True, capture_output=True, text=True
        )
        assert done.stderr == ""  # faiss prints warnings from C++
        *hashes, seen = done.stdout.split()
        assert seen == threads  # the setting took effect, and was restored after the fit
        outputs.append(hashes)
    assert len(outputs[0]) == 2
    assert outputs[0] == outputs[1] == outputs[2]


def test_large_input_trains_on_a_sample_and_streams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    points = curves(10_000)
    whole = fit_kmeans(points, num_clusters=10, seed=0)
    monkeypatch.setattr(kmeans, "CHUNK_ROWS", 700)
    sampled = fit_kmeans(points, num_clusters=10, seed=0, max_train_points=2000)
    assert sampled.num_train_points == 2000
    assert_consistent(points, sampled)
    assert sampled.inertia < 1.2 * whole.inertia  # two local optima; either may be the better one
    mapped = np.memmap(tmp_path / "curves", np.float32, "w+", shape=points.shape)
    mapped[:] = points
    from_map = fit_kmeans(mapped, num_clusters=10, seed=0, max_train_points=2000)
    assert from_map.centroids.tobytes() == sampled.centroids.tobytes()
    assert np.array_equal(from_map.assignment, sampled.assignment)


@pytest.mark.thorough
def test_training_sample_is_uniform_and_without_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "CHUNK_ROWS", 7)
    rows = np.arange(50, dtype=np.float32)[:, None]
    counts = np.zeros(50)
    for seed in range(2000):
        sample = kmeans._training_sample(rows, 20, seed)[:, 0]
        assert len(sample) == 20
        assert (np.diff(sample) > 0).all()  # ascending, so no row twice
        counts[sample.astype(int)] += 1
    assert abs(counts - 800).max() < 5 * np.sqrt(2000 * 0.4 * 0.6)


def test_assignment_from_stored_centroids_is_the_same() -> None:
    points = curves(3000)
    result = fit_kmeans(points, num_clusters=10, seed=0)
    assignment, sizes, inertia = assign_clusters(points, result.centroids)
    assert np.array_equal(assignment, result.assignment)
    assert np.array_equal(sizes, result.sizes)
    assert inertia == result.inertia


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_fewer_distinct_points_than_clusters(init: kmeans.Init) -> None:
    distinct = curves(7)
    points = np.repeat(distinct, 6000, axis=0)  # more rows than one chunk of the distinct count
    result = fit_kmeans(points, num_clusters=10, seed=0, init=init)
    assert len(result.centroids) == 7
    assert result.sizes.tolist() == [6000] * 7
    assert result.inertia == 0
    assert len(result.warnings) == 1
    assert "from 10 to 7" in result.warnings[0]
    exact = fit_kmeans(points, num_clusters=7, seed=0, init=init)
    assert exact.warnings == []
    assert exact.sizes.tolist() == [6000] * 7


def test_one_example_and_one_cluster() -> None:
    assert fit_kmeans(curves(1), num_clusters=100, seed=0).sizes.tolist() == [1]
    result = fit_kmeans(curves(500), num_clusters=1, seed=0)
    assert np.allclose(result.centroids[0], curves(500).mean(0), atol=1e-5)


def test_few_points_per_cluster_print_no_warning(capfd: pytest.CaptureFixture[str]) -> None:
    assert len(fit_kmeans(curves(30), num_clusters=10, seed=0).centroids) == 10
    assert capfd.readouterr() == ("", "")  # faiss would like 39 points per cluster, and writes so to stderr


def test_empty_clusters_are_dropped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    points = curves(300)
    ends = np.array([[9] * 6, points.mean(0), [90] * 6, [0] * 6], np.float32)
    monkeypatch.setattr(kmeans, "_train", lambda *args: ends)
    result = fit_kmeans(points, num_clusters=4, seed=0)
    assert len(result.centroids) == len(result.sizes) == result.assignment.max() + 1 < 4
    assert_consistent(points, result)
    assert "of 4 clusters were empty" in result.warnings[0]


def test_heavy_duplicates_leave_no_empty_cluster() -> None:
    points = np.concatenate([np.repeat(curves(8), 500, axis=0), curves(4, seed=1)])
    for init in ("kmeans++", "random"):
        result = fit_kmeans(points, num_clusters=11, seed=0, init=init)
        assert result.sizes.min() > 0
        assert_consistent(points, result)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_losses_are_refused(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "CHUNK_ROWS", 100)
    points = curves(1000)
    points[[417, 418, 999], [0, 3, 5]] = bad
    points[418] = -bad  # infinities of both signs in one chunk
    with pytest.raises(ValueError, match=r"3 of 1,000 .* first in row 417"):
        fit_kmeans(points, num_clusters=5, seed=0)


def test_overflowing_losses_are_refused() -> None:
    """faiss would abort the whole process."""
    points = curves(1000)
    points[17] = -1e20
    with pytest.raises(ValueError, match=r"1 of 1,000 .* above 1e\+12, the first in row 17"):
        fit_kmeans(points, num_clusters=5, seed=0)
    points[17] = 1e12
    assert fit_kmeans(points, num_clusters=5, seed=0).sizes[-1] == 1


def test_wrong_settings_are_refused() -> None:
    points = curves(50)
    with pytest.raises(ValueError, match="float64"):
        fit_kmeans(points.astype(np.float64), num_clusters=5, seed=0)
    with pytest.raises(ValueError, match="not \\(50,\\)"):
        fit_kmeans(points[:, 0], num_clusters=5, seed=0)
    with pytest.raises(ValueError, match="num_clusters=0"):
        fit_kmeans(points, num_clusters=0, seed=0)
    with pytest.raises(ValueError, match="known: kmeans"):
        fit_kmeans(points, num_clusters=5, seed=0, init="k-means++")  # type: ignore[arg-type]


def test_gpu_without_gpu_says_what_to_do() -> None:
    faiss = pytest.importorskip("faiss")
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        result = fit_kmeans(curves(3000), num_clusters=10, seed=0, use_gpu=True)
        assert_consistent(curves(3000), result)
        return
    with pytest.raises(RuntimeError, match=r"s2l_ray\[gpu\]"):
        fit_kmeans(curves(100), num_clusters=5, seed=0, use_gpu=True)


def test_missing_faiss_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_faiss(name: str, *args: object, **kwargs: object) -> object:
        if name == "faiss":
            raise ModuleNotFoundError("No module named 'faiss'")
        return real_import(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", no_faiss)
    with pytest.raises(ImportError, match=r"s2l_ray\[cpu\].*s2l_ray\[gpu\]"):
        fit_kmeans(curves(100), num_clusters=5, seed=0)
