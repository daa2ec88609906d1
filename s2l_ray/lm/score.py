"""Score examples by the mean negative log-likelihood of their response tokens. Plain torch.

Trajectories and the target's evaluation use the same scorer, so that a loss means the same everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from s2l_ray.data.example_id import array_to_hex
from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.batches import Batch, Batching
from s2l_ray.lm.response_loss import ResponseLoss, mean_per_example
from s2l_ray.lm.step import DivergedError
from s2l_ray.selection.signals import SCALARS


class NonFiniteScore(DivergedError):
    """Error for losses that are not finite, which make scores useless; the message names the examples."""


@dataclass(frozen=True)
class Scores:
    """Scores of examples, in the order of `rows`."""

    rows: np.ndarray
    """(N,) int64, rows among the given examples."""
    losses: np.ndarray
    """(N,) float32, nats per response token."""
    counts: np.ndarray
    """(N,) int32, response tokens."""
    exact: np.ndarray | None
    """(N,) bool: whether every response token is the model's top prediction given the tokens before it, so that greedy
    decoding would give exactly this response. None: not requested."""


@dataclass(frozen=True)
class ExampleScores:
    """Scores of all examples, in their order."""

    losses: np.ndarray
    """(N,) float32, nats per response token."""
    counts: np.ndarray
    """(N,) int32, response tokens."""
    signals: dict[str, np.ndarray]
    """SCALARS, each (N,) float32."""


class Scorer:
    """Scores parts. A part's losses depend only on weights and part, because batches are made within it.

    Memory: one batch of at most `tokens_per_batch` tokens, padding included, through the model, and the head's logits
    in chunks (lm.response_loss.CHUNK_ELEMENTS).
    """

    def __init__(
        self,
        loss: ResponseLoss,
        batching: Batching,
        *,
        tokens_per_batch: int,
        device: torch.device,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        section: str = "proxy",
    ) -> None:
        """Create a scorer; `section` is the model's section of the configuration, for messages."""
        self.loss, self.batching, self.tokens_per_batch = loss, batching, tokens_per_batch
        self.device, self.autocast, self.section = device, autocast, section

    def __call__(self, examples: Examples) -> ExampleScores:
        """Score all examples.

        Raises:
            NonFiniteScore: a loss or a signal is not finite.
        """
        num = len(examples)
        counts = np.empty(num, dtype=np.int32)
        columns = {name: np.empty(num, dtype=np.float32) for name in ("loss_nats", *SCALARS)}
        self.loss.eval()
        pending: list[tuple[Batch, list[torch.Tensor]]] = []
        with torch.no_grad():
            for rows in self.plan(examples.lengths):
                batch = self.batching.batch(examples, rows)
                pending.append((batch, self._signals(batch.to(self.device))))
        for batch, values in pending:  # fetched after the loop, see `score`
            counts[batch.rows] = batch.counts
            for column, value in zip(columns.values(), values, strict=True):
                column[batch.rows] = value.cpu().numpy()
        wrong = np.flatnonzero(~np.isfinite(np.stack(list(columns.values()))).all(axis=0))
        if len(wrong):
            shown = ", ".join(array_to_hex(examples.ids[wrong[:10]]))
            raise NonFiniteScore(
                f"{len(wrong)} of {len(examples)} losses or scores are not finite (examples {shown}), so examples "
                f"could not be clustered or selected. The {self.section} has diverged or overflows: lower "
                f"{self.section}.learning_rate, or set {self.section}.precision=fp32"
            )
        return ExampleScores(columns.pop("loss_nats"), counts, columns)

    def _signals(self, batch: Batch) -> list[torch.Tensor]:
        """Compute the loss and SCALARS, in their order, each (B,)."""
        with self.autocast():
            tokens = self.loss.score(batch)
        lowest = torch.zeros(len(batch.rows), device=tokens.nll.device)
        highest_nll = lowest.scatter_reduce(0, batch.example_of_token, tokens.nll, "amax", include_self=False)
        mean_of = (tokens.nll, (-tokens.nll).exp(), tokens.hits, tokens.el2n)
        loss, probability, accuracy, el2n = (mean_per_example(values, batch) for values in mean_of)
        return [loss, probability, (-highest_nll).exp(), accuracy, el2n]

    def plan(self, lengths: np.ndarray) -> list[np.ndarray]:
        """Plan the rows of each batch."""
        return self.batching.plan(lengths, self.tokens_per_batch)

    @torch.no_grad()
    def score(self, examples: Examples, batches: Iterable[np.ndarray], want_exact: bool = False) -> Scores:
        """Score these batches of rows; an empty batch makes an empty pass, which sharded models may need."""
        self.loss.eval()
        pending: list[tuple[Batch, list[torch.Tensor]]] = []
        for rows in batches:
            batch = self.batching.batch(examples, rows)
            # Copied after the loop: on a GPU, a copy here would wait for every single batch.
            found = self._one(batch.to(self.device), want_exact)
            if len(rows):
                pending.append((batch, found))

        def column(of: Callable[[Batch, list[torch.Tensor]], Any], dtype: type) -> np.ndarray:
            return np.concatenate([np.zeros(0, dtype), *(of(batch, found) for batch, found in pending)]).astype(dtype)

        return Scores(
            column(lambda batch, _: batch.rows, np.int64),
            column(lambda _, found: found[0].cpu().numpy(), np.float32),
            column(lambda batch, _: batch.counts, np.int32),
            column(lambda _, found: found[1].cpu().numpy(), np.bool_) if want_exact else None,
        )

    def _one(self, batch: Batch, want_exact: bool) -> list[torch.Tensor]:
        with self.autocast():
            _, nll, hits = self.loss(batch, want_top1=want_exact)
        mean = mean_per_example(nll, batch)
        return [mean] if hits is None else [mean, _all_of_example(hits, batch)]


def _all_of_example(hits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return whether all tokens of each sequence are hits: (R,) bool → (B,) bool."""
    misses = torch.zeros(len(batch.rows), device=hits.device)
    return misses.index_add_(0, batch.example_of_token, (~hits).float()) == 0
