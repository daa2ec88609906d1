"""A `RayHead` whose autoscaler (v2) adds and removes nodes, raylets on this machine, with Ray's own fake provider.

Ray's `AutoscalingCluster` does the same, but stops every Ray process on the machine, and its wheel lacks a file.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from ray._common.network_utils import node_ip_address_from_perspective
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID as HEAD_ID

from s2l_ray.testing.ray_head import RayHead

_HEAD_TYPE = "ray.head.default"
"""Name by which the provider knows the head's type."""
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


class AutoscalingHead(RayHead):
    def __init__(self, node_types: dict[str, dict[str, float]], max_nodes: int, idle_s: float, num_cpus: int) -> None:
        """Create a head that can add nodes.

        Args:
            node_types: name → resources of such a node.
            max_nodes: largest number of nodes in total.
            idle_s: time after which an unused node is removed (seconds).
            num_cpus: CPUs of the head.
        """
        environment = {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        }
        super().__init__(environment, num_cpus)
        address = f"{node_ip_address_from_perspective()}:{self.gcs_address.rsplit(':', 1)[1]}"
        config = Path(self.folder, "autoscaler.json")
        config.write_text(json.dumps(_config(node_types, max_nodes, idle_s, num_cpus, address)))
        self._command.append(f"--autoscaling-config={config}")

    def alive(self) -> list[dict[str, Any]]:
        """Return the resources of every live node except the head, as reported by the cluster's dashboard."""
        with urllib.request.urlopen(f"{self.address}/api/v0/nodes?detail=1&limit=1000", timeout=30) as reply:
            nodes = json.load(reply)["data"]["result"]["result"]
        return [n["resources_total"] for n in nodes if n["state"] == "ALIVE" and not n["is_head_node"]]


def _config(
    node_types: dict[str, dict[str, float]], max_nodes: int, idle_s: float, num_cpus: int, address: str
) -> dict[str, Any]:
    types = {
        name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": max_nodes}
        for name, resources in node_types.items()
    }
    head = {"resources": {"CPU": num_cpus}, "node_config": {}, "max_workers": 0}
    provider = {"type": "external", "module": _PROVIDER, "gcs_address": address, "head_node_id": HEAD_ID,
                "launch_multiple": True}  # fmt: skip
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "fake", "max_workers": max_nodes, "upscaling_speed": 10.0,
        "idle_timeout_minutes": idle_s / 60, "provider": provider,
        "available_node_types": {_HEAD_TYPE: head, **types}, "head_node_type": _HEAD_TYPE,
        **{f"{name}_commands": [] for name in commands}, "auth": {}, "docker": {}, "file_mounts": {},
        "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
    }  # fmt: skip
