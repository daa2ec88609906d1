"""Who gets what: device, number of workers, CPUs; refused before anything starts when it can never be had."""

from __future__ import annotations

import os
from dataclasses import dataclass

from s2l_ray.config.schema import ResourcesConfig


class PlacementError(ValueError):
    """What was asked for is not in the cluster; says what there is."""


@dataclass(frozen=True)
class Placement:
    device: str
    """cpu or gpu."""
    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    accelerator_type: str | None
    parallelism: int
    """How many one-CPU tasks run at once."""

    def describe(self) -> str:
        each = f"{self.cpus_per_worker:g} CPU" + (f" + {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else "")
        return f"{self.num_workers} worker{'s' if self.num_workers > 1 else ''} with {each}"


def place(resources: ResourcesConfig, cluster: dict[str, float], cores: int | None = None) -> Placement:
    """Resolve the automatic settings against `cluster` (as `ray.cluster_resources()` gives it).

    Args:
        cores: physical cores of this machine, when the cluster is an embedded one.

    Raises:
        PlacementError: more workers than the cluster can hold, with what is asked for and what there is.
    """
    total_cpus, total_gpus = cluster.get("CPU", 0), cluster.get("GPU", 0)
    device = resources.device if resources.device != "auto" else ("gpu" if total_gpus >= 1 else "cpu")
    if device == "gpu":
        workers = resources.proxy_workers or max(1, int(total_gpus // resources.gpus_per_worker))
        cpus, gpus = resources.cpus_per_worker or 1.0, resources.gpus_per_worker
    else:
        workers, gpus = resources.proxy_workers or 1, 0.0
        usable = cores if cores is not None else max(1.0, total_cpus - 1)
        cpus = resources.cpus_per_worker or max(1.0, usable // workers)
    # One CPU stays free for Ray Data: without it, workers would wait for data and data for a CPU.
    if not resources.may_grow and (workers * cpus + 1 > total_cpus or workers * gpus > total_gpus):
        raise PlacementError(
            f"{workers} workers with {cpus:g} CPU and {gpus:g} GPU each, and 1 CPU for reading, were asked for; the "
            f"cluster has {total_cpus:g} CPU and {total_gpus:g} GPU, so the run would wait for ever. Lower "
            "resources.proxy_workers or resources.cpus_per_worker, start more nodes, or set resources.may_grow=true if "
            "the cluster has an autoscaler that adds them"
        )
    return Placement(device, workers, cpus, gpus, resources.accelerator_type, max(1, int(total_cpus)))


def wait_for_gpu(resources: ResourcesConfig) -> bool:
    """Ask the autoscaler for one GPU, where `device: auto` may have one; True once it is there.

    A placement group is the one request that every autoscaler sees and that is taken back without a trace.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    if resources.device != "auto" or not resources.may_grow or ray.cluster_resources().get("GPU", 0) >= 1:
        return False
    group = placement_group([{"GPU": 1}])
    try:
        return bool(group.wait(timeout_seconds=resources.gpu_wait_s))
    finally:
        remove_placement_group(group)


def local_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
