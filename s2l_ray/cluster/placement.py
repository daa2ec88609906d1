"""Who gets what: device, number of workers, CPUs; refused before anything starts when it can never be had."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from s2l_ray.config.schema import ResourcesConfig, WorkersConfig
from s2l_ray.errors import UserError

Node = Mapping[str, float]
"""Resources of one node by name, as Ray counts them."""


class PlacementError(UserError):
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
    custom_resources: dict[str, float] = field(default_factory=dict)
    min_workers: int | None = None
    """Elastic: as few as this will do while nodes are missing."""

    @property
    def threads(self) -> int | None:
        """Of a worker's computations on CPUs; None: PyTorch's own choice."""
        return max(1, int(self.cpus_per_worker)) if self.device == "cpu" else None

    def describe(self) -> str:
        each = f"{self.cpus_per_worker:g} CPU" + (f" + {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else "")
        return f"{self.num_workers} worker{'s' if self.num_workers > 1 else ''} with {each}"


def place(
    resources: ResourcesConfig,
    nodes: Sequence[Node],
    cores: int | None = None,
    who: Literal["proxy", "target"] = "proxy",
    to_come: Sequence[Node] | None = None,
) -> Placement:
    """Resolve the automatic settings against the living nodes (`node_resources()`).

    Args:
        cores: physical cores of this machine, when the cluster is an embedded one.
        who: whose workers.
        to_come: nodes that the autoscaler can add, where `may_grow` is set and they are known.

    Raises:
        PlacementError: more workers than the nodes can hold, those to come included; says what is asked for and what
            there is. Of a cluster that may grow to nobody knows what, nothing is refused.
    """
    asked: WorkersConfig = getattr(resources, who)
    cluster = _sum(nodes)
    total_cpus, total_gpus = cluster.get("CPU", 0), cluster.get("GPU", 0)
    device = resources.device if resources.device != "auto" else ("gpu" if total_gpus >= 1 else "cpu")
    pinned = dict(asked.custom_resources)
    if asked.accelerator_type is not None:
        pinned[f"accelerator_type:{asked.accelerator_type}"] = 0.001
    if device == "gpu":
        workers = asked.workers or max(1, int(total_gpus // asked.gpus_per_worker))
        cpus, gpus = asked.cpus_per_worker or 1.0, asked.gpus_per_worker
    else:
        workers, gpus = asked.workers or 1, 0.0
        share = max(1.0, cores // workers) if cores is not None else _cpus_that_fit(nodes, workers, pinned)
        cpus = asked.cpus_per_worker or share
    each = {"CPU": cpus, "GPU": gpus, **pinned}
    if not resources.may_grow:
        _refuse_the_impossible(who, asked.min_workers or workers, each, nodes)
    elif to_come is not None:
        # Accelerator types are found by nodes themselves when they start; launcher files need not name them.
        known = {name: amount for name, amount in each.items() if not name.startswith("accelerator_type:")}
        _refuse_the_impossible(who, asked.min_workers or workers, known, [*nodes, *to_come], grown=True)
    tasks = resources.parallel_tasks or max(64 if resources.may_grow else 1, int(total_cpus))
    custom = dict(asked.custom_resources)
    return Placement(device, workers, cpus, gpus, asked.accelerator_type, tasks, custom, asked.min_workers)


def node_resources() -> list[Node]:
    """What each living node of the connected cluster has, in use or not."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _sum(nodes: Sequence[Node]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for node in nodes:
        total.update(node)
    return dict(total)


def _room(nodes: Sequence[Node], worker: Mapping[str, float]) -> int:
    """How many such workers the nodes hold: a worker is never spread over two."""
    wanted = {name: each for name, each in worker.items() if each > 0}
    return sum(min(int(node.get(name, 0) / each + 1e-6) for name, each in wanted.items()) for node in nodes)


def _room_beside_reading(nodes: Sequence[Node], worker: Mapping[str, float]) -> int:
    """The same where some node keeps one CPU for Ray Data: workers would wait for data, and data for a CPU."""
    found = 0
    for i, node in enumerate(nodes):
        if node.get("CPU", 0) >= 1:
            found = max(found, _room([*nodes[:i], {**node, "CPU": node["CPU"] - 1}, *nodes[i + 1 :]], worker))
    return found


def _cpus_that_fit(nodes: Sequence[Node], workers: int, pinned: Mapping[str, float]) -> float:
    """The most CPUs, in whole ones, that so many workers can have each; 1 if not even that."""
    for cpus in range(int(max((node.get("CPU", 0) for node in nodes), default=1)), 1, -1):
        if _room_beside_reading(nodes, {"CPU": cpus, **pinned}) >= workers:
            return float(cpus)
    return 1.0


def _refuse_the_impossible(
    who: str, workers: int, each: Mapping[str, float], nodes: Sequence[Node], grown: bool = False
) -> None:
    """`each`: what a worker reserves. `grown`: the nodes are all that the autoscaler can make of the cluster."""
    cluster, has = _sum(nodes), "can grow to" if grown else "has"
    grow = "start more nodes, or set resources.may_grow=true if the cluster has an autoscaler that adds them"
    if grown:
        grow = "raise max_workers of a node type that has room in the cluster's launcher file (ray up again)"
    for name in each.keys() - {"CPU", "GPU"}:
        if cluster.get(name, 0) < workers * each[name]:
            there = ", ".join(sorted(cluster)) or "nothing"
            raise PlacementError(
                f"resources.{who} asks for {workers * each[name]:g} of {name!r}, the cluster {has} "
                f"{cluster.get(name, 0):g} (it offers {there}), so the run would wait for ever. Correct the name, "
                f"{grow}"
            )
    room = _room_beside_reading(nodes, each)
    if room < workers:
        raise PlacementError(
            f"{workers} workers with {each['CPU']:g} CPU and {each['GPU']:g} GPU each, and 1 CPU for reading, were "
            f"asked for; the cluster {has} {cluster.get('CPU', 0):g} CPU and {cluster.get('GPU', 0):g} GPU on "
            f"{describe_nodes(nodes)}, with room for {room} such workers, so the run would wait for ever. Lower "
            f"resources.{who}.workers or resources.{who}.cpus_per_worker, {grow}"
        )


def describe_nodes(nodes: Sequence[Node]) -> str:
    """`2 nodes of 4 CPU, 1 node of 8 CPU + 1 GPU`."""
    alike = Counter((node.get("CPU", 0), node.get("GPU", 0)) for node in nodes)
    return ", ".join(
        f"{count} node{'s' if count > 1 else ''} of {cpus:g} CPU" + (f" + {gpus:g} GPU" if gpus else "")
        for (cpus, gpus), count in alike.items()
    )


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


def host_memory_bytes() -> int:
    """Of this machine, or of the container if that has less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            memory = min(memory, int(Path(limit).read_text()))
    return memory


def _look() -> tuple[int, int | None, int]:
    """On a worker's node: (its memory, its GPU's memory, its CPUs), bytes."""
    import torch

    gpu = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    return host_memory_bytes(), gpu, local_cores()


def worker_memory(placement: Placement, embedded: bool) -> tuple[float, float]:
    """(device, host) memory that one of these workers can have (bytes); on CPUs both are the same.

    On a cluster a short task with a worker's demands asks the node that it lands on.
    """
    if embedded:
        host, gpu, cores = _look()
    else:
        import ray

        task = ray.remote(max_retries=3, scheduling_strategy="DEFAULT")(_look).options(
            num_cpus=placement.cpus_per_worker, num_gpus=placement.gpus_per_worker,
            accelerator_type=placement.accelerator_type, resources=placement.custom_resources or None,
        )  # fmt: skip
        host, gpu, cores = ray.get(task.remote())
    on_a_node = max(1, min(placement.num_workers, int(cores / placement.cpus_per_worker)))
    share = host / on_a_node
    return (gpu * min(1.0, placement.gpus_per_worker) if gpu and placement.gpus_per_worker else share), share
