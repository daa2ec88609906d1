"""What fits on which nodes: the one place that counts, for default workers, refusals, memory shares and trials at once.

Pure arithmetic on resources by name, as Ray counts them; no Ray is asked here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Node = Mapping[str, float]
"""Resources of one node by name: `CPU`, `GPU`, `memory`, `accelerator_type:H100`, custom ones."""

ACCELERATOR_TYPE = "accelerator_type:"
"""Ray gives a node with GPUs 1 of `accelerator_type:<name>`; who needs that type asks for a thousandth of it."""

_UNITS = 10_000
"""Ray counts every resource in ten-thousandths."""


@dataclass(frozen=True)
class Demand:
    """Workers that must have their places at the same time, as a placement group has them: all or none."""

    worker: Mapping[str, float]
    """What one worker reserves, all of it on one node."""
    num_workers: int = 1
    reading_cpus: float = 1.0
    """Stay free beside them on some node, for Ray Data: workers would wait for data, and data for a CPU."""


@dataclass(frozen=True)
class Fit:
    """What the nodes hold of a demand."""

    num_workers: int
    """Such workers at once."""
    num_replicas: int
    """Whole demands at once; they share the CPUs for reading."""


def fit(nodes: Sequence[Node], demand: Demand) -> Fit:
    """How many workers, and how many times all of them, the nodes hold at the same time."""
    counts = [num_fitting_workers(node, demand.worker) for node in nodes]
    total = sum(counts)
    if demand.reading_cpus > 0:
        # On the node where it costs the fewest workers.
        costs = [
            count - num_fitting_workers({**node, "CPU": node["CPU"] - demand.reading_cpus}, demand.worker)
            for node, count in zip(nodes, counts, strict=True)
            if _units(node.get("CPU", 0)) >= _units(demand.reading_cpus)
        ]
        total = total - min(costs) if costs else 0
    return Fit(total, total // demand.num_workers)


def num_fitting_workers(node: Node, worker: Mapping[str, float]) -> int:
    """How many such workers one node holds; a worker is never spread over two."""
    wanted = {name: amount for name, each in worker.items() if (amount := _units(each)) > 0}
    if not wanted:
        raise ValueError(f"a worker that reserves nothing ({dict(worker)}) would fit without end")
    return max(0, min(_times(name, _units(node.get(name, 0)), each) for name, each in wanted.items()))


def _times(name: str, available: int, each: int) -> int:
    if name == "GPU" and each < _UNITS:
        # A share of a GPU lies on one GPU: two GPUs hold two workers with 0.6 each, not three.
        whole, rest = divmod(available, _UNITS)
        return whole * (_UNITS // each) + rest // each
    return available // each


def _units(amount: float) -> int:
    return round(amount * _UNITS)


def total(nodes: Sequence[Node], name: str) -> float:
    """Of one resource, over all nodes."""
    return sum(node.get(name, 0) for node in nodes)
