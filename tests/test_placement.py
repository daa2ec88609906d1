"""Who gets what, and what is refused before anything starts."""

from __future__ import annotations

import time

import pytest

from s2l_ray.cluster.placement import PlacementError, place, wait_for_gpu
from s2l_ray.config import ResourcesConfig


def test_embedded_ray_gives_the_cores_to_the_workers():
    placement = place(ResourcesConfig(), {"CPU": 10}, cores=8)
    assert (placement.device, placement.num_workers, placement.cpus_per_worker) == ("cpu", 1, 8)
    two = place(ResourcesConfig(proxy_workers=2), {"CPU": 10}, cores=8)
    assert (two.num_workers, two.cpus_per_worker) == (2, 4)


def test_gpus_are_taken_where_there_are_some():
    placement = place(ResourcesConfig(), {"CPU": 64, "GPU": 8})
    assert (placement.device, placement.num_workers, placement.gpus_per_worker) == ("gpu", 8, 1)
    assert place(ResourcesConfig(device="cpu"), {"CPU": 64, "GPU": 8}).device == "cpu"


@pytest.mark.parametrize(
    ("resources", "cluster"),
    [
        ({"proxy_workers": 4, "cpus_per_worker": 1}, {"CPU": 4}),  # none left for reading: it would hang
        ({"proxy_workers": 2, "device": "gpu"}, {"CPU": 8, "GPU": 1}),
        ({"device": "gpu"}, {"CPU": 8}),
    ],
)
def test_what_would_wait_for_ever_is_refused_unless_the_cluster_may_grow(resources, cluster):
    with pytest.raises(PlacementError, match=r"cluster has .* CPU and .* GPU.*wait for ever.*may_grow"):
        place(ResourcesConfig(**resources), cluster)
    assert place(ResourcesConfig(**resources, may_grow=True), cluster).num_workers == resources.get("proxy_workers", 1)


def test_a_gpu_that_never_comes_is_waited_for_only_so_long(ray_cluster):
    started = time.monotonic()
    assert not wait_for_gpu(ResourcesConfig(may_grow=True, gpu_wait_s=1))
    assert 0.9 < time.monotonic() - started < 20
    started = time.monotonic()
    assert not wait_for_gpu(ResourcesConfig(gpu_wait_s=60))
    assert time.monotonic() - started < 5
