"""Who gets what, and what is refused before anything starts."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from s2l_ray.config import ResourcesConfig, WorkersConfig
from s2l_ray.execution.autoscaler import growth
from s2l_ray.execution.capacity import total
from s2l_ray.execution.capacity_wait import free_resources, wait_for_free, wait_for_gpu
from s2l_ray.execution.orphaned_placement_groups import remove_orphaned_placement_groups
from s2l_ray.execution.placement import Placement, PlacementError, place
from tests.support.paths import ROOT


def test_embedded_ray_gives_the_cores_to_the_workers():
    placement = place(ResourcesConfig(), [{"CPU": 10}], cores=8)
    assert (placement.device, placement.num_workers, placement.cpus_per_worker) == ("cpu", 1, 8)
    two = place(ResourcesConfig(proxy=WorkersConfig(workers=2)), [{"CPU": 10}], cores=8)
    assert (two.num_workers, two.cpus_per_worker) == (2, 4)


def test_gpus_are_taken_where_there_are_some():
    placement = place(ResourcesConfig(), [{"CPU": 64, "GPU": 8}])
    assert (placement.device, placement.num_workers, placement.gpus_per_worker) == ("gpu", 8, 1)
    assert place(ResourcesConfig(device="cpu"), [{"CPU": 64, "GPU": 8}]).device == "cpu"


@pytest.mark.parametrize(
    ("resources", "cluster"),
    [
        ({"proxy": WorkersConfig(workers=4, cpus_per_worker=1)}, {"CPU": 4}),  # none left for reading: it would hang
        ({"proxy": WorkersConfig(workers=2), "device": "gpu"}, {"CPU": 8, "GPU": 1}),
        ({"device": "gpu"}, {"CPU": 8}),
    ],
)
def test_what_would_wait_for_ever_is_refused_unless_the_cluster_may_grow(resources, cluster):
    with pytest.raises(PlacementError, match=r"cluster has .* CPU and .* GPU.*wait indefinitely.*may_grow"):
        place(ResourcesConfig(**resources), [cluster])
    asked = resources.get("proxy", WorkersConfig()).workers or 1
    assert place(ResourcesConfig(**resources, may_grow=True), [cluster]).num_workers == asked


def test_what_a_growing_cluster_can_never_have_is_refused_where_its_launcher_file_says_so():
    """Our own file for AWS: up to 16 nodes of 16 CPU, L4s and 8 × H100 beside a head without CPUs."""
    grown = growth(str(ROOT / "cluster_configs/aws_spot_cpu_l4_proxy_8xh100_target.yaml"))
    assert grown is not None
    gpus = max(node.get("GPU", 0) for node in grown.nodes)
    all_gpus = int(sum(node.get("GPU", 0) for node in grown.nodes))

    def placed(**workers: Any) -> Placement:
        asked = ResourcesConfig(device="gpu", may_grow=True, target=WorkersConfig(**workers))
        return place(asked, [{"CPU": 0}], None, "target", grown)

    assert gpus == 8
    assert placed(workers=all_gpus).num_workers == all_gpus
    assert placed(workers=16, accelerator_type="H100").num_workers == 16
    assert placed(accelerator_type="H100").num_workers == 8, "by default one whole node of those that come"
    assert placed(accelerator_type="L4").num_workers == 1
    with pytest.raises(PlacementError, match=r"accelerator_type:H100 each.*room for 16 such workers"):
        placed(workers=17, accelerator_type="H100")
    with pytest.raises(PlacementError, match=r"asks for .*'accelerator_type:A100', but the cluster can grow to 0"):
        placed(workers=1, accelerator_type="A100")
    with pytest.raises(PlacementError, match=rf"can grow to .* {all_gpus} GPU .*wait indefinitely.*max_workers"):
        placed(workers=all_gpus + 1)
    with pytest.raises(PlacementError, match=r"room for 0 such workers"):
        placed(workers=1, cpus_per_worker=10_000)
    with pytest.raises(PlacementError, match=r"asks for 1 of 'big', but the cluster can grow to 0"):
        placed(workers=1, custom_resources={"big": 1})


@pytest.mark.parametrize("content", [None, "", "x: [", "head_node_type: a\navailable_node_types: {a: {}, b: {}}"])
def test_of_a_cluster_that_may_grow_to_nobody_knows_what_nothing_is_refused(tmp_path, content):
    file = tmp_path / "ray_bootstrap_config.yaml"
    if content is not None:
        file.write_text(content)
    assert growth(str(file)) is None


@pytest.mark.parametrize(
    ("workers", "name"),
    [
        (WorkersConfig(accelerator_type="H100"), "accelerator_type:H100"),
        (WorkersConfig(custom_resources={"big": 2}), "big"),
    ],
)
def test_pinned_nodes_that_are_not_there_are_refused(workers, name):
    cluster = {"CPU": 8.0, "accelerator_type:A100": 1.0}
    with pytest.raises(PlacementError, match=rf"resources.target asks for .*'{name}'.*the cluster has 0 .*A100"):
        place(ResourcesConfig(target=workers), [cluster], who="target")
    assert place(ResourcesConfig(target=workers), [{**cluster, name: 2.0}], who="target").num_workers == 1


@pytest.mark.parametrize(
    ("workers", "nodes", "room"),
    [
        # The sum would do, but no node has four.
        (WorkersConfig(workers=2, cpus_per_worker=4), [{"CPU": 3}] * 4, 0),
        # Two fit on two nodes, and then no node has a CPU left for reading.
        (WorkersConfig(workers=2, cpus_per_worker=2.5), [{"CPU": 3}] * 2, 1),
        # The GPUs are on a node without the CPUs.
        (WorkersConfig(workers=2, cpus_per_worker=4), [{"CPU": 2, "GPU": 2}, {"CPU": 64}], 0),
        (WorkersConfig(workers=2, gpus_per_worker=2), [{"CPU": 8, "GPU": 1}] * 4, 0),
        # The named nodes are there, and too small.
        (WorkersConfig(workers=1, cpus_per_worker=8, accelerator_type="A100"),
         [{"CPU": 4, "GPU": 1, "accelerator_type:A100": 1}, {"CPU": 16, "GPU": 1}], 0),
        (WorkersConfig(workers=3, min_workers=2, cpus_per_worker=4), [{"CPU": 4}, {"CPU": 3}], 1),
    ],
)  # fmt: skip
def test_workers_that_fit_the_sum_but_no_node_are_refused(workers, nodes, room):
    resources = ResourcesConfig(proxy=workers, device="gpu" if any("GPU" in n for n in nodes) else "cpu")
    with pytest.raises(
        PlacementError, match=rf"requested.* on .*{nodes[0]['CPU']} CPU.*room for {room} such.*indefinitely"
    ):
        place(resources, nodes)
    enough = [*nodes, *({"CPU": 65, "GPU": 8, "accelerator_type:A100": 1} for _ in range(2))]
    assert place(resources, enough).num_workers == workers.workers


def test_elastic_workers_need_room_for_the_fewest_only():
    resources = ResourcesConfig(proxy=WorkersConfig(workers=8, min_workers=2, cpus_per_worker=2))
    assert place(resources, [{"CPU": 3}, {"CPU": 2}]).num_workers == 8


@pytest.mark.parametrize(
    ("workers", "nodes", "cpus"),
    [
        (1, [{"CPU": 4}] * 3, 4),  # not the 11 that the cluster has beside reading: no node could give them
        (1, [{"CPU": 4}], 3),
        (3, [{"CPU": 4}] * 3, 3),
        (4, [{"CPU": 2}, {"CPU": 16}], 4),
        (2, [{"CPU": 1}, {"CPU": 2}], 1),
    ],
)
def test_each_worker_gets_what_a_node_can_give(workers, nodes, cpus):
    assert place(ResourcesConfig(proxy=WorkersConfig(workers=workers)), nodes).cpus_per_worker == cpus


def start_other() -> Any:
    """Somebody else on the cluster."""

    class Other:  # in here, so that it travels whole: workers do not find this file
        def reserve(self, cpus: float) -> int:
            self.group = placement_group([{"CPU": cpus}])
            assert self.group.wait(60)
            return os.getpid()

    return ray.remote(num_cpus=0)(Other).remote()


def test_workers_wait_for_what_others_hold_and_it_is_said(ray_cluster):
    """Three of four CPUs are free for two workers and reading, once the other one has gone."""
    placement, said = Placement("cpu", 2, 1.0, 0, None, 1), []
    assert total(free_resources(60), "CPU") == 4
    other = start_other()
    process = ray.get(other.reserve.remote(2))
    assert total(free_resources(0), "CPU") == 2

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            os.kill(process, signal.SIGKILL)
            wait_until_left()

    def wait_until_left() -> None:
        deadline = time.monotonic() + 60
        while remove_orphaned_placement_groups() == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    assert total(wait_for_free(placement, "target", say, 600, every_s=0.1), "CPU") >= 3
    assert said == [
        "[target] waiting (at most 10 min 00 s): 2 workers with 1 CPU, and 1 CPU for reading, are needed; of the "
        "cluster's 4 CPU and 0 GPU, 2 CPU and 0 GPU are free and the rest is in use",
        "[target] resources are free now",
    ]


def test_only_what_the_dead_have_left_is_taken_back(ray_cluster):
    mine, living, dead = placement_group([{"CPU": 0.5}]), start_other(), start_other()
    assert mine.wait(60)
    ray.get(living.reserve.remote(1))
    os.kill(ray.get(dead.reserve.remote(2)), signal.SIGKILL)
    deadline, removed = time.monotonic() + 60, 0
    while not removed and time.monotonic() < deadline:
        removed = remove_orphaned_placement_groups()
        time.sleep(0.1)
    assert removed == 1
    assert remove_orphaned_placement_groups() == 0
    while ray.available_resources()["CPU"] != 2.5 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2.5
    remove_placement_group(mine)
    ray.kill(living)
    while remove_orphaned_placement_groups() == 0 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert total(free_resources(60), "CPU") == 4


def test_a_gpu_that_never_comes_is_waited_for_only_so_long(ray_cluster):
    said: list[str] = []
    started = time.monotonic()
    assert not wait_for_gpu(ResourcesConfig(may_grow=True, gpu_wait_s=1), said.append)
    assert 0.9 < time.monotonic() - started < 120
    assert "no GPU was added within resources.gpu_wait_s=1: everything runs on CPUs" in said[-1]
    started = time.monotonic()
    assert not wait_for_gpu(ResourcesConfig(gpu_wait_s=60), said.append)
    assert time.monotonic() - started < 45
