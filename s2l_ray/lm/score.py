"""Score examples: the mean negative log-likelihood of each one's response tokens. Plain torch.

One scorer for the trajectories and for the target's evaluation, so that a loss means the same everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from s2l_ray.corpus.example_id import array_to_hex
from s2l_ray.lm.batches import Batch, collate, token_budget_batches
from s2l_ray.lm.response_loss import ResponseLoss, mean_per_example
from s2l_ray.lm.step import Diverged
from s2l_ray.tokens.examples import Examples


class NonFiniteScore(Diverged):
    """A loss is not a number: the scores would be useless; says for which examples."""


@dataclass(frozen=True)
class Scores:
    """Of the scored examples, in the order of `rows`."""

    rows: np.ndarray
    """(N,) int64, rows among the examples given."""
    losses: np.ndarray
    """(N,) float32, nats per response token."""
    counts: np.ndarray
    """(N,) int32, response tokens."""
    exact: np.ndarray | None
    """(N,) bool: every response token is the model's first choice, given the right ones before it. Greedy decoding
    then gives exactly this response, and only then."""


class Scorer:
    """Scores parts. What a part's losses are depends on weights and part alone: the batches are made within it.

    Memory: one batch of at most `tokens_per_batch` padded tokens through the model, and the head's logits in chunks
    (lm.response_loss.CHUNK_ELEMENTS).
    """

    def __init__(
        self,
        loss: ResponseLoss,
        *,
        pad_id: int,
        tokens_per_batch: int,
        device: torch.device,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.loss, self.pad_id, self.tokens_per_batch = loss, pad_id, tokens_per_batch
        self.device, self.autocast = device, autocast

    def __call__(self, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """→ (loss_nats (N,) float32, num_response_tokens (N,) int32), in the order of the examples.

        Raises:
            NonFiniteScore: a loss is not a number.
        """
        scores = self.score(examples, token_budget_batches(examples.lengths, self.tokens_per_batch))
        wrong = scores.rows[~np.isfinite(scores.losses)]
        if len(wrong):
            shown = ", ".join(array_to_hex(examples.ids[np.sort(wrong)[:10]]))
            raise NonFiniteScore(
                f"{len(wrong)} of {len(examples)} losses are not finite (examples {shown}); trajectories with them "
                "could not be clustered. The proxy has diverged or overflows: lower proxy.learning_rate, or "
                "precision=fp32"
            )
        losses = np.empty(len(examples), dtype=np.float32)
        counts = np.empty(len(examples), dtype=np.int32)
        losses[scores.rows], counts[scores.rows] = scores.losses, scores.counts
        return losses, counts

    @torch.no_grad()
    def score(self, examples: Examples, batches: Iterable[np.ndarray], want_exact: bool = False) -> Scores:
        """Score these batches of rows. An empty one makes an empty pass: sharded models need equal numbers of them."""
        self.loss.eval()
        pending: list[tuple[np.ndarray, list[torch.Tensor]]] = []
        for rows in batches:
            # Fetched after the loop: on a GPU a copy here would wait for every single batch.
            found = self._one(examples, rows, want_exact)
            if len(rows):
                pending.append((rows, found))
        rows_of = [rows for rows, _ in pending]
        columns = [np.concatenate([found[i].cpu().numpy() for _, found in pending] or [np.zeros(0)]) for i in range(3)]
        return Scores(
            np.concatenate(rows_of) if rows_of else np.zeros(0, np.int64),
            columns[0].astype(np.float32),
            columns[1].astype(np.int32),
            columns[2].astype(bool) if want_exact else None,
        )

    def _one(self, examples: Examples, rows: np.ndarray, want_exact: bool) -> list[torch.Tensor]:
        if len(rows) == 0:
            one = torch.zeros(1, dtype=torch.int64, device=self.device)
            with self.autocast():
                self.loss.with_hits(one[None], one, one)
            return []
        batch = collate(examples, rows, self.pad_id).to(self.device)
        with self.autocast():
            if want_exact:
                nll, hits = self.loss.with_hits(batch.input_ids, batch.positions, batch.targets)
            else:
                nll, hits = self.loss(batch.input_ids, batch.positions, batch.targets), None
        mean, count = mean_per_example(nll, batch)
        return [mean, count, count if hits is None else _all_of_line(hits, batch)]


def _all_of_line(hits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """hits (R,) → (B,) bool: all of the line's tokens are hits."""
    misses = torch.bincount(batch.line_of, weights=(~hits).double(), minlength=len(batch.rows))
    return misses == 0
