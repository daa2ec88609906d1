"""GPU or CPU: resolves `resources.device` from what torch and faiss on the nodes support.

A GPU that Ray counts is useless to a torch built for CPUs, and a torch that supports GPUs may be installed with a faiss
that does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from s2l_ray.execution.node_facts import NodeFacts
from s2l_ray.execution.placement import PlacementError

Device = Literal["cpu", "gpu"]

_TORCH_CURE = "install a torch built for their GPUs (https://pytorch.org/get-started; the one from PyPI has CUDA)"
_FAISS_CURE = "replace faiss-cpu with faiss-gpu (pip uninstall faiss-cpu; pip install 's2l_ray[gpu]')"


@dataclass(frozen=True)
class Devices:
    """Which devices the work runs on."""

    training: Device
    kmeans: Device
    notes: list[str] = field(default_factory=list)
    """Messages to show if the devices are not what the user may expect."""


def choose_devices(
    setting: Literal["auto", "cpu", "gpu"],
    gpu_nodes: Sequence[NodeFacts],
    gpus_expected: bool,
    with_kmeans: bool = True,
    laid_out: bool = False,
) -> Devices:
    """Resolve `resources.device`.

    Args:
        gpu_nodes: nodes that are up, have GPUs according to Ray, and may get workers.
        gpus_expected: such nodes are up, or the autoscaler will add them; what they support is unknown until then.
        with_kmeans: k-means has still to run.
        laid_out: the work was planned for GPUs before their nodes were up; it can no longer move to CPUs.

    Raises:
        PlacementError: GPUs are required but torch or faiss cannot use them, or only some of the nodes can.
    """
    if setting == "cpu":
        return Devices("cpu", "cpu")
    if not gpu_nodes:
        device: Device = "gpu" if setting == "gpu" or gpus_expected else "cpu"
        return Devices(device, device)
    blind = [node for node in gpu_nodes if not node.num_gpus]
    if blind and len(blind) < len(gpu_nodes):
        raise PlacementError(
            f"torch sees the GPUs on {len(gpu_nodes) - len(blind)} of {len(gpu_nodes)} nodes and none on "
            f"{_names(blind)} ({_why_blind(blind[0])}); workers placed there would fail. On those nodes "
            f"{_TORCH_CURE}, or keep workers off them with resources.*.accelerator_type or custom_resources, or set "
            "resources.device=cpu"
        )
    if blind:
        why = f"Ray counts GPUs on {_names(blind)}, but torch there cannot use them ({_why_blind(blind[0])})"
        if setting == "gpu" or laid_out:
            raise PlacementError(
                f"resources.device={setting}: {why}, so training would fail. On every GPU node {_TORCH_CURE}, or set "
                "resources.device=cpu"
            )
        return Devices("cpu", "cpu", [f"{why}: everything runs on CPUs. To use the GPUs, {_TORCH_CURE}"])
    return _with_faiss(setting, gpu_nodes) if with_kmeans else Devices("gpu", "gpu")


def _with_faiss(setting: Literal["auto", "gpu"], gpu_nodes: Sequence[NodeFacts]) -> Devices:
    lacking = [node for node in gpu_nodes if not node.faiss_sees_gpu]
    if not lacking:
        return Devices("gpu", "gpu")
    what = "no faiss is installed" if lacking[0].faiss_sees_gpu is None else "faiss has no GPU support"
    why = f"{what} on {_names(lacking)}"
    if setting == "gpu":
        raise PlacementError(
            f"resources.device=gpu: {why}, so k-means would fail after training. On every GPU node {_FAISS_CURE}, "
            "or set resources.device=auto, which then runs k-means on CPUs"
        )
    return Devices("gpu", "cpu", [f"{why}: k-means runs on CPUs, everything else on GPUs"])


def _why_blind(node: NodeFacts) -> str:
    if node.torch_build is None:
        return "it is not installed"
    if not node.torch_has_cuda:
        return f"{node.torch_build} is built for CPUs"
    return f"{node.torch_build} sees none: the driver is missing or too old, or CUDA_VISIBLE_DEVICES hides them"


def _names(nodes: Sequence[NodeFacts], most: int = 3) -> str:
    names = [node.name for node in nodes]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
