"""The engines, transformers and vLLM, and the properties on which generated text depends."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.errors import shown
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.execution.placement import Placement
from s2l_ray.lm.exported import ADAPTER, ModelSource

TRANSFORMERS, VLLM = "transformers", "vllm"
_DTYPES = {"cpu": "float32", "gpu": "bfloat16"}
_BATCH_INVARIANT_FROM = (9, 0)
"""NVIDIA's compute capability from which all versions of vLLM that know VLLM_BATCH_INVARIANT respect it: 0.11 requires
Hopper, later versions support Ampere too (https://docs.vllm.ai/en/latest/features/batch_invariance/)."""
_CURE = "install s2l_ray's environment with vLLM on them, or set evaluation.generation.engine=transformers"


@dataclass(frozen=True)
class Engine:
    """How completions are generated, which is part of their key."""

    name: str
    dtype: str
    version: str | None = None
    """Version of vLLM, whose kernels depend on it; None for transformers, whose text in fp32 does not."""
    batch_invariant: bool | None = None
    """For vLLM: whether text is independent of what else is generated at the same time."""

    @property
    def settings(self) -> dict[str, Any]:
        """The engine's settings in the key of what it generates."""
        plain: dict[str, Any] = {"engine": self.name, "dtype": self.dtype}
        if self.name == VLLM:
            plain |= {"engine_version": self.version, "batch_invariant": self.batch_invariant}
        return plain

    @staticmethod
    def of(settings: dict[str, Any]) -> Engine:
        """The engine, from the settings of what it has generated."""
        return Engine(
            settings["engine"], settings["dtype"], settings.get("engine_version"), settings.get("batch_invariant")
        )

    def describe(self) -> str:
        """The engine in words: `vllm 0.29.0 (batch-invariant), bfloat16`."""
        name = self.name if self.version is None else f"{self.name} {self.version}"
        return f"{name}{' (batch-invariant)' if self.batch_invariant else ''}, {self.dtype}"


@dataclass(frozen=True)
class EngineNode:
    """What one node provides for vLLM."""

    name: str
    """Name of the node, for messages."""
    vllm: str | None
    """Version of vLLM; None: not installed."""
    card: str | None
    """Type of GPU; None: the node's torch sees none."""
    capability: tuple[int, int] = (0, 0)
    """Lowest compute capability of its NVIDIA GPUs; (0, 0) for other GPUs."""


def engine_node() -> EngineNode:
    """Examine this machine, without importing vLLM."""
    import torch

    try:
        version: str | None = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        version = None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    least = min((torch.cuda.get_device_capability(i) for i in range(count)), default=(0, 0))
    card = torch.cuda.get_device_name(0) if count else None
    return EngineNode(os.uname().nodename, version, card, (0, 0) if torch.version.hip else least)


def possible_engines(config: EvaluationConfig, device: str | None) -> list[Engine]:
    """Variants of transformers that the configuration may refer to on this device.

    Args:
        device: cpu or gpu; None: unknown, so that all variants are returned.
    """
    asked = config.generation
    if asked.engine == VLLM:
        return []
    dtypes = [_DTYPES[device]] if device else list(dict.fromkeys(_DTYPES.values()))
    return [Engine(TRANSFORMERS, dtype) for dtype in (dtypes if asked.dtype == "auto" else [asked.dtype])]


def choose_engine(
    config: EvaluationConfig, source: ModelSource, placement: Placement, nodes: Sequence[EngineNode]
) -> Engine:
    """Resolve `evaluation.generation.engine`.

    `auto` means transformers even if vLLM is installed: the default engine must have been tested, and this package has
    not run vLLM on a GPU yet.

    Args:
        nodes: nodes that can hold a worker; needed only for vLLM.

    Raises:
        EvaluationError: vLLM is configured but cannot be used.
    """
    asked = config.generation
    dtype = _DTYPES[placement.device] if asked.dtype == "auto" else asked.dtype
    if asked.engine != VLLM:
        return Engine(TRANSFORMERS, dtype)
    if (obstacle := obstacle_to_vllm(config, source, placement, nodes)) is not None:
        raise EvaluationError(f"evaluation.generation.engine=vllm: {obstacle}")
    [version] = {node.vllm for node in nodes}
    return Engine(VLLM, dtype, version, all(node.capability >= _BATCH_INVARIANT_FROM for node in nodes))


def obstacle_to_vllm(
    config: EvaluationConfig, source: ModelSource, placement: Placement, nodes: Sequence[EngineNode]
) -> str | None:
    """Why vLLM cannot run this model on these nodes, and how to fix it; None if it can."""
    if placement.device != "gpu":
        return (
            "vLLM generates on GPUs, but the workers get none (resources.device, resources.evaluation), so nothing "
            "would be generated; give them GPUs, or set evaluation.generation.engine=transformers"
        )
    if not nodes:
        return f"no node that can hold a worker answers, so it is unknown whether any has vLLM; {_CURE}"
    if without := [node.name for node in nodes if node.vllm is None]:
        return f"the package vllm is not installed on {', '.join(without)}, which may host a worker; {_CURE}"
    if blind := [node.name for node in nodes if node.card is None]:
        return f"torch sees no GPU on {', '.join(blind)}, which may host a worker; fix its driver, or {_CURE}"
    versions = {node.vllm: node.name for node in nodes}
    if len(versions) > 1:
        told = ", ".join(f"{version} on {name}" for version, name in versions.items())
        return f"nodes have different versions of vLLM ({told}), whose text may differ; install the same one"
    if placement.gpus_per_worker != int(placement.gpus_per_worker):
        return (
            f"a worker gets {placement.gpus_per_worker:g} GPU (resources.evaluation.gpus_per_worker), but vLLM needs "
            "whole ones; set a whole number, or evaluation.generation.engine=transformers"
        )
    return _obstacle_of_model(source) or _obstacle_of_temperature(config)


def _obstacle_of_model(source: ModelSource) -> str | None:
    config: TargetConfig = source.config
    by_transformers = "set evaluation.generation.engine=transformers"
    if source.exported is None:
        if config.gguf_file is not None:
            return (
                f"{shown(config.model)} is loaded from {config.gguf_file}, which is not supported with vLLM; "
                f"{by_transformers}"
            )
        return None
    names = {entry.name for entry in source.exported.list()}
    if ADAPTER in names:
        return (
            f"{source.exported.uri} holds adapters, but vLLM is supported only with whole models; fine-tune with "
            f"target.lora.export=merged, or {by_transformers}"
        )
    if not source.exported.is_local and not source.exported.uri.startswith(("s3://", "gs://")):
        return f"vLLM's nodes cannot read {source.exported.uri}; {by_transformers}"
    if "?" in source.exported.uri:
        return f"{source.exported.uri} is read with special options, which vLLM's nodes do not have; {by_transformers}"
    return None


def _obstacle_of_temperature(config: EvaluationConfig) -> str | None:
    temperature = config.generation.temperature
    if temperature and not 0.01 <= temperature <= 2:
        return (
            f"evaluation.generation.temperature={temperature:g}, but vLLM samples only at 0.01 to 2; choose one of "
            "those, 0 for greedy decoding, or evaluation.generation.engine=transformers"
        )
    return None
