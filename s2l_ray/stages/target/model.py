"""Builds the target as an engine: loaded or from scratch, with adapters if configured, whole (PyTorch) or sharded
(DeepSpeed)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from s2l_ray.lm.adapters import add_adapters
from s2l_ray.lm.engine import Engine
from s2l_ray.lm.flops import ModelShape, num_elements
from s2l_ray.lm.load import load_model
from s2l_ray.lm.whole import WholeEngine
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.stages.target.job import TargetJob


@dataclass(frozen=True)
class TargetModel:
    engine: Engine
    model: Any
    """The causal LM including adapters; its weights already have the precision, so nothing is autocast."""
    is_adapted: bool
    shape: ModelShape
    num_parameters: int
    num_trained_parameters: int


def build_target(job: TargetJob, worker: WorkerContext) -> TargetModel:
    """Build the target; every worker must call this.

    Raises:
        ModelError: the model cannot be loaded, or does not match the tokenizer.
    """
    if job.zero_stage == 0:
        model = _prepared(job, torch.float32)
        engine: Engine = WholeEngine(model, job.target, worker.device, worker.num_workers, bf16=job.precision == "bf16")
    else:
        from s2l_ray.lm.zero import ZeroEngine, sharded_build

        assert job.zero_config is not None
        # Elastic training may have started with fewer workers than requested.
        zero_config = job.zero_config | {"train_batch_size": worker.num_workers}
        dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
        is_random = job.target.from_config is not None or job.target.random_weights
        with sharded_build(zero_config, job.num_parameters if is_random else None):
            model = _prepared(job, dtype)
        engine = ZeroEngine(model, job.target, worker.device, worker.num_workers, zero_config)
    parameters = list(model.parameters())
    return TargetModel(
        engine, model, job.target.lora is not None, ModelShape.of(model), sum(map(num_elements, parameters)),
        sum(num_elements(p) for p in parameters if p.requires_grad),
    )  # fmt: skip


def _prepared(job: TargetJob, dtype: torch.dtype) -> Any:
    """The model, ready to be passed to an engine."""
    target = job.target
    attention = None if target.attention == "auto" else target.attention
    model = load_model(target, job.tokenizer, job.seed, dtype, attention)
    if target.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if target.lora is not None:
        add_adapters(model, target.lora, job.seed)
    return model
