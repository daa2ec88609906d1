"""How far a cluster started by Ray's cluster launcher can grow, read from the launcher file on its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from s2l_ray.execution.capacity import ACCELERATOR_TYPE, Node, num_fitting_workers

LAUNCHER_FILE = "~/ray_bootstrap_config.yaml"
"""Where `ray up` stores the launcher file, with the resources of every node type filled in."""
_HEAD = "node:__internal_head__"
"""A resource that only the head has."""


@dataclass(frozen=True)
class Growth:
    """Nodes that the autoscaler may run in addition to the head, including those that are already up."""

    nodes: list[Node]
    """The nodes, at most `max_workers` of each type."""
    max_nodes: int
    """Maximum number of nodes of all types together."""

    def fullest(self, living: Sequence[Node], worker: Mapping[str, float]) -> list[Node]:
        """The cluster grown to hold as many such workers as possible.

        Living nodes other than the head count as some of `nodes`, unless they match no type.
        """
        left = list(self.nodes)
        strangers = []
        for node in living:
            like = next((n for n in left if _shape(n) == _shape(node)), None)
            if _HEAD in node or like is None:
                strangers.append(node)
            else:
                left.remove(like)
        # Nodes that are up stay up while they are in use; whether they make way for others is up to the autoscaler.
        types = [_with_types(node, worker) for node in self.nodes]
        best = sorted(types, key=lambda n: (num_fitting_workers(n, worker), n.get("CPU", 0)), reverse=True)
        grown = best[: self.max_nodes]
        reads = next((n for n in best[self.max_nodes :] if n.get("CPU", 0) >= 1), None)
        if grown and reads is not None and not any(n.get("CPU", 0) >= 1 for n in [*strangers, *grown]):
            grown[-1] = reads  # some node must read the data
        return [*strangers, *grown]

    def first_for(self, worker: Mapping[str, float]) -> Node | None:
        """The first type of node that can hold such a worker; None if there is none."""
        types = (_with_types(node, worker) for node in self.nodes[: None if self.max_nodes else 0])
        return next((node for node in types if num_fitting_workers(node, worker)), None)


def _shape(node: Node) -> tuple[float, float]:
    return node.get("CPU", 0), node.get("GPU", 0)


def _with_types(node: Node, worker: Mapping[str, float]) -> Node:
    """The node with the worker's accelerator type: nodes detect it when they start, launcher files need not name it."""
    asked = {name: 1.0 for name in worker if name.startswith(ACCELERATOR_TYPE)}
    named = any(name.startswith(ACCELERATOR_TYPE) for name in node)
    return {**node, **asked} if asked and node.get("GPU", 0) and not named else node


def growth(file: str = LAUNCHER_FILE) -> Growth | None:
    """How far the autoscaler can grow the cluster; None: unknown (KubeRay, no file). Call it only on the head."""
    try:
        config = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
        head, types = config["head_node_type"], config["available_node_types"]
        overall = int(config.get("max_workers", 2))  # Ray's default
        found: list[Node] = []
        for name, kind in types.items():
            if name == head:
                continue
            resources = {what: float(amount) for what, amount in kind["resources"].items()}
            if not resources:
                return None  # only the cloud provider knows them
            found += [resources] * min(overall, int(kind.get("max_workers", overall)))
        return Growth(found, overall)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return None
