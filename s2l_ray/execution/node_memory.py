"""What memory a worker can have, by what is known without starting a node for the question."""

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
"""Ray's names of types that exist in one size (H100: the smallest in use) → GB, from the makers' data sheets. V100 and
A100 come in two."""


@dataclass(frozen=True)
class NodeMemory:
    """Of nodes of one kind on which workers may be."""

    device_bytes: float | None
    """A worker's share of a GPU; None: on CPUs, where the node's memory is all there is."""
    host_bytes: float | None
    """Of the whole node; None: not known."""
    most_workers: int
    """Such workers on one such node."""

    def shares(self, num_workers: int) -> tuple[float | None, float | None]:
        """(device, host) memory of one of so many workers (bytes), as many of them on this node as may be."""
        host = None if self.host_bytes is None else self.host_bytes / min(num_workers, self.most_workers)
        return (host if self.device_bytes is None else self.device_bytes), host


def smallest_shares(kinds: Sequence[NodeMemory], num_workers: int) -> tuple[float | None, float | None]:
    """(device, host) memory that each of so many workers has wherever it lands (bytes)."""
    shares = [kind.shares(num_workers) for kind in kinds]
    devices = [device for device, _ in shares if device is not None]
    hosts = [host for _, host in shares if host is not None]
    return min(devices, default=None), min(hosts, default=None)


def node_memories(placement: Placement, embedded: bool) -> list[NodeMemory]:
    """Of the nodes that are up and can hold such a worker; else by the accelerator's type; else nothing is known."""
    worker = placement.worker
    facts = facts_of_nodes(lambda node: num_fitting_workers(node, worker) > 0, embedded)
    found = [
        memory for node, fact in facts if (memory := memory_of(placement, fact, num_fitting_workers(node, worker)))
    ]
    return found or memory_by_type(placement)


def memory_of(placement: Placement, facts: NodeFacts, fitting: int) -> NodeMemory | None:
    """`fitting`: workers that the node's resources hold. None: its GPUs cannot be seen."""
    if placement.device == "cpu":
        # An embedded Ray counts more CPUs than there are.
        by_cores = max(1, int(facts.cores / placement.cpus_per_worker))
        return NodeMemory(None, facts.host_memory_bytes, min(fitting, by_cores))
    if facts.gpu_memory_bytes is None:
        return None
    return NodeMemory(facts.gpu_memory_bytes * min(1.0, placement.gpus_per_worker), facts.host_memory_bytes, fitting)


def memory_by_type(placement: Placement) -> list[NodeMemory]:
    """One entry, or none where the type alone does not say it."""
    size_gb = _ACCELERATOR_GB.get(placement.accelerator_type or "")
    if placement.device == "cpu" or size_gb is None:
        return []
    return [NodeMemory(size_gb * 1e9 * min(1.0, placement.gpus_per_worker), None, placement.num_workers)]
