"""Runs the clusters stage in one actor, on a GPU if the nodes' faiss supports it, otherwise on a node's free CPUs.

Memory: the trajectory matrix (data.trajectories), in the actor alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.config.schema import ClustersConfig
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.data.trajectories import Trajectories, load_trajectories, snapshot_columns
from s2l_ray.errors import EnvironmentFault
from s2l_ray.execution.capacity_wait import Patience, free_now, free_resources
from s2l_ray.execution.failures import is_memory, telling_line, unwrap_task_errors
from s2l_ray.execution.placement import Placement
from s2l_ray.execution.session import head_answers
from s2l_ray.selection.kmeans import MAX_THREADS, KMeansResult, fit_kmeans
from s2l_ray.storage.digests import columns_digest
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.processes import peak_resident_bytes

_ROWS_PER_GROUP = 1_000_000
_SETTLE_S = 5.0


class ClusteringFailedError(EnvironmentFault):
    """The k-means process died too often; the message says why and how to fix it."""

    retryable = False  # the retries are spent


@dataclass(frozen=True)
class ClusterStats:
    num_clusters: int
    num_examples: int
    inertia: float
    sizes: list[int]
    warnings: list[str]
    peak_memory_bytes: int
    """Peak resident memory of the actor."""
    fingerprint: str
    """Fingerprint of centroids and assignment."""
    written: list[dict[str, Any]]
    """The files written, as from Storage.take_written."""


class ClusterActor:
    """Loads the matrix, clusters it, writes the artifact."""

    def started(self) -> None:
        """Returns once the actor has been placed."""

    def run(
        self,
        trajectories: Storage,
        part_rows: list[tuple[int, int]],
        num_snapshots: int,
        config: ClustersConfig,
        seed: int,
        use_gpu: bool,
        num_threads: int,
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
            num_threads=num_threads,
        )
        content = write_clusters(matrix, result, out)
        return ClusterStats(
            len(result.sizes),
            len(result.assignment),
            float(result.inertia),
            [int(s) for s in result.sizes],
            list(result.warnings),
            peak_resident_bytes(),
            content,
            out.take_written(),
        )


def write_clusters(matrix: Trajectories, result: KMeansResult, out: Storage) -> str:
    """Write `centroids.parquet` (one row per cluster) and `assignment.parquet` (one per example, in the matrix's
    order).

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
    *,
    max_failures: int = 3,
    wait_s: float = 86_400,
    say: Callable[[str], None] = print,
) -> ClusterStats:
    """Cluster trajectories in an actor, whose resources are released when it is done.

    Args:
        placement: resources of one worker; `cpus_per_worker` is the most that it can use.
        max_failures: how often the actor is restarted if its process or node dies; -1: no limit.
        wait_s: how long the actor may wait for its resources (seconds).

    Raises:
        ClusteringFailedError: the actor died more often.
        CapacityTimeoutError: its resources did not become free in time.
    """
    import ray

    failures = 0
    while True:
        cpus = _free_cpus(placement)
        actor = ray.remote(ClusterActor).options(**_options(placement, cpus)).remote()
        try:
            described = replace(placement, cpus_per_worker=cpus).describe_worker()
            _wait_until_started(actor, described, Patience("clusters", wait_s, say))
            say(f"[clusters] k-means of {sum(rows for _, rows in part_rows):,} trajectories with {described}")
            how = (config, seed, placement.device == "gpu", int(cpus))
            with unwrap_task_errors():
                stats: ClusterStats = ray.get(actor.run.remote(trajectories, part_rows, num_snapshots, *how, out))
            out.note_written(stats.written)
            return stats
        except ray.exceptions.RayTaskError as error:
            if not is_memory(error.cause):
                raise
            raise _explained(error.cause, 1) from error
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            failures += 1
            lost_cluster = not head_answers(ray.get_runtime_context().gcs_address)
            if lost_cluster or 0 <= max_failures < failures:
                raise _explained(error, failures) from error
            say(f"[clusters] the k-means process was lost ({telling_line(error)}); restarting it ({failures})")
        finally:
            ray.kill(actor)


def _options(placement: Placement, cpus: float) -> dict[str, Any]:
    """Ray's options for the actor."""
    custom = dict(placement.custom_resources)
    return {
        "num_cpus": cpus, "num_gpus": placement.gpus_per_worker, "accelerator_type": placement.accelerator_type,
        "memory": custom.pop("memory", None), "resources": custom or None,
        "scheduling_strategy": "DEFAULT",  # not within the placement group of a sweep's trial
    }  # fmt: skip


def _free_cpus(placement: Placement) -> float:
    """The whole number of CPUs that are free on the node with the most free CPUs; at least 1.

    The previous stage has just released its own. More CPUs are not waited for, since the result does not depend on
    their number.
    """
    needs = {name: each for name, each in placement.worker.items() if name != "CPU"}
    free = [
        n.get("CPU", 0)
        for n in free_resources(_SETTLE_S)
        if all(n.get(name, 0) >= each for name, each in needs.items())
    ]
    return float(max(1, int(min(max(free, default=1), placement.cpus_per_worker, MAX_THREADS))))


def _wait_until_started(actor: Any, described: str, patience: Patience) -> None:
    import ray

    started = actor.started.remote()
    while not ray.wait([started], timeout=max(0.1, min(15.0, patience.left_s)))[0]:
        free = sum(node.get("CPU", 0) for node in free_now())
        patience.tell(f"k-means needs 1 worker with {described}; {free:g} CPU are free")
    ray.get(started)


def _explained(error: BaseException, failures: int) -> ClusteringFailedError:
    ended = f"the k-means process died {failures} time{'s' if failures > 1 else ''} (resources.max_failures)"
    cure = "run the same command to try again"
    if is_memory(error):
        ended = "k-means ran out of memory"
        cure = (
            "the matrix of all losses and its sample must fit in one node's memory: use a node with more memory, lower "
            "clusters.max_train_points or clusters.num_snapshots, or set resources.device=cpu if the GPU's memory was "
            "too small"
        )
    return ClusteringFailedError(f"{ended}: {telling_line(error)}. All earlier stages are complete and kept; {cure}")
