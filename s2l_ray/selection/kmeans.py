"""Seeded k-means over loss trajectories; the only module that imports faiss itself (https://github.com/facebookresearch/faiss).

On a CPU, the same seed gives the same result bit for bit, whatever the number of threads: faiss and its BLAS always run
on one OpenMP thread here, and parallelism comes from Python threads over chunks with fixed borders. Therefore assigning
all N uses every CPU, and training on a sample uses one. (Measured with faiss 1.15.1: training on 1, 2, 3 and 5 OpenMP
threads gives the same bits for T from 1 to 17 and different ones for T of 20 and 40, where its search goes through a
threaded BLAS; two threads were four to thirteen times slower than one on a busy machine.) Between types of processors,
and on GPUs, the last bits may differ, so centroids are stored.

Memory in addition to the trajectories, for N examples, T snapshots, M training points: 4 N bytes (assignment), 4 M T +
12 M (sample, faiss's labels and distances), and about 12 T + 20 bytes for each of CHUNK_ROWS rows per thread, with at
most MAX_THREADS threads. There is no (N, K) matrix.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from s2l_ray.errors import DataError, UserError

CHUNK_ROWS = 262_144
DISTINCT_CHUNK_ROWS = 16_384
MAX_THREADS = 16
# Far above any loss, yet its square can be summed over T and N without overflow: faiss aborts the process (with a C++
# assertion, not an exception) if a distance is not finite.
MAX_LOSS_NATS = 1e12

Array = np.ndarray[Any, np.dtype[Any]]
Init = Literal["kmeans++", "random"]


class FaissMissing(UserError, ImportError):
    """Error if faiss is not installed."""


class FaissWithoutGpu(UserError, RuntimeError):
    """Error if k-means is to run on a GPU, which the installed faiss does not support."""


@dataclass(frozen=True)
class KMeansResult:
    centroids: Array
    """(K, T) float32, nats; ascending by mean loss, so that cluster 0 is the easiest."""
    assignment: Array
    """(N,) int32, each example's cluster."""
    sizes: Array
    """(K,) int64, examples per cluster; none is 0."""
    inertia: float
    """Sum over all N of the squared distance to the cluster's centroid (nats²)."""
    num_train_points: int
    """Number of trajectories on which the centroids were trained."""
    warnings: list[str]
    """Warnings for the user: K lowered, empty clusters dropped."""
    train_seconds: float = field(default=0.0, compare=False)
    """Wall-clock time of checks, sampling and training."""
    assign_seconds: float = field(default=0.0, compare=False)
    """Wall-clock time of assigning all N."""


def fit_kmeans(
    trajectories: Array,
    *,
    num_clusters: int,
    seed: int,
    init: Init = "kmeans++",
    num_iterations: int = 20,
    max_train_points: int = 1_000_000,
    use_gpu: bool = False,
    num_threads: int | None = None,
) -> KMeansResult:
    """Cluster (N, T) float32 trajectories, an array or a memory map, by Euclidean k-means on the raw losses.

    With more than `max_train_points`, the centroids are trained on a seeded uniform sample; all N are then assigned by
    streaming.

    Args:
        num_threads: threads of the assignment, at most MAX_THREADS; None: OMP_NUM_THREADS. No bit of the result depends
            on it.

    Raises:
        UserError: the shape or type is wrong, or a setting is impossible.
        DataError: a value is not finite.
        FaissMissing: faiss is not installed.
        FaissWithoutGpu: a GPU is requested, but faiss cannot use one.
    """
    _check_settings(num_clusters, init, num_iterations, max_train_points)
    _check_trajectories(trajectories)
    import_faiss()  # a missing faiss should fail before the long work, not after it
    started = time.perf_counter()
    _check_finite(trajectories)
    sample = _training_sample(trajectories, max_train_points, seed)  # (M, T)
    warnings: list[str] = []
    distinct = _distinct_rows(sample, num_clusters)
    if distinct is None:
        centroids = _train(sample, num_clusters, seed, init, num_iterations, use_gpu)
    else:
        # At most K distinct points are themselves the optimal centroids; no iteration could find better ones.
        centroids = distinct
        if len(distinct) < num_clusters:
            warnings.append(
                f"K was lowered from {num_clusters} to {len(distinct)}, because the {len(sample):,} training "
                "trajectories have no more distinct points"
            )
    num_train_points = len(sample)
    del sample, distinct
    centroids = _canonical_order(centroids)
    trained = time.perf_counter()
    assignment, sizes, inertia = assign_clusters(trajectories, centroids, use_gpu=use_gpu, num_threads=num_threads)
    centroids, assignment, sizes = _drop_empty(centroids, assignment, sizes, warnings)
    done = time.perf_counter()
    return KMeansResult(
        centroids, assignment, sizes, inertia, num_train_points, warnings, trained - started, done - trained
    )


def assign_clusters(
    trajectories: Array, centroids: Array, *, use_gpu: bool = False, num_threads: int | None = None
) -> tuple[Array, Array, float]:
    """Assign each of (N, T) trajectories to the nearest centroid: assignment (N,) int32, sizes (K,) int64, inertia.

    Streams over chunks with fixed borders, and sums in float64 in the order of the chunks, so that the number of
    threads does not change the inertia (nats²).
    """
    faiss = import_faiss()
    num_clusters = len(centroids)
    assignment = np.empty(len(trajectories), dtype=np.int32)

    with one_openmp_thread(faiss) as allowed:
        index = _flat_index(faiss, centroids.shape[1], use_gpu)
        index.add(np.ascontiguousarray(centroids, dtype=np.float32))

        def assign_chunk(start: int) -> tuple[Array, float]:
            rows = np.ascontiguousarray(trajectories[start : start + CHUNK_ROWS])  # (C, T)
            labels = index.search(rows, 1)[1][:, 0]  # (C,)
            assignment[start : start + len(rows)] = labels
            residual = rows - centroids[labels]  # (C, T)
            chunk_inertia = float(np.square(residual, out=residual).sum(dtype=np.float64))
            return np.bincount(labels, minlength=num_clusters), chunk_inertia

        # A GPU index serves one caller at a time.
        chunks = _map_chunks(faiss, assign_chunk, len(trajectories), 1 if use_gpu else num_threads or allowed)
        sizes, inertia = np.zeros(num_clusters, np.int64), 0.0
        for chunk_sizes, chunk_inertia in chunks:
            sizes += chunk_sizes
            inertia += chunk_inertia
    return assignment, sizes, inertia


def _map_chunks(
    faiss: Any, work: Callable[[int], tuple[Array, float]], num_rows: int, num_threads: int
) -> Iterator[tuple[Array, float]]:
    """Call `work` with each chunk's first row, and yield the results in the order of the rows."""
    starts = range(0, num_rows, CHUNK_ROWS)
    num_threads = min(num_threads, MAX_THREADS, len(starts))
    if num_threads <= 1:
        yield from map(work, starts)
        return
    # OpenMP's number of threads is a setting of each thread, so each thread of the pool sets its own.
    with ThreadPoolExecutor(num_threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(work, starts)


def _train(sample: Array, num_clusters: int, seed: int, init: Init, num_iterations: int, use_gpu: bool) -> Array:
    """Run faiss's Lloyd iterations over `sample` (M, T), and return centroids (K, T) float32."""
    faiss = import_faiss()
    num_snapshots = sample.shape[1]
    settings = faiss.ClusteringParameters()
    settings.niter = num_iterations
    settings.seed = _derived_seed(seed, "faiss")
    settings.init_method = {
        "kmeans++": faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        "random": faiss.ClusteringInitMethod_RANDOM,
    }[init]
    # faiss would draw a sample of its own above the maximum, and print a warning from C++ below the minimum.
    settings.max_points_per_centroid = len(sample)
    settings.min_points_per_centroid = 1
    with one_openmp_thread(faiss):
        clustering = faiss.Clustering(num_snapshots, num_clusters, settings)
        clustering.train(sample, _flat_index(faiss, num_snapshots, use_gpu))
        return faiss.vector_to_array(clustering.centroids).reshape(num_clusters, num_snapshots)


def import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise FaissMissing(
            "clustering needs faiss, which is not installed; run pip install 's2l_ray[cpu]', or 's2l_ray[gpu]' on "
            "machines with NVIDIA GPUs (never both)"
        ) from error
    return faiss


def faiss_sees_gpu() -> bool | None:
    """Whether this faiss can use a GPU of this machine; None: faiss is not installed."""
    try:
        faiss = import_faiss()
    except ImportError:
        return None
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def _flat_index(faiss: Any, num_snapshots: int, use_gpu: bool) -> Any:
    if not use_gpu:
        return faiss.IndexFlatL2(num_snapshots)
    if not faiss_sees_gpu():
        raise FaissWithoutGpu(
            "k-means is set to run on a GPU, but the installed faiss has no GPU support or finds no GPU; replace "
            "faiss-cpu (pip install 's2l_ray[gpu]') on a GPU node, or set use_gpu=False (resources.device=cpu)"
        )
    return faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), num_snapshots)


@contextmanager
def one_openmp_thread(faiss: Any) -> Iterator[int]:
    """Limit faiss and its BLAS to one thread in this thread; yield the previous limit (OMP_NUM_THREADS)."""
    allowed = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield allowed
    finally:
        faiss.omp_set_num_threads(allowed)


def _derived_seed(seed: int, purpose: str) -> int:
    """Derive 31 bits, which fit faiss's int, from a seed of any size, independent for each purpose."""
    digest = hashlib.blake2b(f"s2l_ray/kmeans/{purpose}/{seed}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def _training_sample(trajectories: Array, max_points: int, seed: int) -> Array:
    """Return all trajectories, or a seeded uniform sample without replacement, (M, T) in the order of the rows.

    The sample is drawn chunk by chunk (each chunk's share is hypergeometric), so that a memory map is read forwards and
    no array of length N is needed.
    """
    num_rows = len(trajectories)
    if num_rows <= max_points:
        return np.ascontiguousarray(trajectories)
    rng = np.random.default_rng(_derived_seed(seed, "sample"))
    sample = np.empty((max_points, trajectories.shape[1]), dtype=np.float32)
    filled = 0
    for start in range(0, num_rows, CHUNK_ROWS):
        here = min(CHUNK_ROWS, num_rows - start)
        take = int(rng.hypergeometric(here, num_rows - start - here, max_points - filled))
        rows = np.sort(rng.choice(here, take, replace=False, shuffle=False))
        sample[filled : filled + take] = trajectories[start + rows]
        filled += take
    return sample


def _distinct_rows(sample: Array, limit: int) -> Array | None:
    """Return the distinct rows of (M, T) if there are at most `limit`, otherwise None, without reading on."""
    found = sample[:0]
    step = max(DISTINCT_CHUNK_ROWS, 2 * limit)
    for start in range(0, len(sample), step):
        found = np.unique(np.concatenate([found, sample[start : start + step]]), axis=0)
        if len(found) > limit:
            return None
    return found


def _canonical_order(centroids: Array) -> Array:
    """Sort by mean, then lexicographically, so that the numbering does not depend on the initialisation's order."""
    columns = [centroids.mean(axis=1, dtype=np.float64), *centroids.T]
    return np.ascontiguousarray(centroids[np.lexsort(columns[::-1])])


def _drop_empty(centroids: Array, assignment: Array, sizes: Array, warnings: list[str]) -> tuple[Array, Array, Array]:
    kept = np.flatnonzero(sizes)  # ascending, which keeps the canonical order
    if len(kept) == len(sizes):
        return centroids, assignment, sizes
    warnings.append(
        f"{len(sizes) - len(kept)} of {len(sizes)} clusters were empty after the assignment and have been dropped; "
        f"{len(kept)} remain"
    )
    new_number = np.zeros(len(sizes), dtype=np.int32)
    new_number[kept] = np.arange(len(kept), dtype=np.int32)
    return centroids[kept], new_number[assignment], sizes[kept]


def _check_settings(num_clusters: int, init: str, num_iterations: int, max_train_points: int) -> None:
    for name, value in (
        ("num_clusters", num_clusters),
        ("num_iterations", num_iterations),
        ("max_train_points", max_train_points),
    ):
        if value < 1:
            raise UserError(f"{name}={value} leaves nothing to cluster; give a whole number of at least 1")
    if init not in ("kmeans++", "random"):
        raise UserError(f"unknown init {init!r}; known: kmeans++, random")


def _check_trajectories(trajectories: Array) -> None:
    if trajectories.ndim != 2 or 0 in trajectories.shape:
        raise UserError(f"trajectories must be (N, T) with N, T >= 1, not {trajectories.shape}")
    if trajectories.dtype != np.float32:
        raise UserError(f"trajectories must be float32, not {trajectories.dtype}; convert them with .astype")


def _check_finite(trajectories: Array) -> None:
    first, count = -1, 0
    for start in range(0, len(trajectories), CHUNK_ROWS):
        chunk = trajectories[start : start + CHUNK_ROWS]
        if max(chunk.max(), -chunk.min()) <= MAX_LOSS_NATS:  # NaN passes through max and min, and fails this
            continue
        rows = np.flatnonzero(~(np.abs(chunk) <= MAX_LOSS_NATS).all(axis=1))
        first = start + int(rows[0]) if first < 0 else first
        count += len(rows)
    if count:
        raise DataError(
            f"{count:,} of {len(trajectories):,} trajectories have a loss that is NaN, infinite or above "
            f"{MAX_LOSS_NATS:.0e}, the first in row {first}: {trajectories[first].tolist()}; they would distort every "
            "centroid, and are never set to 0. Find out why the proxy gave them no proper loss"
        )
