"""More nodes of a `RayHead`'s cluster on this machine, each a raylet of its own that can be killed like a machine."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType

import psutil

from s2l_ray.testing.ray_head import RAY, RayHead, family, kill_family, ray_start

_MEMORY_BYTES = 150_000_000
"""Of a node's object store."""


class RayNode:
    """`ray start --address=… --block` as a child; it is up."""

    def __init__(self, head: RayHead, name: str, num_cpus: int, resources: dict[str, float]) -> None:
        self.name = name
        command = [
            RAY, "start", f"--address={head.gcs_address}", "--block", f"--node-name={name}", f"--num-cpus={num_cpus}",
            f"--resources={json.dumps(resources)}", f"--object-store-memory={_MEMORY_BYTES}",
            "--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats",
        ]  # fmt: skip
        self._process = ray_start(command, head.environment, Path(head.folder, f"{name}.log"))

    def processes(self, named: str) -> list[psutil.Process]:
        """Those of this node that have `named` in their command line."""
        found = []
        for process in family(self._process):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                if named in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self) -> None:
        kill_family(self._process)

    def terminate(self) -> None:
        """As clouds announce a spot node's end: it drains for a time, then it is gone."""
        self._process.terminate()


class Nodes:
    """`with Nodes(head) as nodes:` — those that were added are gone after the block."""

    def __init__(self, head: RayHead) -> None:
        self.head = head
        self.living: list[RayNode] = []
        self.leaving: list[RayNode] = []
        self._added = 0

    def add(self, num_cpus: int = 1, **resources: float) -> RayNode:
        """One that is up. One at a time: nodes that start together may pick the same ports."""
        self._added += 1
        node = RayNode(self.head, f"node{self._added}", num_cpus, resources)
        self.living.append(node)
        return node

    def kill(self, node: RayNode) -> None:
        self.living.remove(node)
        node.kill()

    def announce(self, node: RayNode) -> None:
        """It will be gone soon, and learns it now."""
        self.living.remove(node)
        self.leaving.append(node)
        node.terminate()

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for node in self.living + self.leaving:
            node.kill()
