"""Numbers of workers, CPUs and GPUs; refuses what the cluster can never provide before anything starts."""

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
from s2l_ray.execution.autoscaler import Growth
from s2l_ray.execution.capacity import ACCELERATOR_TYPE, Demand, Node, fit, num_fitting_workers, total

_CPUS_BESIDE_A_GPU = (1.0, 0.5, 0.25, 0.1)
"""CPUs per worker to try; the first that gives every GPU a worker is used, since some nodes have few CPUs per GPU."""
_PIN = 0.001
"""Amount of an accelerator type that a worker requests, as Ray itself does."""


class PlacementError(UserError):
    """The cluster does not have what was requested; the message says what it has."""


@dataclass(frozen=True)
class Placement:
    device: str
    """cpu or gpu."""
    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    accelerator_type: str | None
    parallelism: int
    """How many one-CPU tasks run in parallel."""
    custom_resources: dict[str, float] = field(default_factory=dict)
    min_workers: int | None = None
    """Elastic training: the fewest workers to run with while nodes are missing."""

    @property
    def threads(self) -> int | None:
        """Threads of a worker that computes on CPUs; None: PyTorch's default."""
        return max(1, int(self.cpus_per_worker)) if self.device == "cpu" else None

    @property
    def is_one_process_on_cpus(self) -> bool:
        return self.device == "cpu" and self.num_workers == 1 and self.min_workers is None

    @property
    def fewest_workers(self) -> int:
        """The fewest workers to start with."""
        return self.min_workers or self.num_workers

    @property
    def worker(self) -> dict[str, float]:
        """Resources that one worker reserves, by Ray's names."""
        return _worker(self.cpus_per_worker, self.gpus_per_worker, self.accelerator_type, self.custom_resources)

    @property
    def demand(self) -> Demand:
        """The demand for starting; elastic workers start with the minimum."""
        return Demand(self.worker, self.fewest_workers)

    def describe_worker(self) -> str:
        """`1 CPU + 1 GPU (L4)`."""
        gpus = f" + {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else ""
        kind = f" ({self.accelerator_type})" if self.accelerator_type else ""
        return f"{self.cpus_per_worker:g} CPU{gpus}{kind}"

    def describe(self) -> str:
        """`8 workers (at least 2) with 1 CPU + 1 GPU`."""
        fewest = f" (at least {self.min_workers})" if self.min_workers else ""
        return f"{self.num_workers} worker{'s' if self.num_workers > 1 else ''}{fewest} with {self.describe_worker()}"


def place(
    resources: ResourcesConfig,
    nodes: Sequence[Node],
    cores: int | None = None,
    who: Literal["proxy", "target", "evaluation"] = "proxy",
    growth: Growth | None = None,
    device: str | None = None,
) -> Placement:
    """Resolve the automatic settings for the living nodes (`node_resources()`).

    Args:
        cores: physical cores of this machine, when the cluster is an embedded one.
        who: the section of `resources` whose workers to place.
        growth: what the autoscaler can add, if `may_grow` is set and it is known.
        device: what `auto` resolves to (`execution.device`); None: GPUs if a node has one.

    Raises:
        PlacementError: the workers do not fit on the nodes, including those that may be added; the message says what
        was requested and what exists. On a cluster that may grow by an unknown amount, nothing is refused.
    """
    asked: WorkersConfig = getattr(resources, who)
    if device is None:
        device = resources.device
        if device == "auto":
            device = "gpu" if total(nodes, "GPU") >= 1 else "cpu"
    if device == "gpu":
        workers, cpus = _on_gpus(asked, nodes, growth)
    else:
        workers, cpus = _on_cpus(asked, nodes, cores)
    tasks = resources.parallel_tasks or max(64 if resources.may_grow else 1, int(total(nodes, "CPU")))
    placement = Placement(
        device, workers, cpus, asked.gpus_per_worker if device == "gpu" else 0.0, asked.accelerator_type, tasks,
        dict(asked.custom_resources), asked.min_workers,
    )  # fmt: skip
    if not resources.may_grow:
        _refuse_the_impossible(who, placement, nodes)
    elif growth is not None:
        _refuse_the_impossible(who, placement, growth.fullest(nodes, placement.worker), grown=True)
    return placement


def node_resources() -> list[Node]:
    """Resources of each living node of the connected cluster, used or not, without nodes that are about to leave."""
    import ray
    from ray._private.state import state

    alive = [node for node in ray.nodes() if node["Alive"]]
    leaving = state.get_draining_nodes()
    return [node["Resources"] for node in alive if node["NodeID"] not in leaving]


def _worker(cpus: float, gpus: float, accelerator_type: str | None, custom: Mapping[str, float]) -> dict[str, float]:
    worker = {"CPU": cpus, **custom}
    if gpus:
        worker["GPU"] = gpus
    if accelerator_type is not None:
        worker[f"{ACCELERATOR_TYPE}{accelerator_type}"] = _PIN
    return worker


def _on_gpus(asked: WorkersConfig, nodes: Sequence[Node], growth: Growth | None) -> tuple[int, float]:
    """(workers, CPUs of each); by default one worker per usable GPU."""

    def demand(cpus: float) -> Demand:
        return Demand(_worker(cpus, asked.gpus_per_worker, asked.accelerator_type, asked.custom_resources))

    shares = _CPUS_BESIDE_A_GPU if asked.cpus_per_worker is None else (asked.cpus_per_worker,)
    fitting = {cpus: fit(nodes, demand(cpus)).num_workers for cpus in shares}
    wanted = min(max(fitting.values()), asked.workers or max(fitting.values()))
    cpus = next(cpus for cpus in shares if fitting[cpus] >= wanted)
    if asked.workers is not None or wanted:
        return asked.workers or wanted, cpus
    # No node yet: fill one whole node of a type that may be added.
    to_come = growth.first_for(demand(shares[-1]).worker) if growth else None
    if to_come is None:
        return 1, shares[0]
    most = num_fitting_workers(to_come, demand(shares[-1]).worker)
    return most, next(cpus for cpus in shares if num_fitting_workers(to_come, demand(cpus).worker) == most)


def _on_cpus(asked: WorkersConfig, nodes: Sequence[Node], cores: int | None) -> tuple[int, float]:
    workers = asked.workers or 1
    if asked.cpus_per_worker is not None:
        return workers, asked.cpus_per_worker
    if cores is not None:
        return workers, float(max(1, cores // workers))
    # The largest whole number of CPUs that each of so many workers can have; at least 1.
    for cpus in range(int(max((node.get("CPU", 0) for node in nodes), default=1)), 1, -1):
        worker = _worker(cpus, 0, asked.accelerator_type, asked.custom_resources)
        if fit(nodes, Demand(worker)).num_workers >= workers:
            return workers, float(cpus)
    return workers, 1.0


def _refuse_the_impossible(who: str, placement: Placement, nodes: Sequence[Node], grown: bool = False) -> None:
    """Raises PlacementError if the workers cannot fit. `grown`: the nodes are all that the autoscaler can provide."""
    workers, each, has = placement.fewest_workers, placement.worker, "can grow to" if grown else "has"
    grow = "start more nodes, or set resources.may_grow=true if the cluster has an autoscaler that adds them"
    if grown:
        grow = "raise max_workers of a node type that has room in the cluster's launcher file (ray up again)"
    for name in sorted(each.keys() - {"CPU", "GPU"}):
        available = total(nodes, name)
        if available < workers * each[name]:
            offered = ", ".join(sorted({n for node in nodes for n in node if not n.startswith("node:")})) or "nothing"
            raise PlacementError(
                f"resources.{who} asks for {workers * each[name]:g} of {name!r}, but the cluster {has} {available:g} "
                f"(it offers {offered}), so the run would wait indefinitely. Correct the name, {grow}"
            )
    room = fit(nodes, placement.demand).num_workers
    if room < workers:
        pinned = "".join(f" and {name}" for name in sorted(each.keys() - {"CPU", "GPU"}))
        raise PlacementError(
            f"{workers} workers with {each['CPU']:g} CPU and {placement.gpus_per_worker:g} GPU{pinned} each, and 1 CPU "
            f"for reading, were requested; the cluster {has} {total(nodes, 'CPU'):g} CPU and {total(nodes, 'GPU'):g} "
            f"GPU on {describe_nodes(nodes)}, with room for {room} such workers, so the run would wait indefinitely. "
            f"Lower resources.{who}.workers or resources.{who}.cpus_per_worker, {grow}"
        )


def describe_nodes(nodes: Sequence[Node]) -> str:
    """`2 nodes of 4 CPU, 1 node of 8 CPU + 1 GPU (L4)`."""
    alike = Counter((node.get("CPU", 0), node.get("GPU", 0), _types_of(node)) for node in nodes)
    return ", ".join(
        f"{count} node{'s' if count > 1 else ''} of {cpus:g} CPU" + (f" + {gpus:g} GPU{types}" if gpus else "")
        for (cpus, gpus, types), count in alike.items()
    )


def _types_of(node: Node) -> str:
    types = sorted(name.removeprefix(ACCELERATOR_TYPE) for name in node if name.startswith(ACCELERATOR_TYPE))
    return f" ({', '.join(types)})" if types else ""


def local_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def host_memory_bytes() -> int:
    """Memory of this machine, or of the container if that has less (bytes)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            memory = min(memory, int(Path(limit).read_text()))
    return memory
