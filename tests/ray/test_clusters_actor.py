"""The k-means process on real Ray: its CPUs, its deaths, its waits."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from ray.util.placement_group import placement_group, remove_placement_group

from s2l_ray.config.schema import ClustersConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.execution.capacity_wait import CapacityTimeoutError, free_resources
from s2l_ray.execution.placement import Placement
from s2l_ray.stages.clusters.build import ClusteringFailedError, ClusterStats, cluster_trajectories
from s2l_ray.storage.folder import Storage

pytestmark = pytest.mark.usefixtures("ray_cluster")

PARTS, ROWS, LENGTH = 3, 200_000, 4
CONFIG = ClustersConfig(num_clusters=6, num_iterations=3, max_train_points=5000)


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """More than two of the chunks that threads share."""
    storage, rng = Storage.open(tmp_path_factory.mktemp("trajectories")), np.random.default_rng(0)
    for part in range(PARTS):
        losses = np.abs(rng.standard_normal(ROWS * LENGTH)).astype(np.float32)
        ids = rng.integers(0, 2**63, (ROWS, 2)).astype(np.uint64)
        table = {
            "example_id": array_to_ids(ids), "source": pa.array(["all"] * ROWS),
            "loss_nats": pa.FixedSizeListArray.from_arrays(pa.array(losses), LENGTH),
        }  # fmt: skip
        storage.write_table(part_name(part), pa.table(table))
    return storage


def cluster(trajectories: Storage, out: Path, cpus: float = 16, said: Any = None, **limits: Any) -> ClusterStats:
    placement = Placement("cpu", 1, cpus, 0.0, None, 1)
    parts = [(part, ROWS) for part in range(PARTS)]
    say = (lambda text: None) if said is None else said.append
    return cluster_trajectories(
        trajectories, parts, LENGTH, CONFIG, 3, placement, Storage.open(out), say=say, **limits
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextlib.contextmanager
def killer(times: int) -> Any:
    """Kills so many k-means processes of this session's Ray, each as soon as it is there."""
    killed: set[int] = set()
    stop, me = threading.Event(), psutil.Process()
    before = {process.pid for process in me.children(recursive=True)}  # one that is about to end is not meant

    def hunt() -> None:
        while not stop.is_set():
            with contextlib.suppress(psutil.Error):
                for process in me.children(recursive=True):
                    found = process.pid not in before | killed and "ClusterActor" in " ".join(process.cmdline())
                    if found and len(killed) < times:
                        killed.add(process.pid)
                        process.kill()
            time.sleep(0.02)

    thread = threading.Thread(target=hunt)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


@pytest.mark.thorough
def test_it_takes_the_cpus_that_are_free_and_no_bit_depends_on_them(trajectories: Storage, tmp_path: Path):
    free_resources(60)
    said: list[str] = []
    cluster(trajectories, tmp_path / "one", cpus=1, said=said)
    cluster(trajectories, tmp_path / "two", cpus=2, said=said)
    cluster(trajectories, tmp_path / "all", said=said)
    held = placement_group([{"CPU": 1}])
    assert held.wait(60)
    free_resources(1)
    cluster(trajectories, tmp_path / "rest", said=said)
    remove_placement_group(held)
    assert said == [f"[clusters] k-means of 600,000 trajectories with {n} CPU" for n in (1, 2, 4, 3)]
    one = files(tmp_path / "one")
    assert set(one) == {"assignment.parquet", "centroids.parquet"}
    for name in ("two", "all", "rest"):
        assert files(tmp_path / name) == one


def test_a_process_that_dies_is_started_again(trajectories: Storage, tmp_path: Path):
    said: list[str] = []
    cluster(trajectories, tmp_path / "calm")
    with killer(1) as killed:
        cluster(trajectories, tmp_path / "killed", said=said, max_failures=1)
    assert len(killed) == 1
    [lost] = [text for text in said if "was lost" in text]
    assert lost.startswith("[clusters] the k-means process was lost (")
    assert files(tmp_path / "killed") == files(tmp_path / "calm")


def test_a_process_that_dies_again_and_again_is_explained(trajectories: Storage, tmp_path: Path):
    with killer(2), pytest.raises(ClusteringFailedError) as failed:
        cluster(trajectories, tmp_path, max_failures=1)
    said = str(failed.value)
    assert "the k-means process died 2 times (resources.max_failures): " in said
    assert "All earlier stages are complete and kept; run the same command to try again" in said


@pytest.mark.thorough
def test_a_place_that_does_not_become_free_is_waited_for_so_long(trajectories: Storage, tmp_path: Path):
    said: list[str] = []
    free_resources(60)
    others = placement_group([{"CPU": 4}])
    assert others.wait(60)
    try:
        with pytest.raises(CapacityTimeoutError, match=r"\[clusters\] gave up .*capacity_wait_s=2\): k-means needs"):
            cluster(trajectories, tmp_path, said=said, wait_s=2)
    finally:
        remove_placement_group(others)
    free_resources(60)
