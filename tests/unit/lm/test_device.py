"""GPU or CPU, by what the nodes' torch and faiss can do; and what memory is known without starting a node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from s2l_ray.execution.device import choose_devices
from s2l_ray.execution.node_facts import NodeFacts, local_facts
from s2l_ray.execution.node_memory import NodeMemory, memory_by_type, memory_of, smallest_shares
from s2l_ray.execution.placement import Placement, PlacementError

GOOD = NodeFacts("gpu1", 2000 * 10**9, 192, "2.13.0+cu130", True, 8, 85 * 10**9, True)
CPU_TORCH = replace(GOOD, name="cpu-torch", torch_build="2.13.0+cpu", torch_has_cuda=False, num_gpus=0,
                    gpu_memory_bytes=None, faiss_sees_gpu=False)  # fmt: skip
NO_DRIVER = replace(GOOD, name="no-driver", num_gpus=0, gpu_memory_bytes=None, faiss_sees_gpu=False)
NO_TORCH = replace(CPU_TORCH, name="no-torch", torch_build=None)
FAISS_CPU = replace(GOOD, name="faiss-cpu", faiss_sees_gpu=False)
NO_FAISS = replace(GOOD, name="no-faiss", faiss_sees_gpu=None)


@pytest.mark.parametrize(
    ("setting", "nodes", "expected", "training", "kmeans", "note"),
    [
        ("cpu", [GOOD], True, "cpu", "cpu", None),
        ("cpu", [CPU_TORCH], True, "cpu", "cpu", None),
        ("auto", [], False, "cpu", "cpu", None),
        ("auto", [], True, "gpu", "gpu", None),  # nodes will come: what they can do is found out then
        ("gpu", [], False, "gpu", "gpu", None),  # refused by `place` if they never come
        ("gpu", [], True, "gpu", "gpu", None),
        ("auto", [GOOD, GOOD], True, "gpu", "gpu", None),
        ("gpu", [GOOD], True, "gpu", "gpu", None),
        ("auto", [CPU_TORCH], True, "cpu", "cpu", "cpu-torch.*2.13.0.cpu is built for CPUs.*runs on CPUs.*install"),
        ("auto", [NO_DRIVER], True, "cpu", "cpu", "driver is missing or too old"),
        ("auto", [NO_TORCH, CPU_TORCH], True, "cpu", "cpu", "not installed"),
        ("auto", [FAISS_CPU], True, "gpu", "cpu", "faiss has no GPU support on faiss-cpu: k-means runs on CPUs"),
        ("auto", [GOOD, FAISS_CPU], True, "gpu", "cpu", "on faiss-cpu: k-means"),
        ("auto", [NO_FAISS], True, "gpu", "cpu", "no faiss is installed on no-faiss"),
    ],
)
def test_auto_is_what_torch_and_faiss_can_do(
    setting: Any, nodes: list[NodeFacts], expected: bool, training: str, kmeans: str, note: str | None
):
    devices = choose_devices(setting, nodes, expected)
    assert (devices.training, devices.kmeans) == (training, kmeans)
    assert len(devices.notes) == (note is not None)
    if note:
        assert pytest.raises(ValueError, match=note).matches(ValueError(devices.notes[0]))


@pytest.mark.parametrize(
    ("setting", "nodes", "message"),
    [
        ("gpu", [CPU_TORCH], r"resources.device=gpu: .*cpu-torch.*built for CPUs.*fail.*install a torch.*device=cpu"),
        ("gpu", [NO_DRIVER], r"driver is missing or too old, or CUDA_VISIBLE_DEVICES"),
        ("gpu", [NO_TORCH], r"not installed"),
        ("gpu", [FAISS_CPU], r"faiss has no GPU support on faiss-cpu.*after training.*faiss-gpu.*device=auto"),
        ("gpu", [NO_FAISS], r"no faiss is installed"),
        ("gpu", [GOOD, FAISS_CPU], r"on faiss-cpu"),
        ("gpu", [GOOD, CPU_TORCH], r"on 1 of 2 nodes and none on cpu-torch"),
        ("auto", [GOOD, CPU_TORCH, NO_DRIVER], r"on 1 of 3 nodes and none on cpu-torch, no-driver.*accelerator_type"),
    ],
)
def test_what_would_fail_on_a_gpu_is_refused(setting: Any, nodes: list[NodeFacts], message: str):
    with pytest.raises(PlacementError, match=message):
        choose_devices(setting, nodes, True)


def test_faiss_does_not_matter_where_the_clusters_are_there():
    assert choose_devices("gpu", [FAISS_CPU], True, with_kmeans=False).training == "gpu"
    with pytest.raises(PlacementError, match="built for CPUs"):
        choose_devices("gpu", [CPU_TORCH], True, with_kmeans=False)


def test_nodes_that_come_late_and_cannot_use_their_gpus_end_what_was_laid_out_for_them():
    with pytest.raises(PlacementError, match=r"resources.device=auto: .*built for CPUs.*install.*device=cpu"):
        choose_devices("auto", [CPU_TORCH], True, laid_out=True)
    assert choose_devices("auto", [FAISS_CPU], True, laid_out=True).kmeans == "cpu"


def test_many_nodes_are_counted_not_listed():
    nodes = [replace(CPU_TORCH, name=f"n{i}") for i in range(500)]
    with pytest.raises(PlacementError, match="n0, n1, n2 and 497 more") as refused:
        choose_devices("gpu", nodes, True)
    assert len(str(refused.value)) < 600


def test_this_machine_tells_what_it_has():
    import faiss
    import torch

    facts = local_facts()
    assert facts.torch_build == torch.__version__
    assert facts.num_gpus == torch.cuda.device_count()
    assert facts.torch_has_cuda == (torch.version.cuda is not None)
    assert facts.faiss_sees_gpu == (hasattr(faiss, "get_num_gpus") and faiss.get_num_gpus() > 0)
    assert facts.host_memory_bytes > 10**8
    assert facts.cores >= 1


# --- memory -----------------------------------------------------------------------------------------------------------


def placed(device: str = "gpu", **fields: Any) -> Placement:
    usual: dict[str, Any] = {"num_workers": 8, "cpus_per_worker": 1.0, "gpus_per_worker": 1.0 if device == "gpu" else 0,
                             "accelerator_type": None, "parallelism": 1}  # fmt: skip
    return Placement(device, **usual | fields)


@pytest.mark.parametrize(
    ("placement", "fitting", "workers", "device", "host"),
    [
        (placed(), 8, 8, 85e9, 250e9),  # of 192 CPUs and 8 GPUs: eight workers on a node, not 192
        (placed(), 8, 16, 85e9, 250e9),
        (placed(), 8, 2, 85e9, 1000e9),  # as few as two: they share the node with nobody
        (placed(gpus_per_worker=0.5), 16, 16, 42.5e9, 125e9),
        (placed(gpus_per_worker=4.0), 2, 2, 85e9, 1000e9),
        (placed("cpu"), 192, 8, 250e9, 250e9),
        (placed("cpu", cpus_per_worker=96.0), 2, 8, 1000e9, 1000e9),
        (placed("cpu", cpus_per_worker=1.0), 400, 400, 2000e9 / 192, 2000e9 / 192),  # Ray counts more CPUs than cores
    ],
)
def test_a_workers_share_of_its_node(placement: Placement, fitting: int, workers: int, device: float, host: float):
    memory = memory_of(placement, GOOD, fitting)
    assert memory is not None
    assert memory.shares(workers) == (pytest.approx(device), pytest.approx(host))


def test_wherever_it_lands_the_smallest_share_counts():
    kinds = [NodeMemory(85e9, 2000e9, 8), NodeMemory(24e9, 32e9, 1)]
    assert smallest_shares(kinds, 9) == (24e9, 32e9)
    assert smallest_shares([NodeMemory(None, 64e9, 4), NodeMemory(None, 16e9, 2)], 3) == (8e9, 8e9)
    assert smallest_shares([NodeMemory(80e9, None, 8)], 8) == (80e9, None)


@pytest.mark.parametrize(
    ("kind", "device", "gigabytes"),
    [("H100", "gpu", 80), ("L4", "gpu", 24), ("A100", "gpu", None), ("V100", "gpu", None), (None, "gpu", None),
     ("A100-80G", "gpu", 80), ("GeForce-RTX-5090", "gpu", None), ("H100", "cpu", None)],
)  # fmt: skip
def test_a_type_that_comes_in_one_size_says_its_memory(kind: str | None, device: str, gigabytes: int | None):
    found = memory_by_type(placed(device, accelerator_type=kind))
    assert [m.device_bytes for m in found] == ([] if gigabytes is None else [gigabytes * 1e9])
    assert all(m.host_bytes is None for m in found)


def test_gpus_that_torch_cannot_see_say_nothing():
    assert memory_of(placed(), CPU_TORCH, 8) is None
