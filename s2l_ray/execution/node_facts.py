"""Memory of the running nodes, and what their torch and faiss support. Starts no node.

One task per node, without CPUs or GPUs, so that it waits for nothing and no autoscaler adds a node for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from s2l_ray.errors import S2LError
from s2l_ray.execution.capacity import Node
from s2l_ray.execution.placement import host_memory_bytes, local_cores

T = TypeVar("T")

_FIRST_WITH_BF16 = 8
"""NVIDIA's compute capability, major number: Ampere. Older cards emulate bf16, slower than fp32."""
_ANSWER_S = 180.0
"""Importing torch for the first time on a node takes seconds, on a cold disk a minute."""


# Ray 2.60 leaves CUDA_VISIBLE_DEVICES alone if no GPU is requested, unless configured otherwise.
_SEES_GPUS: dict[str, Any] = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}


@dataclass(frozen=True)
class NodeFacts:
    """Hardware and libraries of one node."""

    name: str
    """Name of the node, for messages."""
    host_memory_bytes: int
    cores: int
    torch_build: str | None
    """Version of torch with its build, such as `2.13.0+cu130`; None: not installed."""
    torch_has_cuda: bool
    """Whether torch was built to use GPUs (CUDA or ROCm)."""
    num_gpus: int
    """Number of GPUs that torch sees."""
    gpu_memory_bytes: int | None
    """Memory of the smallest of these GPUs (bytes)."""
    faiss_sees_gpu: bool | None
    """Whether faiss sees a GPU; None: faiss is not installed."""
    cpu_multiplies_bf16: bool = False
    """Whether its CPUs have matrix units for bf16 (Intel's AMX), and torch was built to use them."""
    gpus_have_bf16: bool = True
    """Whether all of its GPUs compute in bf16 (NVIDIA: compute capability 8.0 and later)."""


def local_facts() -> NodeFacts:
    """The facts of this machine."""
    from s2l_ray.selection.kmeans import faiss_sees_gpu

    build, has_cuda, memories, have_bf16 = _torch_facts()
    return NodeFacts(
        os.uname().nodename, host_memory_bytes(), local_cores(), build, has_cuda, len(memories),
        min(memories, default=None), faiss_sees_gpu(), cpu_multiplies_bf16(), have_bf16,
    )  # fmt: skip


def cpu_multiplies_bf16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this machine's CPUs have matrix units for bf16, and torch was built to use them."""
    try:
        import torch

        lines = Path(cpuinfo).read_text(encoding="utf-8", errors="replace").splitlines()
    except (ImportError, OSError):  # not Linux: nothing is known
        return False
    flags = [line.partition(":")[2].split() for line in lines if line.startswith("flags")]
    return bool(flags) and all("amx_bf16" in found for found in flags) and torch.backends.mkldnn.is_available()


def _torch_facts() -> tuple[str | None, bool, list[int], bool]:
    """Build, whether it can use GPUs, their memories, and whether all of them compute in bf16."""
    try:
        import torch
    except ImportError:
        return None, False, [], True
    has_cuda = torch.version.cuda is not None or torch.version.hip is not None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cards = [torch.cuda.get_device_properties(i) for i in range(count)]
    have_bf16 = torch.version.hip is not None or all(card.major >= _FIRST_WITH_BF16 for card in cards)
    return torch.__version__, has_cuda, [card.total_memory for card in cards], have_bf16


def facts_of_nodes(wanted: Callable[[Node], bool], embedded: bool) -> list[tuple[Node, NodeFacts]]:
    """The facts of the living nodes whose resources are `wanted`; nodes that do not answer are left out.

    embedded: the only node is this machine, and needs no task.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = _resources(wanted)
    # Another process would import torch to report what this one already knows about the node. (GPUs may be hidden.)
    known = {node: has for node, has in nodes.items() if embedded or (node == here and not has.get("GPU"))}
    answers = [(has, local_facts()) for has in known.values()]
    return answers + _ask(local_facts, {node: has for node, has in nodes.items() if node not in known}, _SEES_GPUS)


def on_every_node(
    task: Callable[..., T], wanted: Callable[[Node], bool], embedded: bool, *arguments: Any, sees_gpus: bool = False
) -> list[T]:
    """task(*arguments) on each living node whose resources are `wanted`; nodes that do not answer are left out.

    task: a plain function.
    embedded: the only node is this machine, and needs no task.
    sees_gpus: the task may look at the node's GPUs, although it reserves none.
    """
    if embedded:
        return [task(*arguments)]
    environment = _SEES_GPUS if sees_gpus else None
    return [answer for _, answer in _ask(task, _resources(wanted), environment, *arguments)]


def _resources(wanted: Callable[[Node], bool]) -> dict[str, Node]:
    """Living nodes by their ids."""
    import ray

    nodes = sorted(ray.nodes(), key=lambda node: node["NodeName"])
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"] and wanted(node["Resources"])}


def _ask(
    task: Callable[..., T], nodes: dict[str, Node], runtime_env: dict[str, Any] | None, *arguments: Any
) -> list[tuple[Node, T]]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote: Any = ray.remote(num_cpus=0, max_calls=1, max_retries=3, runtime_env=runtime_env)(task)
    asked = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*arguments): node
        for node in nodes
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S) if asked else ([], [])
    for reference in late:
        ray.cancel(reference, force=True)
    found = []
    for reference in done:
        try:
            found.append((nodes[asked[reference]], ray.get(reference)))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, S2LError):
                raise error.cause from None
        except ray.exceptions.RayError:  # the node has left
            continue
    return found
