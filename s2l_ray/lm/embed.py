"""Embeddings of examples: means of a model's last hidden states. Plain torch.

They have unit length, which suits float16; only directions are ever compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.batches import Batch, Batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.selection.signals import PROMPT_EMBEDDING, RESPONSE_EMBEDDING, WEIGHTED_EMBEDDING

Tokens = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Tokens that are averaged: flat positions in the batch (M,), example of each (M,), and its weight (M,)."""


class Embedder:
    """Embeds parts. Like losses, a part's embeddings depend only on the weights and the part.

    Memory: a batch's last hidden states, in float32 and float64.
    """

    def __init__(
        self,
        column: str,
        loss: ResponseLoss,
        batching: Batching,
        *,
        tokens_per_batch: int,
        device: torch.device,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        dim: int | None = None,
        seed: int = 0,
    ) -> None:
        """Create an embedder for one column.

        Args:
            dim: dimensions to which to project by random signs (Achlioptas 2003), a function of the seed; None: all.
        """
        self.tokens_of = _TOKENS[column]
        self.loss, self.batching, self.tokens_per_batch = loss, batching, tokens_per_batch
        self.device, self.autocast, self.dim, self.seed = device, autocast, dim, seed
        self._projection: torch.Tensor | None = None
        """(height, dim) float64, created with the first batch, which determines the height."""

    @torch.no_grad()
    def __call__(self, examples: Examples) -> np.ndarray:
        """Return the embeddings, (N, d) float32 of unit length or zero, in the order of the examples."""
        self.loss.eval()
        pending = []
        for rows in self.batching.plan(examples.lengths, self.tokens_per_batch):
            batch = self.batching.batch(examples, rows)
            pending.append((rows, self._embed(batch, self.tokens_of(examples, batch))))
        out = np.empty((len(examples), pending[0][1].shape[1] if pending else 0), dtype=np.float32)
        for rows, found in pending:
            out[rows] = found.cpu().numpy()
        return out

    def _embed(self, batch: Batch, tokens: Tokens) -> torch.Tensor:
        """Return the embeddings of a batch, (B, d) float32."""
        with self.autocast():
            states = self.loss.states(batch.to(self.device))
        at, of, weights = (torch.from_numpy(one).to(self.device) for one in tokens)
        picked = states.reshape(-1, states.shape[-1])[at].double() * weights[:, None]
        sums = torch.zeros(len(batch.rows), picked.shape[1], dtype=torch.float64, device=self.device)
        sums.index_add_(0, of, picked)
        if self.dim is not None and self.dim < sums.shape[1]:
            if self._projection is None:
                self._projection = _signs(sums.shape[1], self.dim, self.seed).to(self.device)
            sums = sums @ self._projection
        return (sums / sums.norm(dim=1, keepdim=True).clamp(min=1e-30)).float()


def _signs(height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (height, width), generator=generator).double() * 2 - 1


def _of_response(examples: Examples, batch: Batch) -> Tokens:
    """Take the positions that predict the response."""
    of = batch.example_of_token.numpy()
    return batch.positions.numpy(), of, 1.0 / batch.counts[of]


def _of_prompt(examples: Examples, batch: Batch) -> Tokens:
    """Take the tokens outside the response, or the first token if there are none."""
    at, of, column, picked = _all_tokens(examples, batch)
    counts = np.bincount(of[~picked.mask], minlength=len(batch.rows))
    kept = ~picked.mask | ((column == 0) & (counts[of] == 0))
    return at[kept], of[kept], 1.0 / np.maximum(counts, 1)[of[kept]]


def _of_all_by_position(examples: Examples, batch: Batch) -> Tokens:
    """Take all tokens, weighted 1, 2, 3, …, because later tokens have seen more."""
    at, of, column, picked = _all_tokens(examples, batch)
    lengths = picked.lengths.astype(np.float64)
    return at, of, (column + 1) / (lengths * (lengths + 1) / 2)[of]


def _all_tokens(examples: Examples, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray, Examples]:
    """Return flat position, example and column of every token, and the batch's examples in its order."""
    picked = examples.take(batch.rows)
    of = np.repeat(np.arange(len(batch.rows)), picked.lengths)
    column = np.arange(len(picked.tokens)) - np.repeat(picked.offsets[:-1], picked.lengths)
    at = np.arange(len(picked.tokens)) if batch.sequences is not None else of * batch.input_ids.shape[1] + column
    return at, of, column, picked


_TOKENS: dict[str, Callable[[Examples, Batch], Tokens]] = {
    RESPONSE_EMBEDDING: _of_response,
    PROMPT_EMBEDDING: _of_prompt,
    WEIGHTED_EMBEDDING: _of_all_by_position,
}


def without_prompts(examples: Examples, start_token: int) -> Examples:
    """Return the responses without their prompts, each after a start token, to score them without the prompt."""
    counts = np.add.reduceat(examples.mask.astype(np.int64), examples.offsets[:-1])
    offsets = np.concatenate([[0], np.cumsum(counts + 1)]).astype(np.int64)
    tokens, mask = np.full(offsets[-1], start_token, dtype=np.int32), np.ones(offsets[-1], dtype=bool)
    mask[offsets[:-1]] = False
    tokens[mask] = examples.tokens[examples.mask]
    return Examples(examples.ids, tokens, mask, offsets)
