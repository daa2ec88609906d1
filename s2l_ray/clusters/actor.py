"""Ray glue of the clusters stage: one actor, on a GPU if the cluster has or can add one, else on a CPU.

Memory: the trajectory matrix (trajectories.matrix), in the actor alone.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.cluster.failures import own_errors_alone
from s2l_ray.cluster.placement import Placement
from s2l_ray.clusters.kmeans import KMeansResult, fit_kmeans
from s2l_ray.config.schema import ClustersConfig
from s2l_ray.corpus.example_id import array_to_ids
from s2l_ray.run_folder import Storage, columns_digest, fingerprint
from s2l_ray.trajectories.matrix import Trajectories, load_trajectories, snapshot_columns

_ROWS_PER_GROUP = 1_000_000


@dataclass(frozen=True)
class ClusterStats:
    num_clusters: int
    num_examples: int
    inertia: float
    sizes: list[int]
    warnings: list[str]
    peak_memory_bytes: int
    """Resident memory of the actor."""
    fingerprint: str
    """Of centroids and assignment."""
    written: list[dict[str, Any]]
    """Files, see Storage.take_written."""


class ClusterActor:
    """Loads the matrix, clusters it, writes the artifact."""

    def run(
        self,
        trajectories: Storage,
        part_rows: list[tuple[int, int]],
        num_snapshots: int,
        config: ClustersConfig,
        seed: int,
        use_gpu: bool,
        out: Storage,
    ) -> ClusterStats:
        matrix = load_trajectories(trajectories, part_rows, num_snapshots)
        columns = snapshot_columns(num_snapshots, config.num_snapshots, config.snapshots)
        result = fit_kmeans(
            matrix.losses if len(columns) == num_snapshots else np.ascontiguousarray(matrix.losses[:, columns]),
            num_clusters=config.num_clusters,
            seed=seed,
            init=config.init,
            num_iterations=config.num_iterations,
            max_train_points=config.max_train_points,
            use_gpu=use_gpu,
        )
        content = write_clusters(matrix, result, out)
        return ClusterStats(
            len(result.sizes),
            len(result.assignment),
            float(result.inertia),
            [int(s) for s in result.sizes],
            list(result.warnings),
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            content,
            out.take_written(),
        )


def write_clusters(matrix: Trajectories, result: KMeansResult, out: Storage) -> str:
    """`centroids.parquet` (a row per cluster) and `assignment.parquet` (a row per example, in the matrix's order).

    Returns the fingerprint of their content.
    """
    num_snapshots = result.centroids.shape[1]
    means = pa.FixedSizeListArray.from_arrays(pa.array(result.centroids.reshape(-1)), num_snapshots)
    numbers = pa.array(np.arange(len(result.sizes), dtype=np.int32))
    centroids = pa.table({"cluster": numbers, "size": pa.array(result.sizes), "centroid_loss_nats": means})
    out.write_table("centroids.parquet", centroids)
    assignment = pa.table(
        {"example_id": array_to_ids(matrix.ids), "cluster": pa.array(result.assignment.astype(np.int32))}
    )
    out.write_table("assignment.parquet", assignment, row_group_size=_ROWS_PER_GROUP, compression="zstd")
    return fingerprint([columns_digest(centroids), columns_digest(assignment)])


def cluster_trajectories(
    trajectories: Storage,
    part_rows: list[tuple[int, int]],
    num_snapshots: int,
    config: ClustersConfig,
    seed: int,
    placement: Placement,
    out: Storage,
) -> ClusterStats:
    """Run the actor; its resources are given back when it is done."""
    import ray

    use_gpu = placement.device == "gpu"
    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1 if use_gpu else 0, "max_restarts": 3, "max_task_retries": 3}
    options["scheduling_strategy"] = "DEFAULT"  # not within the placement group of a sweep's trial
    actor = ray.remote(ClusterActor).options(**options).remote()
    try:
        with own_errors_alone():
            stats = ray.get(actor.run.remote(trajectories, part_rows, num_snapshots, config, seed, use_gpu, out))
        out.note_written(stats.written)
        return stats
    finally:
        ray.kill(actor)
