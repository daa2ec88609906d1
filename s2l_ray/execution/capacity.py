"""Counts what fits on which nodes, for default workers, refusals, memory shares and parallel trials alike.

Pure arithmetic on resources by name, counted the way Ray does; imports no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Node = Mapping[str, float]
"""Resources of one node by name: `CPU`, `GPU`, `memory`, `accelerator_type:H100`, custom ones."""

ACCELERATOR_TYPE = "accelerator_type:"
"""Ray gives a node with GPUs 1 of `accelerator_type:<name>`; a worker that needs the type requests a thousandth."""

_UNITS = 10_000
"""Ray counts every resource in ten-thousandths."""


@dataclass(frozen=True)
class Demand:
    """Workers that must be placed at the same time, all or none, as in a placement group."""

    worker: Mapping[str, float]
    """Resources that one worker reserves, all on one node."""
    num_workers: int = 1
    reading_cpus: float = 1.0
    """CPUs to leave free on some node for Ray Data: otherwise workers would wait for data, and data for a CPU."""


@dataclass(frozen=True)
class Fit:
    """How much of a demand fits on the nodes."""

    num_workers: int
    """Number of such workers that fit at the same time."""
    num_replicas: int
    """Number of whole demands that fit at the same time; they share the CPUs for reading."""


def fit(nodes: Sequence[Node], demand: Demand) -> Fit:
    """How many workers, and how many whole demands, fit on the nodes at the same time."""
    counts = [num_fitting_workers(node, demand.worker) for node in nodes]
    total = sum(counts)
    if demand.reading_cpus > 0:
        # Read on the node where this displaces the fewest workers.
        costs = [
            count - num_fitting_workers({**node, "CPU": node["CPU"] - demand.reading_cpus}, demand.worker)
            for node, count in zip(nodes, counts, strict=True)
            if _units(node.get("CPU", 0)) >= _units(demand.reading_cpus)
        ]
        total = total - min(costs) if costs else 0
    return Fit(total, total // demand.num_workers)


def num_fitting_workers(node: Node, worker: Mapping[str, float]) -> int:
    """How many such workers one node holds; a worker is never split across nodes."""
    wanted = {name: amount for name, each in worker.items() if (amount := _units(each)) > 0}
    if not wanted:
        raise ValueError(f"a worker that reserves nothing ({dict(worker)}) would fit any number of times")
    return max(0, min(_times(name, _units(node.get(name, 0)), each) for name, each in wanted.items()))


def _times(name: str, available: int, each: int) -> int:
    if name == "GPU" and each < _UNITS:
        # A fraction of a GPU must be on one GPU: two GPUs hold two workers with 0.6 each, not three.
        whole, rest = divmod(available, _UNITS)
        return whole * (_UNITS // each) + rest // each
    return available // each


def _units(amount: float) -> int:
    return round(amount * _UNITS)


def total(nodes: Sequence[Node], name: str) -> float:
    """The amount of one resource on all nodes together."""
    return sum(node.get(name, 0) for node in nodes)
