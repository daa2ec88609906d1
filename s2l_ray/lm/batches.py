"""Examples → padded batches under a token budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from s2l_ray.tokens.examples import Examples


@dataclass(frozen=True)
class Batch:
    rows: np.ndarray
    """(B,) row of each batch line among the examples that the batch was made from."""
    input_ids: Tensor
    """(B, L) int64, padded on the right."""
    positions: Tensor
    """(R,) int64, flat positions in (B * L) of the hidden states that predict response tokens."""
    targets: Tensor
    """(R,) int64, the response tokens themselves."""
    line_of: Tensor
    """(R,) int64, batch line of each response token."""

    @property
    def num_response_tokens(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Batch:
        def move(t: Tensor) -> Tensor:
            return t.to(device, non_blocking=True)

        return Batch(self.rows, move(self.input_ids), move(self.positions), move(self.targets), move(self.line_of))


def collate(examples: Examples, rows: np.ndarray, pad_id: int, multiple_of: int = 1) -> Batch:
    """Pad on the right. A causal model never sees what is right of a token, so no attention mask is needed."""
    lengths = examples.lengths[rows]  # (B,)
    width = int(-(-lengths.max() // multiple_of) * multiple_of)
    picked = examples.take(rows)
    line = np.repeat(np.arange(len(rows)), lengths)  # (tokens,)
    column = np.arange(len(picked.tokens)) - np.repeat(picked.offsets[:-1], lengths)
    input_ids = np.full((len(rows), width), pad_id, dtype=np.int64)  # (B, L)
    input_ids[line, column] = picked.tokens
    has_loss = picked.mask & (column > 0)  # (tokens,) the first token has no context
    return Batch(
        rows,
        torch.from_numpy(input_ids),
        torch.from_numpy(line[has_loss] * width + column[has_loss] - 1),
        torch.from_numpy(picked.tokens[has_loss].astype(np.int64)),
        torch.from_numpy(line[has_loss]),
    )


def token_budget_batches(lengths: np.ndarray, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Group rows by length, longest first, so that lines times width stays within the budget.

    Longest first: memory peaks in the first batch and not after an hour. The order is a function of the lengths
    alone (ties by row), so the same part gives the same batches on every worker.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, tokens_per_batch // max(1, int(lengths[order[start]])))
        yield order[start : start + count]
        start += count
