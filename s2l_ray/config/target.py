"""The section `target`: the model that is fine-tuned on the subset, and how DeepSpeed shards it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.config.section import OptionalLocation, Section, bounded, refuse_repeated

Offload = Literal["none", "cpu", "nvme"]


class LoraConfig(Section):
    rank: int = bounded(16, 65_536, "no layer is that wide", ge=1)
    """Rank of the adapters."""
    alpha: int = bounded(32, 10**6, "the adapters would overwhelm the model", ge=1)
    """Scale: adapters are multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate before the adapters."""
    target_modules: str | list[str] = Field(default="all-linear")
    """Which layers get adapters: `all-linear` (all but the head), or names."""
    export: Literal["merged", "adapter"] = "merged"
    """`merged`: a complete model that loads without peft; `adapter`: only the adapters."""

    @field_validator("target_modules")
    @classmethod
    def _not_the_head(cls, names: str | list[str]) -> str | list[str]:
        heads = {"lm_head", "embed_out", "output"} & set([names] if isinstance(names, str) else names)
        if heads:
            raise ValueError(
                f"target_modules names the language-model head ({', '.join(heads)}), whose adapter the chunked loss "
                "would ignore; leave it out"
            )
        return names


class TargetConfig(TrainedModelConfig):
    section: ClassVar[str] = "target"

    subsets: list[str] = Field(default=[])
    """What to fine-tune on, one target each: `<selector>-<budget>` of the selection (`s2l-0.11`), or `full`.
    Empty: the first selector at the first budget."""
    length: Literal["epochs", "same_steps"] = "epochs"
    """What `epochs` counts: passes over the subset or, with `same_steps`, the number of optimiser steps that as many
    passes over the full data would take. The paper uses both; compare selectors at the same number of steps."""
    max_tokens: int | None = bounded(None, 10**15, "no corpus has that many tokens", ge=1)
    """Number of tokens to train on, instead of `epochs` (rounded to whole steps)."""

    zero_stage: Literal["auto", 0, 1, 2, 3] = "auto"
    """DeepSpeed ZeRO stage: 1 shards the optimiser states, 2 also the gradients, 3 also the parameters; 0 is plain
    PyTorch (DDP), without DeepSpeed. `auto`: the lowest stage that fits in the workers' memory."""
    offload_optimizer: Offload = "none"
    """Where ZeRO keeps optimiser states and fp32 weights: on the device, in CPU memory, or on NVMe."""
    offload_parameters: Offload = "none"
    """Where ZeRO-3 keeps its share of the parameters."""
    nvme_path: str | None = None
    """Folder on each node's NVMe, for offload to NVMe."""
    deepspeed_config: OptionalLocation = None
    """Your own DeepSpeed JSON file. Its keys are merged with those generated from this section; values set in both
    (batch sizes, optimiser, schedule, clipping, precision, ZeRO stage, offload) must agree."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: a third more compute, a fraction of the memory."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention kernel; `auto`: PyTorch's fused kernel (sdpa) if the model supports it."""
    lora: LoraConfig | None = None
    """Train low-rank adapters (peft) instead of all weights."""

    checkpoints_to_keep: int = bounded(2, 10_000, "that many checkpoints would fill the storage", ge=1)
    """Number of newest checkpoints to keep during training; `checkpoint_every_steps: None` writes about five in
    total."""
    evaluate_every_steps: int | None = bounded(None, 10**9, "no training has that many steps", ge=1)
    """Steps between evaluations on the held-out sets during training, for the curve, `keep_best`, `patience` and
    `sweep.asha`; None: none. Every target is evaluated before and after training in any case."""
    keep_best: bool = False
    """Export the weights with the lowest held-out loss (mean over sources) instead of the last ones."""
    patience: int | None = bounded(None, 10**6, "no training is evaluated that often", ge=1)
    """Stop after this many evaluations in a row without a lower held-out loss."""
    max_shard_size: str = Field(default="5GB", pattern=r"^[0-9]{1,6}(\.[0-9]+)?(KB|MB|GB|TB)$")
    """Size of the safetensors files of the exported model."""

    @field_validator("subsets")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        refuse_repeated("target.subsets", names)
        return names

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.max_steps is not None and self.max_tokens is not None:
            yield (
                f"target.max_steps={self.max_steps} and target.max_tokens={self.max_tokens} both say how long to "
                "train; remove one"
            )
        if self.length == "same_steps" and (self.max_steps or self.max_tokens):
            limit = "max_steps" if self.max_steps else "max_tokens"
            yield (
                f"target.length=same_steps uses the number of steps of the full data, but target.{limit}="
                f"{getattr(self, limit)} sets it directly; set target.length=epochs, or remove target.{limit}"
            )
        if self.lora is not None and self.lora.export == "adapter" and (self.from_config or self.random_weights):
            yield (
                "target.lora.export=adapter saves only the adapters, and the random weights they need would be lost; "
                "set target.lora.export=merged, or start from target.model's own weights"
            )
        offloads = {self.offload_optimizer, self.offload_parameters} - {"none"}
        if offloads and self.zero_stage == 0:
            yield (
                f"target offload to {', '.join(sorted(offloads))} needs DeepSpeed, which zero_stage=0 does not use; "
                "set target.zero_stage to 1, 2 or 3, or leave offload out"
            )
        if self.offload_parameters != "none" and self.zero_stage in (1, 2):
            yield (
                f"target.offload_parameters={self.offload_parameters} needs sharded parameters, but "
                f"target.zero_stage={self.zero_stage} does not shard them; set target.zero_stage=3"
            )
        if "nvme" in offloads and self.nvme_path is None:
            yield ("offload to nvme needs target.nvme_path, a folder on each node's NVMe")
        needs_evaluations = [n for n in ("keep_best", "patience") if getattr(self, n)]
        if needs_evaluations and self.evaluate_every_steps is None:
            yield (
                f"target.{needs_evaluations[0]} would have no effect: the held-out loss is not measured during "
                "training; set target.evaluate_every_steps"
            )
        if self.deepspeed_config is not None and self.zero_stage == 0:
            yield ("target.deepspeed_config would do nothing with target.zero_stage=0; remove one")
