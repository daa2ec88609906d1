"""What the sections `proxy` and `target` have in common: a causal language model, its tokenizer and its training."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from s2l_ray.config.section import OptionalLocation, Section, bounded
from s2l_ray.errors import shown

_COUNTS = re.compile(r"layer|block|expert|head|group|depth|stage", re.IGNORECASE)
"""Names of fields that count a model's parts."""
_MAX_PARTS, _MAX_SIZE = 10_000, 10**9


def impossible_sizes(fields: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Yield values in a `transformers` config that would exhaust this machine's memory as soon as it is read."""
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                yield from impossible_sizes(one, f"{at}.{name}")
            # Sizes are whole numbers; values such as a base frequency or an epsilon are not limited.
            elif isinstance(one, int) and abs(one) > (_MAX_PARTS if _COUNTS.search(name) else _MAX_SIZE):
                limit = _MAX_PARTS if _COUNTS.search(name) else _MAX_SIZE
                yield f"{at}.{name}={one} is above the limit of {limit:,} (no model is that large); lower it"
                break


RENDER_FIELDS = ("render", "turns", "template_date", "template_arguments", "end_of_turn")
"""Fields that determine how a conversation becomes text."""


class TrainTokenizerConfig(Section):
    vocab_size: int = bounded(2048, 1_000_000, "no model has a vocabulary that large", ge=260)
    """Size of the byte-level BPE vocabulary trained on the corpus (tokens)."""
    max_examples: int = bounded(200_000, 10**8, "the texts are held in one process's memory", ge=1)
    """The tokenizer is trained on at most this many examples, the first by example id."""


class TrainedModelConfig(Section):
    section: ClassVar[str]
    """Name of the section, for messages."""

    model: OptionalLocation = None
    """Any Hugging Face causal language model: hub id (`EleutherAI/pythia-70m-deduped`) or local folder."""
    revision: str | None = None
    """Commit, tag or branch of the model on the hub."""
    gguf_file: str | None = None
    """Name of the GGUF file in the model's folder, if its weights come in that format."""
    from_config: dict[str, Any] | None = None
    """A `transformers` config for a model trained from scratch, instead of `model` (`model_type: llama`,
    `hidden_size: 64`, …)."""
    random_weights: bool = False
    """Use only the architecture of `model` and start from seeded random weights."""
    tokenizer: OptionalLocation = None
    """Hub id or folder of the tokenizer; default: the model's own."""
    train_tokenizer: TrainTokenizerConfig | None = None
    """Train a tokenizer on the corpus instead."""
    trust_remote_code: bool = False
    """Run Python code from the model's repository. Enable it only if you trust that repository."""
    render: Literal["auto", "plain", "alpaca", "chat_template"] = "auto"
    """How messages become text: the tokenizer's chat template, the Alpaca prompt used by S2L's authors, or plain text.
    `auto`: alpaca for `instruction`, plain turns for chats, prompt_completion and template unchanged."""
    turns: Literal["all", "last"] = "all"
    """Which assistant turns of a chat to train on: all, or only the last. If a chat template renders a turn differently
    once others follow (the Qwen3 family drops its reasoning), each turn becomes a separate sequence."""
    template_date: datetime.date = datetime.date(2025, 1, 1)
    """Date passed to chat templates that ask for today's (Llama 3, gpt-oss), so that a run always gives the same
    tokens."""
    template_arguments: dict[str, Any] = Field(default={})
    """Extra variables for the chat template, such as `enable_thinking: false`."""
    end_of_turn: str | None = None
    """Token that ends a response if the chat template adds no end token (GLM-4.5: `<|user|>`)."""
    max_length: int = bounded(512, 2**24, "no model reads examples that long", ge=8)
    """Longer examples are truncated on the right (tokens)."""

    epochs: float = bounded(3.0, 100_000, "no training makes that many passes over its data", gt=0)
    """Passes over the corpus."""
    max_steps: int | None = bounded(None, 10**9, "no training has that many steps", ge=1)
    """Optimiser steps, instead of `epochs`."""
    global_batch_size: int = bounded(128, 10**7, "a step over that many examples would never finish", ge=1)
    """Examples per optimiser step, over all workers together."""
    learning_rate: float = bounded(2e-5, 10**7, "the first step would make the weights infinite", gt=0)
    """Peak learning rate of AdamW."""
    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps with linear learning-rate warm-up; followed by cosine decay to 0."""
    weight_decay: float = bounded(0.0, 1000, "the weights would shrink to zero immediately", ge=0)
    """AdamW's decoupled weight decay, on matrices only."""
    max_grad_norm: float = bounded(1.0, 10**12, "nothing would be clipped", gt=0)
    """Gradients are clipped to this global L2 norm."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on GPUs that support it, and for models of hidden size 512 or more on CPUs with bf16 matrix units
    (`amx_bf16`); otherwise fp32. Kept with the run, wherever it is resumed. (The proxy uses autocast; a target has bf16
    weights, with fp32 copies in the optimiser.)"""
    compile: bool = False
    """Compile layers and head with torch.compile: takes seconds at the start, then runs 1.1 to 2.2 times as fast on an
    H100. Needs a C compiler on the nodes."""
    tokens_per_microbatch: int = bounded(8192, 2**24, "a larger batch does not fit in any device's memory", ge=8)
    """Each worker splits its share of a global batch into micro-batches of at most this many tokens; use 65,536 for
    small models on GPUs."""
    checkpoint_every_steps: int | None = bounded(None, 10**9, "no training has that many steps", ge=1)
    """Steps between checkpoints, in addition to those at every snapshot; None: only at snapshots."""
    log_every_steps: int = bounded(10, 10**9, "no training has that many steps", ge=1)
    """Steps between lines in metrics.jsonl."""
    seed: int | None = bounded(None, 2**32 - 1, "the largest seed that all libraries accept, 32 bits", ge=0)
    """Seed of weights and data order; None: the run's seed."""

    def contradictions(self) -> Iterator[str]:
        here = self.section
        if (self.model is None) == (self.from_config is None):
            yield (
                f"{here} needs exactly one of {here}.model (a hub id or folder) and {here}.from_config (from scratch); "
                f"given: model={self.model!r}, from_config={'set' if self.from_config is not None else None}"
            )
        kind = (self.from_config or {}).get("model_type")
        if self.from_config is not None and not (isinstance(kind, str) and kind):
            yield f"{here}.from_config needs model_type (for example llama, gpt_neox, gpt2), got {shown(kind)}"
        if self.from_config is not None and not (self.tokenizer or self.train_tokenizer):
            yield (f"{here} from scratch has no tokenizer: set {here}.tokenizer or {here}.train_tokenizer")
        if self.tokenizer and self.train_tokenizer:
            yield (f"{here}.tokenizer and {here}.train_tokenizer exclude each other; remove one")
        if self.train_tokenizer and self.model and not self.random_weights:
            yield (
                f"{here}.train_tokenizer with pretrained weights would assign every embedding to the wrong token; "
                f"remove it, or set {here}.random_weights=true"
            )
        if self.from_config is not None and (self.revision or self.gguf_file):
            yield (
                f"{here}.revision={self.revision!r} and {here}.gguf_file={self.gguf_file!r} apply to {here}.model and "
                f"would do nothing with {here}.from_config; remove them"
            )
        yield from (f"{here}.from_config{fault}" for fault in impossible_sizes(self.from_config or {}))
        positions = (self.from_config or {}).get("max_position_embeddings")
        if isinstance(positions, int) and positions < self.max_length:
            yield (
                f"{here}.max_length={self.max_length} exceeds {here}.from_config.max_position_embeddings={positions}, "
                "so longer examples would fail; lower the former or raise the latter"
            )
        if self.train_tokenizer and self.render == "chat_template":
            yield (
                f"{here}.render=chat_template with {here}.train_tokenizer: a new tokenizer has no chat template; "
                "choose render=plain or alpaca, or a tokenizer with a template"
            )
        for name in ("template_arguments", "end_of_turn"):
            if getattr(self, name) and self.render != "chat_template":
                yield f"{here}.{name} would do nothing without a chat template; set {here}.render=chat_template"
        if self.tokens_per_microbatch < self.max_length:
            yield (
                f"{here}.tokens_per_microbatch={self.tokens_per_microbatch} is less than one example of "
                f"{here}.max_length={self.max_length} tokens; raise the one or lower the other"
            )
