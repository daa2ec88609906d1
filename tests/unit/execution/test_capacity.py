"""What fits on mixed clusters: tables, and every small case against counting it out."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.config import ResourcesConfig, WorkersConfig
from s2l_ray.execution.autoscaler import Growth
from s2l_ray.execution.capacity import Demand, Node, fit, num_fitting_workers
from s2l_ray.execution.placement import PlacementError, place

HEAD: Node = {"CPU": 0.0, "node:__internal_head__": 1.0}
CPU_HEAD: Node = {"CPU": 4.0, "node:__internal_head__": 1.0}
L4: Node = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0, "memory": 32e9}
H100: Node = {"CPU": 192.0, "GPU": 8.0, "accelerator_type:H100": 1.0, "memory": 2000e9}
FEW_CPUS: Node = {"CPU": 4.0, "GPU": 8.0, "accelerator_type:A100": 1.0}
TWO_TYPES: Node = {"CPU": 16.0, "GPU": 4.0, "accelerator_type:A100": 1.0, "accelerator_type:L4": 1.0}
MIXED = [CPU_HEAD, L4, L4, H100]


@pytest.mark.parametrize(
    ("nodes", "worker", "num_workers"),
    [
        (MIXED, {"CPU": 1, "GPU": 1}, 10),
        (MIXED, {"CPU": 1, "GPU": 1, "accelerator_type:H100": 0.001}, 8),
        (MIXED, {"CPU": 1, "GPU": 1, "accelerator_type:L4": 0.001}, 2),
        (MIXED, {"CPU": 1, "GPU": 2}, 4),  # the two L4s are on two nodes
        (MIXED, {"CPU": 24, "GPU": 1}, 8),  # the head's CPU reads
        ([L4, L4, H100], {"CPU": 24, "GPU": 1}, 8),  # an L4 node's reads
        (MIXED, {"CPU": 8, "GPU": 1}, 10),
        ([L4, H100], {"CPU": 8, "GPU": 1}, 9),  # reading takes the H100 node's spare CPUs
        ([L4], {"CPU": 8, "GPU": 1}, 0),
        ([H100], {"CPU": 24, "GPU": 1}, 7),
        ([FEW_CPUS], {"CPU": 1, "GPU": 1}, 3),
        ([FEW_CPUS], {"CPU": 0.25, "GPU": 1}, 8),
        ([HEAD, FEW_CPUS], {"CPU": 0.5, "GPU": 1}, 6),
        ([HEAD], {"CPU": 1}, 0),
        ([HEAD, {"CPU": 2.0}], {"CPU": 1}, 1),
        ([{"CPU": 0.5}, {"CPU": 0.5}], {"CPU": 0.5}, 0),  # nobody could read
        ([], {"CPU": 1}, 0),
        ([TWO_TYPES], {"CPU": 1, "GPU": 1, "accelerator_type:L4": 0.001}, 4),  # Ray does not tell them apart
        ([{"CPU": 64, "GPU": 2}], {"CPU": 1, "GPU": 0.6}, 2),  # not 3: a share lies on one GPU
        ([{"CPU": 64, "GPU": 2}], {"CPU": 1, "GPU": 0.4}, 4),  # not 5
        ([{"CPU": 64, "GPU": 1}], {"CPU": 1, "GPU": 0.1}, 10),
        ([{"CPU": 64, "GPU": 1}], {"CPU": 1, "GPU": 1 / 3}, 3),  # as Ray rounds: ten-thousandths
        ([{"CPU": 9}], {"CPU": 0.1}, 80),  # no rounding error of floats
        ([L4, H100], {"CPU": 1, "memory": 20e9}, 101),
        ([{"CPU": 8, "big": 2}, {"CPU": 8, "big": 1}], {"CPU": 1, "big": 2}, 1),
        ([{"CPU": 8, "big": 1}], {"CPU": 1, "big": 0.5}, 2),
    ],
)
def test_workers_on_mixed_clusters(nodes: list[Node], worker: dict[str, float], num_workers: int):
    assert fit(nodes, Demand(worker)).num_workers == num_workers


@pytest.mark.parametrize(("each", "replicas"), [(1, 10), (2, 5), (3, 3), (10, 1), (11, 0)])
def test_replicas_are_whole_demands(each: int, replicas: int):
    assert fit(MIXED, Demand({"CPU": 1, "GPU": 1}, each)).num_replicas == replicas


def test_a_worker_that_reserves_nothing_is_an_error():
    with pytest.raises(ValueError, match="fit any number of times"):
        num_fitting_workers({"CPU": 1}, {"CPU": 0})


# --- against counting it out ------------------------------------------------------------------------------------------

AMOUNTS = {"CPU": [0, 0.5, 1, 2, 3], "GPU": [0, 1, 2], "accelerator_type:L4": [0, 1], "big": [0, 1, 1.5]}
SHARES = {"CPU": [0.25, 0.5, 1, 2], "GPU": [0, 0.3, 0.4, 0.5, 0.6, 1, 2], "accelerator_type:L4": [0, 0.001],
          "big": [0, 0.5, 1]}  # fmt: skip


def counted(node: Node, worker: dict[str, float]) -> int:
    """One worker after the other: every way to give it a GPU is tried."""
    need = worker.get("GPU", 0)

    @functools.cache
    def most(left: tuple[tuple[str, float], ...], gpus: tuple[float, ...]) -> int:
        rest = {name: amount - worker.get(name, 0) for name, amount in left}
        if any(rest.get(name, -each) < -1e-9 for name, each in worker.items() if name != "GPU" and each):
            return 0
        after = tuple(sorted(rest.items()))
        if need == 0:
            return 1 + most(after, gpus)
        if need >= 1:
            whole = [g for g in gpus if g > 1 - 1e-9]
            return 1 + most(after, gpus[int(need) :]) if len(whole) >= need else 0
        ways = []
        for i, g in enumerate(gpus):
            if g + 1e-9 >= need:
                ways.append(
                    1 + most(after, tuple(sorted((*gpus[:i], round(g - need, 6), *gpus[i + 1 :]), reverse=True)))
                )
        return max(ways, default=0)

    others = tuple(sorted((name, amount) for name, amount in node.items() if name != "GPU"))
    return most(others, (1.0,) * int(node.get("GPU", 0)))


def counted_on(nodes: list[Node], worker: dict[str, float]) -> int:
    """With the reading CPU on each node in turn."""
    readers = [i for i, node in enumerate(nodes) if node["CPU"] >= 1]
    return max(
        (sum(counted({**n, "CPU": n["CPU"] - (i == at)}, worker) for i, n in enumerate(nodes)) for at in readers),
        default=0,
    )


def one_of(amounts: dict[str, Any]) -> Any:
    return st.fixed_dictionaries({name: st.sampled_from(values) for name, values in amounts.items()})


@pytest.mark.thorough
@settings(max_examples=300, deadline=None)
@given(nodes=st.lists(one_of(AMOUNTS), max_size=3), worker=one_of(SHARES), each=st.integers(1, 3))
def test_as_many_as_can_be_counted_out(nodes: list[Node], worker: dict[str, float], each: int):
    found, expected = fit(nodes, Demand(worker, each)), counted_on(nodes, worker)
    assert found.num_workers == expected
    assert found.num_replicas == expected // each


@pytest.mark.thorough
@settings(max_examples=200, deadline=None)
@given(
    nodes=st.lists(one_of(AMOUNTS), min_size=1, max_size=4), gpus=st.sampled_from([0.5, 1, 2]),
    cpus=st.sampled_from([None, 0.5, 1, 2]), kind=st.sampled_from([None, "L4"]),
)  # fmt: skip
def test_what_is_chosen_by_default_fits_or_nothing_would(nodes: list[Node], gpus: float, cpus: Any, kind: Any):
    asked = WorkersConfig(gpus_per_worker=gpus, cpus_per_worker=cpus, accelerator_type=kind)
    worker = {"CPU": cpus or 0.1, "GPU": gpus, **({"accelerator_type:L4": 0.001} if kind else {})}
    most = counted_on(nodes, worker)
    try:
        placement = place(ResourcesConfig(device="gpu", proxy=asked), nodes)
    except PlacementError:
        assert most == 0
    else:
        assert placement.num_workers == most
        assert counted_on(nodes, placement.worker) >= most


# --- default workers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "asked", "workers", "cpus"),
    [
        (MIXED, {}, 10, 1),
        (MIXED, {"accelerator_type": "H100"}, 8, 1),
        (MIXED, {"accelerator_type": "L4"}, 2, 1),
        (MIXED, {"gpus_per_worker": 4}, 2, 1),
        (MIXED, {"gpus_per_worker": 0.5}, 20, 1),
        ([HEAD, FEW_CPUS], {}, 8, 0.25),  # no GPU is left out for want of logical CPUs
        ([HEAD, FEW_CPUS], {"workers": 3}, 3, 1),
        ([HEAD, FEW_CPUS], {"workers": 6}, 6, 0.5),
        ([HEAD, FEW_CPUS], {"cpus_per_worker": 1}, 3, 1),
        ([{"CPU": 8, "GPU": 8}], {}, 8, 0.5),  # as many CPUs as GPUs, and one must read
        ([{"CPU": 64, "GPU": 2}], {"gpus_per_worker": 0.6}, 2, 1),
    ],
)
def test_a_worker_for_every_gpu_that_it_may_use(nodes: list[Node], asked: Any, workers: int, cpus: float):
    placement = place(ResourcesConfig(target=WorkersConfig(**asked)), nodes, None, "target")
    assert (placement.device, placement.num_workers, placement.cpus_per_worker) == ("gpu", workers, cpus)


@pytest.mark.parametrize(
    ("living", "types", "at_most", "asked", "workers"),
    [
        ([HEAD], [H100, H100, L4], 9, {"accelerator_type": "H100"}, 8),
        ([HEAD], [{"CPU": 192, "GPU": 8}], 9, {"accelerator_type": "H100"}, 8),  # its type is not told before it is up
        ([HEAD], [L4, H100], 9, {}, 1),  # the first that would do
        ([HEAD], [FEW_CPUS, {"CPU": 16}], 9, {}, 8),
        ([HEAD, L4], [L4, L4, H100], 9, {"accelerator_type": "L4"}, 1),  # what is up counts
    ],
)
def test_before_any_node_is_up_one_node_that_may_come_counts(living, types, at_most, asked, workers):
    resources = ResourcesConfig(device="gpu", may_grow=True, target=WorkersConfig(**asked))
    assert place(resources, living, None, "target", Growth(types, at_most)).num_workers == workers


@pytest.mark.parametrize(
    ("living", "types", "at_most", "most"),
    [
        ([HEAD], [H100] * 2, 9, 16),
        ([HEAD, H100], [H100] * 2, 9, 16),  # the one that is up is one of the two
        ([HEAD, H100, H100], [H100] * 2, 9, 16),
        ([HEAD], [H100] * 4 + [{"CPU": 16.0}] * 16, 2, 16),  # the cluster's own limit
        ([CPU_HEAD], [FEW_CPUS] * 4, 4, 32),
        ([HEAD], [{"CPU": 8, "GPU": 8}] * 2 + [{"CPU": 16.0}], 3, 16),
        ([HEAD], [{"CPU": 8, "GPU": 8}] * 2 + [{"CPU": 16.0}], 2, 15),
        ([HEAD, {"CPU": 64.0, "GPU": 4.0}], [H100], 1, 12),  # one that no type is like
    ],
)
def test_what_the_autoscaler_can_make_of_the_cluster(living, types, at_most, most):
    cpus = 1 if most != 32 else 0.5
    for workers, fits in ((most, True), (most + 1, False)):
        resources = ResourcesConfig(
            device="gpu", may_grow=True, target=WorkersConfig(workers=workers, cpus_per_worker=cpus)
        )
        if fits:
            assert place(resources, living, None, "target", Growth(types, at_most)).num_workers == workers
        else:
            with pytest.raises(PlacementError, match=f"can grow to .*room for {most} such workers"):
                place(resources, living, None, "target", Growth(types, at_most))


def test_elastic_workers_may_be_more_than_the_cluster_ever_has_if_the_fewest_fit():
    elastic = WorkersConfig(workers=16, min_workers=8, accelerator_type="H100")
    assert place(ResourcesConfig(target=elastic), MIXED, None, "target").num_workers == 16
    few = WorkersConfig(workers=16, min_workers=9, accelerator_type="H100")
    with pytest.raises(PlacementError, match="room for 8 such workers"):
        place(ResourcesConfig(target=few), MIXED, None, "target")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"gpus_per_worker": 1.5}, "a fraction of one GPU or whole GPUs; use 1"),
        ({"custom_resources": {"GPU": 1}}, "'GPU' is not a valid name for a custom resource.*set gpus_per_worker"),
        ({"custom_resources": {"CPU": 1}}, "'CPU' is not a valid name for a custom resource.*set cpus_per_worker"),
        ({"custom_resources": {"object_store_memory": 1}}, "'object_store_memory' is not a valid name"),
        ({"custom_resources": {"big": 0}}, "0 of 'big' cannot be reserved"),
        ({"custom_resources": {"big": -1}}, "-1 of 'big' cannot be reserved"),
    ],
)
def test_what_ray_has_no_meaning_for_is_refused_in_the_configuration(asked: Any, message: str):
    with pytest.raises(ValueError, match=message):
        WorkersConfig(**asked)
