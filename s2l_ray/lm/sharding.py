"""Choose the ZeRO stage: the configured one, or the lowest that fits into the workers' memory; refuse if none fits."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from typing import Any

from s2l_ray.config.target import TargetConfig
from s2l_ray.errors import UserError
from s2l_ray.lm.memory import MemoryEstimate, ModelSizes, estimate_memory
from s2l_ray.lm.zero_config import Precision, make_zero_config

_ROOM = 0.9
"""Share of the memory that an estimate may fill before the next stage is used."""
_ERROR = 1.25
"""Accuracy of estimates: what exceeds the memory by more than a quarter is refused, not tried."""


class InsufficientMemoryError(UserError):
    """Error for a target that needs more memory than the workers have; the message has figures and remedies."""


@dataclass(frozen=True)
class WorkerMemory:
    """Memory available to one worker; None: not known."""

    device_bytes: float | None
    host_bytes: float | None


@dataclass(frozen=True)
class Sharding:
    """Chosen ZeRO stage, with its configuration and memory estimate."""

    stage: int
    config: dict[str, Any] | None
    """DeepSpeed's configuration; None: plain PyTorch."""
    estimate: MemoryEstimate
    num_parameters: int
    warnings: list[str] = field(default_factory=list)

    def describe(self) -> str:
        how = f"ZeRO-{self.stage}" if self.stage else "PyTorch"
        return f"{how}, about {self.estimate.describe()}"

    def environment(self, device: str) -> dict[str, str]:
        """Environment variables for the worker processes."""
        return {"DS_ACCELERATOR": "cpu"} if self.stage and device == "cpu" else {}


def choose_sharding(
    sizes: ModelSizes, target: TargetConfig, num_workers: int, precision: Precision, on_gpu: bool, memory: WorkerMemory
) -> Sharding:
    """Resolve `target.zero_stage`.

    Raises:
        InsufficientMemoryError: no stage fits, or the configured one does not.
        ZeroConfigError: the user's own DeepSpeed configuration contradicts the section `target`.
    """
    asked = target.zero_stage
    stages = _possible_stages(target) if asked == "auto" else [asked]
    found = {s: estimate_memory(sizes, target, s, num_workers, precision, on_gpu) for s in stages}
    stage = next((s for s in stages if _share(found[s], memory) <= _ROOM), None)
    if stage is None:
        stage = min(stages, key=lambda s: _share(found[s], memory))
    share = _share(found[stage], memory)
    if share > _ERROR:
        cures = _cures(sizes, target, stage, num_workers, precision, on_gpu, memory)
        raise InsufficientMemoryError(_refusal(stage, num_workers, found[stage], memory, cures))
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
    """Return the share of the memory used, on the device or the host, whichever is fuller."""
    device = estimate.device_bytes / memory.device_bytes if memory.device_bytes else 0.0
    host = estimate.host_bytes / memory.host_bytes if memory.host_bytes else 0.0
    return max(device, host)


def _refusal(stage: int, num_workers: int, estimate: MemoryEstimate, memory: WorkerMemory, cures: list[str]) -> str:
    has = " and ".join(
        f"{size / 1e9:.1f} GB {where}"
        for size, where in ((memory.device_bytes, "of its own"), (memory.host_bytes, "of its node's memory"))
        if size
    )
    how = f"ZeRO-{stage}" if stage else "plain PyTorch"
    return (
        f"the target needs about {estimate.describe()} with {how} on {num_workers} workers, but a worker has {has}, so "
        f"training would run out of memory. What would help: {', or '.join([*cures, 'workers with more memory'])}"
    )


def _cures(
    sizes: ModelSizes, target: TargetConfig, stage: int, num_workers: int, precision: Precision, on_gpu: bool,
    memory: WorkerMemory,
) -> list[str]:  # fmt: skip
    """Return single settings with which a worker would need clearly less memory, and how full it would then be."""

    def share(stage: int = stage, workers: int = num_workers, sizes: ModelSizes = sizes, **changes: Any) -> float:
        changed = target.model_copy(update=changes)
        return _share(estimate_memory(sizes, changed, stage, workers, precision, on_gpu), memory)

    now, offload = share(), "cpu" if on_gpu else "nvme"  # on CPUs a worker's memory is its node's
    install = "" if importlib.util.find_spec("deepspeed") else ', with pip install "s2l_ray[target]"'
    found = {f"target.zero_stage={s}{install}": share(stage=s) for s in range(stage + 1, 4)}
    if stage:
        found[f"resources.target.workers={2 * num_workers} on more devices"] = share(workers=2 * num_workers)
        if target.offload_optimizer == "none":
            found[f"target.offload_optimizer={offload}"] = share(offload_optimizer=offload)
        if target.offload_parameters == "none" and stage == 3:
            found[f"target.offload_parameters={offload}"] = share(offload_parameters=offload)
    found["target.gradient_checkpointing=true"] = share(gradient_checkpointing=True)
    found[f"target.tokens_per_microbatch={target.max_length}"] = share(tokens_per_microbatch=target.max_length)
    if target.lora is None:
        found["target.lora.rank=16"] = share(sizes=replace(sizes, num_trained=sizes.num_trained // 100))
    return [f"{name} (then {s:.0%} full)" for name, s in found.items() if s < 0.95 * now]
