"""Generate completions from prompt ids: left-padded batches, greedy or seeded. Plain torch and transformers.

In fp32 on a CPU, a completion depends only on weights and prompt; in bf16, it also depends on the batch. Therefore
batches depend only on the prompts, in a fixed order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Finish = Literal["eos", "length"]


@dataclass(frozen=True)
class Decoding:
    """Settings that determine how tokens are chosen, and when generation stops."""

    max_new_tokens: int
    end_ids: tuple[int, ...]
    """Tokens that end a completion."""
    pad_id: int
    """Token that pads prompts on the left, to which nothing attends."""
    tokens_per_batch: int = 16_384
    """Tokens of a batch, including padded prompts and completions."""
    temperature: float = 0.0
    """0: greedy."""


@dataclass(frozen=True)
class Generated:
    """One completion."""

    ids: tuple[int, ...]
    """New tokens, without the end token."""
    finish: Finish

    @property
    def num_new_tokens(self) -> int:
        """Number of generated tokens, including the end token."""
        return len(self.ids) + (self.finish == "eos")


def plan_batches(lengths: Sequence[int], max_new_tokens: int, tokens_per_batch: int) -> list[list[int]]:
    """Plan the rows of each batch: longest prompt first, ties in the given order, as many as fit the budget.

    Args:
        lengths: tokens of each prompt.
        tokens_per_batch: tokens of padded prompts with all their new tokens; a longer row is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    while order:
        rows = max(1, tokens_per_batch // (lengths[order[0]] + max_new_tokens))
        batches.append(order[:rows])
        order = order[rows:]
    return batches


class Generator:
    """Generates completions with one model.

    Memory: the model, the cache of one batch (`cache_bytes_per_token` times its tokens), and the logits of a batch's
    last tokens.
    """

    def __init__(self, model: Any, decoding: Decoding, device: torch.device) -> None:
        self.model, self.decoding, self.device = model.eval(), decoding, device
        self.num_halved = 0
        """Number of batches so far that did not fit into memory and were generated in halves."""
        # Otherwise, settings in the model's folder (penalties, forced tokens, a temperature) would apply.
        model.generation_config = self._configuration(decoding)

    @staticmethod
    def _configuration(decoding: Decoding) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(
            max_new_tokens=decoding.max_new_tokens, do_sample=False, num_beams=1, use_cache=True,
            eos_token_id=list(decoding.end_ids), pad_token_id=decoding.pad_id,
        )  # fmt: skip

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[bytes] | None = None,
        on_done: Callable[[int], None] = lambda rows: None,
    ) -> list[Generated]:
        """Generate one completion for each prompt, in the order of the prompts.

        Args:
            prompts: token ids, none of them empty.
            seeds: seed of each row, if the temperature is above 0.
            on_done: called with the number of rows of every finished batch.

        Raises:
            torch.OutOfMemoryError: even half a batch does not fit into the device's memory.
        """
        done: dict[int, Generated] = {}
        lengths = [len(prompt) for prompt in prompts]
        for rows in plan_batches(lengths, self.decoding.max_new_tokens, self.decoding.tokens_per_batch):
            for half in self._halves_if_need_be(rows, prompts, seeds):
                done |= half
            on_done(len(rows))
        return [done[i] for i in range(len(prompts))]

    def _halves_if_need_be(
        self, rows: list[int], prompts: Sequence[Sequence[int]], seeds: Sequence[bytes] | None
    ) -> Iterator[dict[int, Generated]]:
        try:
            yield self._batch(rows, prompts, seeds)
            return
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.num_halved += 1
        middle = -(-len(rows) // 2)
        yield self._batch(rows[:middle], prompts, seeds)
        yield self._batch(rows[middle:], prompts, seeds)

    @torch.inference_mode()
    def _batch(
        self, rows: list[int], prompts: Sequence[Sequence[int]], seeds: Sequence[bytes] | None
    ) -> dict[int, Generated]:
        ids, mask = left_padded([prompts[i] for i in rows], self.decoding.pad_id)  # (B, L)
        noise = None
        if self.decoding.temperature > 0:
            assert seeds is not None
            noise = [SeededNoise([seeds[i] for i in rows], self.decoding.temperature)]
        out = self.model.generate(
            input_ids=ids.to(self.device), attention_mask=mask.to(self.device), logits_processor=noise,
        )  # fmt: skip
        new = out[:, ids.shape[1] :].tolist()
        return {row: self._cut(tokens) for row, tokens in zip(rows, new, strict=True)}

    def _cut(self, tokens: list[int]) -> Generated:
        """Cut a row at its end token; rows are padded until the last of their batch has ended."""
        end = next((i for i, token in enumerate(tokens) if token in self.decoding.end_ids), None)
        return Generated(tuple(tokens), "length") if end is None else Generated(tuple(tokens[:end]), "eos")


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad prompts on the left, since decoding continues from the last column → ids and mask, both (B, L) int64."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(prompts), longest), dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.int64)
        mask[i, longest - len(prompt) :] = 1
    return ids, mask


class SeededNoise:
    """Logits processor with which greedy decoding samples from the softmax at a temperature, by the Gumbel-max trick.

    The largest of logits / temperature + Gumbel noise is such a sample (Gumbel 1954; Maddison et al. 2014,
    https://arxiv.org/abs/1411.0030). Each row has its own random numbers, so that the completion of a question does not
    depend on its batch.
    """

    def __init__(self, seeds: Sequence[bytes], temperature: float) -> None:
        self.temperature = temperature
        self._rows = [np.random.Generator(np.random.Philox(int.from_bytes(seed[:16], "big"))) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Add noise to scores (B, V) → (B, V) float32."""
        noise = np.stack([row.gumbel(size=scores.shape[1]).astype(np.float32) for row in self._rows])
        return scores.float() / self.temperature + torch.from_numpy(noise).to(scores.device)


def sample_seed(question_id: bytes, seed: int, sample: int) -> bytes:
    """Return the seed of one sample of a question."""
    return hashlib.blake2b(question_id + f"/{seed}/{sample}".encode(), digest_size=16).digest()


@dataclass(frozen=True)
class CacheShape:
    """Shape that determines the memory of a token's keys and values."""

    num_layers: int
    num_kv_heads: int
    head_dim: int

    @staticmethod
    def of(model_config: Any) -> CacheShape:
        """Read the shape from a `transformers` config."""
        config = model_config.get_text_config()
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        return CacheShape(config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, head_dim)

    def bytes_per_token(self, bytes_per_value: int) -> int:
        """Return 2 · layers · key-value heads · head dimension · bytes of a value."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * bytes_per_value


def window_of(model_config: Any) -> int | None:
    """Return the model's context length (positions); None: no limit is known."""
    limit = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None
