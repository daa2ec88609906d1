"""Add adapters (LoRA, https://arxiv.org/abs/2106.09685) to a model, with peft."""

from __future__ import annotations

from typing import Any

import torch

from s2l_ray.config.target import LoraConfig
from s2l_ray.errors import shown
from s2l_ray.lm.checks import foreign_refused


def add_adapters(
    model: Any,
    lora: LoraConfig,
    seed: int,
    what: str | None = None,
    cure: str = "Name linear layers that the model has, or use all-linear",
) -> Any:
    """Add adapters to the model in place, freeze the rest, and return peft's wrapper of the model.

    The adapters' random weights are a function of the seed only.

    Args:
        what: the setting that requests adapters, for messages; None: target.lora.target_modules.
        cure: the remedy in messages.

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
        what = what or f"target.lora.target_modules={shown(lora.target_modules)}"
        with foreign_refused(f"{what} cannot be used", cure):
            return peft.get_peft_model(model, settings)
