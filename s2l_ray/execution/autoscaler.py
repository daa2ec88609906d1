"""What a cluster that was started by Ray's cluster launcher can grow to: its own file lies on its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from s2l_ray.execution.capacity import ACCELERATOR_TYPE, Node, num_fitting_workers

LAUNCHER_FILE = "~/ray_bootstrap_config.yaml"
"""Where `ray up` puts it, with the resources of every node type filled in."""
_HEAD = "node:__internal_head__"
"""A resource that Ray gives to the head alone."""


@dataclass(frozen=True)
class Growth:
    """Nodes beside the head that the autoscaler may run, those that are up already included."""

    nodes: list[Node]
    """At most `max_workers` of each type."""
    max_nodes: int
    """Of all types together."""

    def fullest(self, living: Sequence[Node], worker: Mapping[str, float]) -> list[Node]:
        """The cluster when it has grown to what holds most of such workers.

        Living nodes beside the head are taken for some of `nodes`, unless no type is like them.
        """
        left = list(self.nodes)
        strangers = []
        for node in living:
            like = next((n for n in left if _shape(n) == _shape(node)), None)
            if _HEAD in node or like is None:
                strangers.append(node)
            else:
                left.remove(like)
        # Those that are up stay up while they are used; whether they leave for others is the autoscaler's affair.
        types = [_with_types(node, worker) for node in self.nodes]
        best = sorted(types, key=lambda n: (num_fitting_workers(n, worker), n.get("CPU", 0)), reverse=True)
        grown = best[: self.max_nodes]
        reads = next((n for n in best[self.max_nodes :] if n.get("CPU", 0) >= 1), None)
        if grown and reads is not None and not any(n.get("CPU", 0) >= 1 for n in [*strangers, *grown]):
            grown[-1] = reads  # somebody must read
        return [*strangers, *grown]

    def first_for(self, worker: Mapping[str, float]) -> Node | None:
        """A node to come that holds such a worker."""
        types = (_with_types(node, worker) for node in self.nodes[: None if self.max_nodes else 0])
        return next((node for node in types if num_fitting_workers(node, worker)), None)


def _shape(node: Node) -> tuple[float, float]:
    return node.get("CPU", 0), node.get("GPU", 0)


def _with_types(node: Node, worker: Mapping[str, float]) -> Node:
    """Accelerator types are found by nodes themselves when they start; launcher files need not name them."""
    asked = {name: 1.0 for name in worker if name.startswith(ACCELERATOR_TYPE)}
    named = any(name.startswith(ACCELERATOR_TYPE) for name in node)
    return {**node, **asked} if asked and node.get("GPU", 0) and not named else node


def growth(file: str = LAUNCHER_FILE) -> Growth | None:
    """What the autoscaler may make of the cluster; None: unknown (KubeRay, no file). Ask on the head only."""
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
                return None  # the provider knows them, the file does not
            found += [resources] * min(overall, int(kind.get("max_workers", overall)))
        return Growth(found, overall)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return None
