"""What the sections `proxy` and `target` have in common: a causal language model, its tokenizer and its training."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from s2l_ray.config.section import OptionalLocation, Section


class TrainTokenizerConfig(Section):
    vocab_size: int = Field(default=2048, ge=260)
    """Size of the byte-level BPE vocabulary trained on the corpus (tokens)."""
    max_examples: int = Field(default=200_000, ge=1)
    """The tokenizer is trained on at most this many examples, the first by example id."""


class TrainedModelConfig(Section):
    section: ClassVar[str]
    """Its name in the configuration, for messages."""

    model: OptionalLocation = None
    """Any Hugging Face causal language model: hub id (`EleutherAI/pythia-70m-deduped`) or local folder."""
    revision: str | None = None
    """Commit, tag or branch of the model on the hub."""
    gguf_file: str | None = None
    """Name of the GGUF file in the model's folder, if its weights come in that format."""
    from_config: dict[str, Any] | None = None
    """A model from scratch, instead of `model`: a `transformers` config (`model_type: llama`, `hidden_size: 64`, …)."""
    random_weights: bool = False
    """Take only the architecture of `model` and start from seeded random weights."""
    tokenizer: OptionalLocation = None
    """Hub id or folder of the tokenizer; default: the model's own."""
    train_tokenizer: TrainTokenizerConfig | None = None
    """Train a tokenizer on the corpus instead."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository ships. Off unless you trust that repository."""
    render: Literal["auto", "plain", "alpaca", "chat_template"] = "auto"
    """How messages become text: the tokenizer's chat template, the Alpaca prompt that S2L's authors used, or plain
    text. `auto`: alpaca for `instruction`, plain turns for chats, prompt_completion and template word for word."""
    max_length: int = Field(default=512, ge=8)
    """Longer examples are cut on the right (tokens)."""

    epochs: float = Field(default=3.0, gt=0)
    """Passes over the corpus."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps, instead of `epochs`."""
    global_batch_size: int = Field(default=128, ge=1)
    """Examples in one optimiser step over all workers, whatever their number."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate of AdamW."""
    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps with linearly rising learning rate; cosine decay to 0 afterwards."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay, on matrices only."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this global L2 norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on GPUs, fp32 on CPUs."""
    compile: bool = False
    """Compile the model with torch.compile (some minutes at the start; worth it for long runs)."""
    tokens_per_microbatch: int = Field(default=8192, ge=8)
    """A worker splits its share of a global batch into micro-batches of at most this many padded tokens."""
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints, beside those at every snapshot; None: at snapshots only."""
    log_every_steps: int = Field(default=10, ge=1)
    """Steps between lines in metrics.jsonl."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of weights and data order; None: the run's seed."""

    @model_validator(mode="after")
    def _consistent(self) -> Any:
        here = self.section
        if (self.model is None) == (self.from_config is None):
            raise ValueError(
                f"{here} needs exactly one of {here}.model (a hub id or folder) and {here}.from_config (from scratch); "
                f"given: model={self.model!r}, from_config={'set' if self.from_config else None}"
            )
        if self.from_config is not None and "model_type" not in self.from_config:
            raise ValueError(f"{here}.from_config needs model_type (for example llama, gpt_neox, gpt2)")
        if self.from_config is not None and not (self.tokenizer or self.train_tokenizer):
            raise ValueError(f"{here} from scratch has no tokenizer: set {here}.tokenizer or {here}.train_tokenizer")
        if self.tokenizer and self.train_tokenizer:
            raise ValueError(f"{here}.tokenizer and {here}.train_tokenizer exclude each other; remove one")
        if self.train_tokenizer and self.model and not self.random_weights:
            raise ValueError(
                f"{here}.train_tokenizer with pretrained weights would pair every embedding with a foreign token; "
                f"remove it, or set {here}.random_weights=true"
            )
        if self.from_config is not None and (self.revision or self.gguf_file):
            raise ValueError(
                f"{here}.revision={self.revision!r} and {here}.gguf_file={self.gguf_file!r} belong to {here}.model and "
                f"would do nothing with {here}.from_config; remove them"
            )
        positions = (self.from_config or {}).get("max_position_embeddings")
        if isinstance(positions, int) and positions < self.max_length:
            raise ValueError(
                f"{here}.max_length={self.max_length} is beyond {here}.from_config.max_position_embeddings={positions}"
                ", longer examples would fail; lower the one or raise the other"
            )
        if self.train_tokenizer and self.render == "chat_template":
            raise ValueError(
                f"{here}.render=chat_template with {here}.train_tokenizer: a new tokenizer has no chat template; "
                "choose render=plain or alpaca, or a tokenizer with a template"
            )
        if self.tokens_per_microbatch < self.max_length:
            raise ValueError(
                f"{here}.tokens_per_microbatch={self.tokens_per_microbatch} is less than one example of "
                f"{here}.max_length={self.max_length} tokens; raise the one or lower the other"
            )
        return self
