"""What a cluster that was started by Ray's cluster launcher can grow to: its own file lies on its head."""

from __future__ import annotations

from pathlib import Path

import yaml

from s2l_ray.cluster.placement import Node

LAUNCHER_FILE = "~/ray_bootstrap_config.yaml"
"""Where `ray up` puts it, with the resources of every node type filled in."""


def nodes_to_come(file: str = LAUNCHER_FILE) -> list[Node] | None:
    """One entry for every node that the autoscaler may add; None: unknown (KubeRay, no file). Ask on the head only.

    At most `max_workers` of each type; what the cluster's own `max_workers` takes off their sum is not seen here.
    """
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
        return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return None
