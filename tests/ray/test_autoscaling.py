"""A cluster that may grow: a run makes its autoscaler add nodes, and leaves none behind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from s2l_ray.artifacts.run import load_run
from s2l_ray.observability.metrics_log import read_metrics
from s2l_ray.testing.ray_autoscaler import AutoscalingHead
from s2l_ray.testing.tiny import tiny_run_config

pytestmark = pytest.mark.timeout(900)

NODE_TYPES: dict[str, dict[str, float]] = {"cpu": {"CPU": 2}, "gpu": {"CPU": 1, "GPU": 1}}
IDLE_S = 8.0


@pytest.fixture(scope="module")
def head() -> Iterator[AutoscalingHead]:
    """One CPU of its own, and up to three nodes more. The GPU is one by name only."""
    head = AutoscalingHead(NODE_TYPES, max_nodes=3, idle_s=IDLE_S, num_cpus=1)
    with head:
        yield head


class Census(threading.Thread):
    """Counts the nodes until it is told to stop."""

    def __init__(self, head: AutoscalingHead) -> None:
        super().__init__(daemon=True)
        self.head = head
        self.seen: list[tuple[float, int, int]] = []
        """(time, nodes beside the head, those of them with a GPU), when it changed."""
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(0.5):
            nodes = self.head.alive()
            now = (len(nodes), sum("GPU" in n for n in nodes))
            if not self.seen or self.seen[-1][1:] != now:
                self.seen.append((time.time(), *now))

    def wait_for(self, nodes: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.seen[-1][1] != nodes:
            assert time.monotonic() < deadline, f"{self.seen[-1][1]} nodes are left, {nodes} are expected"
            time.sleep(0.2)

    def __enter__(self) -> Census:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self.join()
        start = self.seen[0][0]
        print("nodes beside the head:", ", ".join(f"{at - start:.0f} s: {n} ({g} GPU)" for at, n, g in self.seen))

    def most_between(self, start: float, end: float) -> int:
        """Nodes, at most, in that time."""
        before = [n for at, n, _ in self.seen if at <= start][-1:]
        return max([*before, *(n for at, n, _ in self.seen if start < at <= end)])


def s2l(head: AutoscalingHead, code: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    environment = head.environment | {"RAY_ADDRESS": head.gcs_address}
    for name in ("RAY_OVERRIDE_NODE_ID_FOR_TESTING", "RAY_CLOUD_INSTANCE_ID"):
        environment.pop(name)
    return subprocess.run([sys.executable, *code], env=environment, capture_output=True, text=True, timeout=seconds)


@pytest.mark.slow
def test_a_run_makes_the_cluster_grow_and_gives_the_nodes_back(head: AutoscalingHead, tmp_path: Path):
    workers = {"workers": 3, "cpus_per_worker": 1}  # on nodes of two CPUs: at least one more than the head
    tree = tiny_run_config(
        tmp_path / "run", num_examples=300, proxy__epochs=1,
        resources={"device": "cpu", "may_grow": True, "parallel_tasks": 4, "proxy": workers},
    )  # fmt: skip
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tree))
    with Census(head) as census:
        done = s2l(head, ["-m", "s2l_ray.cli", "run", str(config)], 500)
        assert done.returncode == 0, done.stdout + done.stderr
        census.wait_for(0, 120)
    times = {
        e["event"]: _seconds(e["time"]) for e in read_metrics(load_run(str(tmp_path / "run")).storage)
        if e["stage"] == "proxy" and e["event"] in ("stage_started", "stage_done")
    }  # fmt: skip
    assert census.seen[0][1] == 0, "it began with the head alone"
    assert census.most_between(times["stage_started"], times["stage_done"] + 1) >= 1
    assert all(gpus == 0 for _, _, gpus in census.seen), "nobody asked for a GPU"


def _seconds(time_utc: str) -> float:
    return datetime.fromisoformat(time_utc).timestamp()


@pytest.mark.thorough
def test_a_gpu_is_asked_for_where_there_may_be_one_and_given_back(head: AutoscalingHead):
    code = (
        "import ray; ray.init(logging_level='ERROR')\n"
        "from s2l_ray.execution.capacity_wait import wait_for_gpu\n"
        "from s2l_ray.config import ResourcesConfig\n"
        "assert wait_for_gpu(ResourcesConfig(device='auto', may_grow=True, gpu_wait_s=120), print)\n"
        "assert ray.cluster_resources()['GPU'] == 1\n"
        "print(ray.available_resources().get('GPU'))"
    )
    with Census(head) as census:
        done = s2l(head, ["-c", code], 240)
        assert done.returncode == 0, done.stderr
        census.wait_for(0, 120)
    assert max(gpus for _, _, gpus in census.seen) == 1
    assert max(nodes for _, nodes, _ in census.seen) == 1, "one GPU, and nothing else"
