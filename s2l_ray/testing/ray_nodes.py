"""Additional nodes of a `RayHead`'s cluster on this machine, each a raylet that can be killed like a machine."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType

import psutil

from s2l_ray.testing.ray_head import RAY, RayHead, family, kill_family, ray_start

_MEMORY_BYTES = 150_000_000
"""Size of a node's object store."""


class RayNode:
    """Node started by `ray start --address=… --block` as a child process; it is up after construction."""

    def __init__(self, head: RayHead, name: str, num_cpus: int, resources: dict[str, float]) -> None:
        self.name = name
        command = [
            RAY, "start", f"--address={head.gcs_address}", "--block", f"--node-name={name}", f"--num-cpus={num_cpus}",
            f"--resources={json.dumps(resources)}", f"--object-store-memory={_MEMORY_BYTES}",
            "--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats",
        ]  # fmt: skip
        self._process = ray_start(command, head.environment, Path(head.folder, f"{name}.log"))

    def processes(self, named: str) -> list[psutil.Process]:
        """Return the processes of this node with `named` in their command line."""
        found = []
        for process in family(self._process):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                if named in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self) -> None:
        kill_family(self._process)

    def terminate(self) -> None:
        """Announce the node's end as clouds do for spot nodes: it drains for some time, then it stops."""
        self._process.terminate()


class Nodes:
    """Nodes added to a cluster, which are removed after the block: `with Nodes(head) as nodes:`."""

    def __init__(self, head: RayHead) -> None:
        self.head = head
        self.living: list[RayNode] = []
        self.leaving: list[RayNode] = []
        self._added = 0

    def add(self, num_cpus: int = 1, **resources: float) -> RayNode:
        """Add a node and wait until it is up; one at a time, because simultaneous nodes may pick the same ports."""
        self._added += 1
        node = RayNode(self.head, f"node{self._added}", num_cpus, resources)
        self.living.append(node)
        return node

    def kill(self, node: RayNode) -> None:
        self.living.remove(node)
        node.kill()

    def announce(self, node: RayNode) -> None:
        """Announce to a node that it will be removed soon."""
        self.living.remove(node)
        self.leaving.append(node)
        node.terminate()

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for node in self.living + self.leaving:
            node.kill()
