"""Nodes that die while a run is under way, the head among them: the same end, and little that is done twice."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.observability.metrics_log import read_metrics
from s2l_ray.testing.ray_head import RayHead
from s2l_ray.testing.ray_nodes import Nodes, RayNode
from s2l_ray.testing.tiny import tiny_run_config
from tests.support.paths import SUPPORT

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.slow,  # raylets that die and come take a quarter of an hour
    pytest.mark.faults,
]

S2L_RUN = ("-m", "s2l_ray.cli", "run")
PACED_RUN = (str(SUPPORT / "paced_driver.py"),)  # and the pace
TRAIN_WORKER, DATA_TASK = "TrainWorker", "_OverParts"
"""In the command lines of Ray's processes."""
CHECKPOINT_STEPS = 2
SUBSET = "s2l-0.3"


def tree_of(folder: Path) -> dict[str, Any]:
    """Two workers, each on a spot node of its own; many small parts and slow stages, to be hit in the middle."""
    workers = {"workers": 2, "cpus_per_worker": 0.5, "custom_resources": {"spot": 1}}
    tree = tiny_run_config(
        folder, num_examples=640, heldout={"share": 0.1},
        trajectories={"num_snapshots": 3, "tokens_per_batch": 64, "examples_per_part": 16},
        proxy__tokens_per_microbatch=64, proxy__epochs=1, proxy__log_every_steps=1,
        proxy__checkpoint_every_steps=CHECKPOINT_STEPS, clusters__num_clusters=5, selection__budgets=[0.3],
        resources={"proxy": dict(workers), "target": workers},
    )  # fmt: skip
    tree["target"] = {**tree["proxy"], "subsets": [SUBSET], "epochs": 4, "zero_stage": 0}
    return tree


class Driver:
    """`s2l run` in a process of its own, beside the head."""

    def __init__(
        self, head: RayHead, folder: Path, *options: str, program: tuple[str, ...] = S2L_RUN, **proxy_workers: Any
    ) -> None:
        self.folder = folder
        config = folder.with_suffix(".json")
        tree = tree_of(folder)
        tree["resources"]["proxy"] |= proxy_workers
        config.write_text(json.dumps(tree))
        self._log = open(folder.with_suffix(".log"), "a+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, *program, str(config), *options],
            env=head.environment | {"RAY_ADDRESS": head.gcs_address}, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def output(self) -> str:
        return self.folder.with_suffix(".log").read_text()

    def until(self, true: Callable[[], Any], seconds: float = 400) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := true()):
            assert self.process.poll() is None, f"it ended too early: {self.output()}"
            if time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(f"it did not happen: {self.output()}")
            time.sleep(0.01)
        return found

    def finish(self, seconds: float = 500) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it does not end: {self.output()}")
        finally:
            self.process.kill()

    def times(self, parts: str) -> dict[Path, int]:
        """Part → when it was written (ns)."""
        found = {}
        for path in self.folder.glob(parts):
            try:
                found[path] = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
        return found

    def trained(self, stage: str) -> list[dict[str, Any]]:
        """The record of its optimiser steps, in the order in which they were told."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        events = [json.loads(line) for line in lines]
        return [e for e in events if e["stage"] == stage and e["event"] == "train"]

    def steps(self, stage: str) -> list[int]:
        return [e["step"] for e in self.trained(stage)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head with one CPU, and three spot nodes with one each."""
    with RayHead({}, num_cpus=1) as head, Nodes(head) as nodes:
        for _ in range(3):
            nodes.add(spot=1)
        yield nodes


@pytest.fixture(scope="module")
def undisturbed(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Run:
    driver = Driver(nodes.head, tmp_path_factory.mktemp("nodes") / "undisturbed")
    assert driver.finish() == 0, driver.output()
    for stage in ("proxy", f"target/{SUBSET}"):
        steps = driver.steps(stage)
        assert steps == sorted(set(steps)), f"{stage}: steps are told once each, in order"
    return load_run(str(driver.folder))


def fingerprints(run: Run) -> dict[str, str]:
    return {name: stage.manifest.content_fingerprint for name, stage in run.stages.items()}


def kill_one_of(nodes: Nodes, kind: str, driver: Driver) -> RayNode:
    """Kill a spot node that runs such a process; give its name."""
    node: RayNode = driver.until(lambda: next((n for n in nodes.living if n.processes(kind)), None))
    nodes.kill(node)
    return node


def rewritten(before: dict[Path, int], after: dict[Path, int]) -> int:
    return sum(after.get(path) not in (None, time_ns) for path, time_ns in before.items())


def repeated(steps: list[int]) -> int:
    return sum(count - 1 for count in Counter(steps).values())


def test_nodes_that_die_in_every_stage_change_nothing(nodes: Nodes, undisturbed: Run, tmp_path: Path):
    driver = Driver(nodes.head, tmp_path / "run")
    examples, tokens = "corpus/*/examples/part-*.parquet", "tokens/*/parts/part-*.parquet"
    scores = "proxy/*/snapshots/snapshot-001/*/part-*.parquet"

    driver.until(lambda: driver.times(examples))
    kill_one_of(nodes, "ray::", driver)  # whatever it runs, it holds blocks of the shuffle
    nodes.add(spot=1)

    driver.until(lambda: driver.times(tokens))
    kill_one_of(nodes, DATA_TASK, driver)
    tokens_before = driver.times(tokens)
    nodes.add(spot=1)

    driver.until(lambda: driver.times(scores))
    kill_one_of(nodes, TRAIN_WORKER, driver)
    scores_before = driver.times(scores)
    nodes.add(spot=1)

    stage = f"target/{SUBSET}"
    driver.until(lambda: max(driver.steps(stage), default=0) > 2 * CHECKPOINT_STEPS)
    kill_one_of(nodes, TRAIN_WORKER, driver)
    nodes.add(spot=1)
    assert driver.finish() == 0, driver.output()

    run = load_run(str(driver.folder))
    assert fingerprints(run) == fingerprints(undisturbed)
    twice = {
        "token parts": (rewritten(tokens_before, driver.times(tokens)), len(tokens_before)),
        "scored parts": (rewritten(scores_before, driver.times(scores)), len(scores_before)),
        "proxy steps": (repeated(driver.steps("proxy")), max(driver.steps("proxy"))),
        "target steps": (repeated(driver.steps(stage)), max(driver.steps(stage))),
    }
    print({name: f"{again} of {done} again" for name, (again, done) in twice.items()})
    assert scores_before
    assert twice["scored parts"][0] == 0, "what was scored with the same weights stays"
    # Two checkpoints may be complete and not registered yet when the node dies: then the one before them counts.
    assert twice["proxy steps"][0] <= 3 * CHECKPOINT_STEPS
    assert twice["target steps"][0] <= 3 * CHECKPOINT_STEPS
    for name in ("proxy", stage):
        steps = driver.steps(name)
        assert set(steps) == set(range(1, max(steps) + 1)), f"{name}: the record has no gap"
    assert len(read_metrics(run.storage)) > 0
    assert "workers were lost, so all restart from the last checkpoint: " in driver.output()


def test_a_fleet_shrinks_and_grows_with_its_nodes(nodes: Nodes, undisturbed: Run, tmp_path: Path):
    """Three workers; two when a node dies that nobody replaces; three again when one comes. None waits for the lost."""
    driver = Driver(
        nodes.head, tmp_path / "run", "--select-only", program=(*PACED_RUN, "fleet"), workers=3, min_workers=1
    )
    driver.until(lambda: 8 in driver.steps("proxy"))
    kill_one_of(nodes, TRAIN_WORKER, driver)
    driver.until(lambda: 14 in driver.steps("proxy"))
    nodes.add(spot=1)
    assert driver.finish() == 0, driver.output()

    steps = driver.trained("proxy")
    fleets = [workers for workers, _ in itertools.groupby(e["workers"] for e in steps)]
    print("workers:", [(e["step"], e["workers"]) for e in steps])
    assert fleets == [3, 2, 3]
    assert set(driver.steps("proxy")) == set(range(1, max(driver.steps("proxy")) + 1))
    assert repeated(driver.steps("proxy")) <= 2 * 3 * CHECKPOINT_STEPS, "of two restarts"
    mine, theirs = load_run(str(driver.folder)).trajectories(), undisturbed.trajectories()
    np.testing.assert_array_equal(mine.ids, theirs.ids)
    np.testing.assert_allclose(mine.losses, theirs.losses, atol=1e-3)


def test_a_node_that_is_announced_to_go_costs_no_step(undisturbed: Run, tmp_path: Path):
    """A checkpoint at the notice, though none is due."""
    notice = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "20", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
    notice |= {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
    with RayHead(notice, num_cpus=1) as head, Nodes(head) as nodes:
        for _ in range(2):
            nodes.add(spot=1)
        options = ("--select-only", "proxy.checkpoint_every_steps=null")
        driver = Driver(head, tmp_path / "run", *options, program=(*PACED_RUN, "notice"))
        driver.until(lambda: 9 in driver.steps("proxy"))
        assert not any(n.processes("_Box") for n in nodes.living), "the mailbox is beside the driver"
        nodes.announce(next(n for n in nodes.living if n.processes(TRAIN_WORKER)))
        nodes.add(spot=1)
        assert driver.finish() == 0, driver.output()
    said = re.search(
        r"1 node of the workers will be reclaimed in (\d+) s: saving a checkpoint at step 9",
        driver.output(),
    )
    assert said is not None, driver.output()
    print(said[0])
    assert 5 < int(said[1]) <= 20
    assert "[proxy] the workers are up, resuming from step 9" in driver.output()
    assert repeated(driver.steps("proxy")) <= 1, "the step that was trained while the node lived"
    mine, theirs = load_run(str(driver.folder)).trajectories(), undisturbed.trajectories()
    np.testing.assert_array_equal(mine.ids, theirs.ids)
    np.testing.assert_allclose(mine.losses, theirs.losses, atol=1e-3)


def test_a_head_that_dies_ends_the_driver_and_the_same_command_goes_on_elsewhere(
    nodes: Nodes, undisturbed: Run, tmp_path: Path
):
    folder = tmp_path / "run"
    driver = Driver(nodes.head, folder, "--select-only")
    scores = "proxy/*/snapshots/snapshot-001/*/part-*.parquet"
    driver.until(lambda: driver.times(scores))
    nodes.head.kill()
    died = time.monotonic()
    code = driver.finish(180)
    print(f"the driver ended {time.monotonic() - died:.1f} s after the head, with {code}: {driver.output()[-600:]}")
    assert code != 0
    assert re.search("the Ray cluster at .* is gone|Failed to connect to GCS", driver.output())
    before = driver.times("proxy/*/snapshots/snapshot-000/*/part-*.parquet")
    assert before

    with RayHead({}, num_cpus=1) as head, Nodes(head) as others:
        for _ in range(2):
            others.add(spot=1)
        second = Driver(head, folder, "--select-only")
        assert second.finish() == 0, second.output()
    assert rewritten(before, second.times("proxy/*/snapshots/snapshot-000/*/part-*.parquet")) == 0
    expected = fingerprints(undisturbed)
    found = fingerprints(load_run(str(folder)))
    assert {"trajectories", f"subset/{SUBSET}"} <= set(found)
    assert found == {name: expected[name] for name in found}
    assert not os.listdir(folder / "locks")
