"""Which ZeRO stage: the one asked for, or the lowest that fits into the workers' memory. Refused when none can fit."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

from s2l_ray.config.target import TargetConfig
from s2l_ray.target.memory import MemoryEstimate, ModelSizes, estimate_memory
from s2l_ray.target.zero_config import Precision, make_zero_config

_ROOM = 0.9
"""Share of the memory that an estimate may fill before the next stage is taken."""
_ERROR = 1.25
"""Estimates are good to a quarter: what is beyond memory by more than that is refused, not tried."""


class DoesNotFit(ValueError):
    """The target needs more memory than the workers have; says the numbers and what would help."""


@dataclass(frozen=True)
class WorkerMemory:
    """What one worker can have; None: not known."""

    device_bytes: float | None
    host_bytes: float | None


@dataclass(frozen=True)
class Sharding:
    stage: int
    config: dict[str, Any] | None
    """DeepSpeed's; None without it."""
    estimate: MemoryEstimate
    num_parameters: int
    warnings: list[str] = field(default_factory=list)

    def describe(self) -> str:
        how = f"ZeRO-{self.stage}" if self.stage else "PyTorch"
        return f"{how}, about {self.estimate.describe()}"

    def environment(self, device: str) -> dict[str, str]:
        """Of the worker processes."""
        return {"DS_ACCELERATOR": "cpu"} if self.stage and device == "cpu" else {}


def choose_sharding(
    sizes: ModelSizes, target: TargetConfig, num_workers: int, precision: Precision, on_gpu: bool, memory: WorkerMemory
) -> Sharding:
    """Resolve `target.zero_stage`.

    Raises:
        DoesNotFit: no stage, or not the one asked for, fits.
        ZeroConfigError: DeepSpeed is not installed, or the user's own configuration contradicts.
    """
    asked = target.zero_stage
    stages = _possible_stages(target) if asked == "auto" else [asked]
    found = {s: estimate_memory(sizes, target, s, num_workers, precision, on_gpu) for s in stages}
    stage = next((s for s in stages if _share(found[s], memory) <= _ROOM), None)
    if stage is None:
        stage = min(stages, key=lambda s: _share(found[s], memory))
    share = _share(found[stage], memory)
    if share > _ERROR:
        raise DoesNotFit(_refusal(target, stage, num_workers, found[stage], memory))
    warnings = []
    if share > _ROOM:
        warnings.append(f"memory will be tight: about {found[stage].describe()}, {share:.0%} of what a worker has")
    config = make_zero_config(target, stage, precision, num_workers, target.max_grad_norm) if stage else None
    return Sharding(stage, config, found[stage], sizes.num_parameters, warnings)


def _possible_stages(target: TargetConfig) -> list[int]:
    if target.offload_parameters != "none":
        return [3]
    if target.offload_optimizer != "none" or target.deepspeed_config is not None:
        return [1, 2, 3]
    return [0, 1, 2, 3] if importlib.util.find_spec("deepspeed") else [0]


def _share(estimate: MemoryEstimate, memory: WorkerMemory) -> float:
    """Of the fuller one of the two memories."""
    device = estimate.device_bytes / memory.device_bytes if memory.device_bytes else 0.0
    host = estimate.host_bytes / memory.host_bytes if memory.host_bytes else 0.0
    return max(device, host)


def _refusal(target: TargetConfig, stage: int, num_workers: int, estimate: MemoryEstimate, memory: WorkerMemory) -> str:
    cures = []
    if stage < 3:
        without = "" if importlib.util.find_spec("deepspeed") else ' (pip install "s2l_ray[target]")'
        cures.append(f"target.zero_stage={stage + 1} or more{without}")
    elif target.offload_optimizer == "none":
        cures.append("target.offload_optimizer=cpu")
    elif target.offload_parameters == "none":
        cures.append("target.offload_parameters=cpu (or nvme)")
    if not target.gradient_checkpointing:
        cures.append("target.gradient_checkpointing=true")
    cures.append(f"target.tokens_per_microbatch below {target.tokens_per_microbatch}")
    cures.append(f"resources.target.workers above {num_workers}" if stage else "more memory")
    if target.lora is None:
        cures.append("target.lora.rank=16")
    has = " and ".join(
        f"{size / 1e9:.1f} GB {where}"
        for size, where in ((memory.device_bytes, "for itself"), (memory.host_bytes, "of its node's"))
        if size
    )
    how = f"ZeRO-{stage}" if stage else "PyTorch alone"
    return (
        f"the target needs about {estimate.describe()} with {how} on {num_workers} workers; a worker has {has}, so "
        f"training would end out of memory. What would help: {', or '.join(cures)}"
    )
