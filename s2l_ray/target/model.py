"""The target as an engine: loaded or built, with adapters if asked for, whole (PyTorch) or sharded (DeepSpeed)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from s2l_ray.cluster.training import Host
from s2l_ray.config.target import LoraConfig
from s2l_ray.errors import shown
from s2l_ray.lm.checks import foreign_refused
from s2l_ray.lm.engine import Engine
from s2l_ray.lm.flops import ModelShape, num_elements
from s2l_ray.lm.load import load_model
from s2l_ray.target.job import TargetJob
from s2l_ray.target.whole import WholeEngine


@dataclass(frozen=True)
class TargetModel:
    engine: Engine
    model: Any
    """The causal LM, adapters inside; its weights have the precision, so nothing is autocast."""
    is_adapted: bool
    shape: ModelShape
    num_parameters: int
    num_trained_parameters: int


def build_target(job: TargetJob, host: Host) -> TargetModel:
    """Every worker calls it.

    Raises:
        ModelError: the model cannot be loaded, or does not fit the tokenizer.
    """
    if job.zero_stage == 0:
        model = _prepared(job, torch.float32)
        engine: Engine = WholeEngine(model, job.target, host.device, host.num_workers, bf16=job.precision == "bf16")
    else:
        from s2l_ray.target.zero import ZeroEngine, sharded_build

        assert job.zero_config is not None
        # Elastic training may have started with fewer workers than were asked for.
        zero_config = job.zero_config | {"train_batch_size": host.num_workers}
        dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
        is_random = job.target.from_config is not None or job.target.random_weights
        with sharded_build(zero_config, job.num_parameters if is_random else None):
            model = _prepared(job, dtype)
        engine = ZeroEngine(model, job.target, host.device, host.num_workers, zero_config)
    parameters = list(model.parameters())
    return TargetModel(
        engine, model, job.target.lora is not None, ModelShape.of(model), sum(map(num_elements, parameters)),
        sum(num_elements(p) for p in parameters if p.requires_grad),
    )  # fmt: skip


def _prepared(job: TargetJob, dtype: torch.dtype) -> Any:
    """The model before it is handed to an engine."""
    target = job.target
    attention = None if target.attention == "auto" else target.attention
    model = load_model(target, job.tokenizer, job.seed, dtype, attention)
    if target.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if target.lora is not None:
        add_adapters(model, target.lora, job.seed)
    return model


def add_adapters(model: Any, lora: LoraConfig, seed: int) -> Any:
    """Put adapters into the model, in place, and freeze the rest; gives peft's wrapper of it.

    Their random weights are a function of the seed alone.

    Raises:
        ModelError: the model has no such layers.
    """
    import peft

    settings = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules,
        bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        told = f"target.lora.target_modules={shown(lora.target_modules)} cannot be had"
        with foreign_refused(told, "Name linear layers that the model has, or take all-linear"):
            return peft.get_peft_model(model, settings)
