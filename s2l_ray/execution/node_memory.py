"""How much memory a worker can have, as far as is known without starting a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s2l_ray.execution.capacity import num_fitting_workers
from s2l_ray.execution.node_facts import NodeFacts, facts_of_nodes
from s2l_ray.execution.placement import Placement

_ACCELERATOR_GB = {
    "T4": 16, "A10G": 24, "L4": 24, "L40S": 48, "A100-40G": 40, "A100-80G": 80, "H100": 80, "H200": 141, "B200": 180,
    "B300": 270, "AMD-Instinct-MI250X": 64, "AMD-Instinct-MI300X-OAM": 192, "AMD-Instinct-MI325X-OAM": 256,
}  # fmt: skip
"""Ray's names of accelerators that exist in one size (H100: the smallest) → GB, from the makers' data sheets. V100 and
A100 exist in two sizes and are left out."""


@dataclass(frozen=True)
class NodeMemory:
    """Memory of one kind of node that may hold workers."""

    device_bytes: float | None
    """A worker's share of GPU memory (bytes); None: the worker runs on CPUs and uses the node's memory."""
    host_bytes: float | None
    """Memory of the whole node (bytes); None: unknown."""
    most_workers: int
    """Number of workers that fit on such a node."""

    def shares(self, num_workers: int) -> tuple[float | None, float | None]:
        """(device, host) memory per worker (bytes) if as many of `num_workers` as possible share this node."""
        host = None if self.host_bytes is None else self.host_bytes / min(num_workers, self.most_workers)
        return (host if self.device_bytes is None else self.device_bytes), host


def smallest_shares(kinds: Sequence[NodeMemory], num_workers: int) -> tuple[float | None, float | None]:
    """(device, host) memory that each of `num_workers` has on whichever node it is placed (bytes)."""
    shares = [kind.shares(num_workers) for kind in kinds]
    devices = [device for device, _ in shares if device is not None]
    hosts = [host for _, host in shares if host is not None]
    return min(devices, default=None), min(hosts, default=None)


def node_memories(placement: Placement, embedded: bool) -> list[NodeMemory]:
    """Memory of running nodes that can hold such a worker, otherwise by accelerator type; empty if unknown."""
    worker = placement.worker
    facts = facts_of_nodes(lambda node: num_fitting_workers(node, worker) > 0, embedded)
    found = [
        memory for node, fact in facts if (memory := memory_of(placement, fact, num_fitting_workers(node, worker)))
    ]
    return found or memory_by_type(placement)


def memory_of(placement: Placement, facts: NodeFacts, fitting: int) -> NodeMemory | None:
    """A node's memory; None if its GPUs cannot be seen. `fitting`: workers that fit by the node's resources."""
    if placement.device == "cpu":
        # An embedded Ray counts more CPUs than the machine has.
        by_cores = max(1, int(facts.cores / placement.cpus_per_worker))
        return NodeMemory(None, facts.host_memory_bytes, min(fitting, by_cores))
    if facts.gpu_memory_bytes is None:
        return None
    return NodeMemory(facts.gpu_memory_bytes * min(1.0, placement.gpus_per_worker), facts.host_memory_bytes, fitting)


def memory_by_type(placement: Placement) -> list[NodeMemory]:
    """One entry, or none if the type alone does not determine the memory."""
    size_gb = _ACCELERATOR_GB.get(placement.accelerator_type or "")
    if placement.device == "cpu" or size_gb is None:
        return []
    return [NodeMemory(size_gb * 1e9 * min(1.0, placement.gpus_per_worker), None, placement.num_workers)]
