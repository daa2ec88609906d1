"""Who gets what, and what is refused before anything starts."""

from __future__ import annotations

import time

import pytest

from s2l_ray.cluster.placement import PlacementError, place, wait_for_gpu
from s2l_ray.config import ResourcesConfig, WorkersConfig


def test_embedded_ray_gives_the_cores_to_the_workers():
    placement = place(ResourcesConfig(), {"CPU": 10}, cores=8)
    assert (placement.device, placement.num_workers, placement.cpus_per_worker) == ("cpu", 1, 8)
    two = place(ResourcesConfig(proxy=WorkersConfig(workers=2)), {"CPU": 10}, cores=8)
    assert (two.num_workers, two.cpus_per_worker) == (2, 4)


def test_gpus_are_taken_where_there_are_some():
    placement = place(ResourcesConfig(), {"CPU": 64, "GPU": 8})
    assert (placement.device, placement.num_workers, placement.gpus_per_worker) == ("gpu", 8, 1)
    assert place(ResourcesConfig(device="cpu"), {"CPU": 64, "GPU": 8}).device == "cpu"


@pytest.mark.parametrize(
    ("resources", "cluster"),
    [
        ({"proxy": WorkersConfig(workers=4, cpus_per_worker=1)}, {"CPU": 4}),  # none left for reading: it would hang
        ({"proxy": WorkersConfig(workers=2), "device": "gpu"}, {"CPU": 8, "GPU": 1}),
        ({"device": "gpu"}, {"CPU": 8}),
    ],
)
def test_what_would_wait_for_ever_is_refused_unless_the_cluster_may_grow(resources, cluster):
    with pytest.raises(PlacementError, match=r"cluster has .* CPU and .* GPU.*wait for ever.*may_grow"):
        place(ResourcesConfig(**resources), cluster)
    asked = resources.get("proxy", WorkersConfig()).workers or 1
    assert place(ResourcesConfig(**resources, may_grow=True), cluster).num_workers == asked


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
        place(ResourcesConfig(target=workers), cluster, who="target")
    assert place(ResourcesConfig(target=workers), {**cluster, name: 2.0}, who="target").num_workers == 1


def test_a_gpu_that_never_comes_is_waited_for_only_so_long(ray_cluster):
    started = time.monotonic()
    assert not wait_for_gpu(ResourcesConfig(may_grow=True, gpu_wait_s=1))
    assert 0.9 < time.monotonic() - started < 20
    started = time.monotonic()
    assert not wait_for_gpu(ResourcesConfig(gpu_wait_s=60))
    assert time.monotonic() - started < 5
