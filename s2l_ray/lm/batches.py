"""Examples → batches under a token budget: packed one after another into one row, or padded to lines of one length."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2l_ray.data.token_examples import Examples

LENGTHS = "s2l_sequence_lengths"
"""Argument in which attention on CPUs finds the lengths: as numbers, since a tensor's would have to be read out."""


@dataclass(frozen=True)
class Sequences:
    """Where the sequences of a packed row begin and end."""

    position_ids: Tensor
    """(1, T) int64, from 0 in every sequence."""
    boundaries: Tensor
    """(S + 1,) int32, the first token of each sequence, and T."""
    lengths: tuple[int, ...]
    """(S,) tokens of each sequence."""

    def arguments(self) -> dict[str, Any]:
        """What the base model hands through to its attention, under the names that `transformers` uses."""
        found: dict[str, Any] = {
            "position_ids": self.position_ids, "cu_seq_lens_q": self.boundaries, "cu_seq_lens_k": self.boundaries
        }  # fmt: skip
        if self.boundaries.device.type == "cpu":
            return found | {LENGTHS: self.lengths}
        # Rounded up: layers are compiled again for every other number.
        longest = -(-max(self.lengths) // 256) * 256
        return found | {"max_length_q": longest, "max_length_k": longest}


@dataclass(frozen=True)
class Batch:
    rows: np.ndarray
    """(B,) row of each sequence among the examples that the batch was made from."""
    input_ids: Tensor
    """(1, T) int64 where the sequences are packed, (B, L) padded on the right where they are not."""
    positions: Tensor
    """(R,) int64, flat positions in `input_ids` of the hidden states that predict response tokens."""
    targets: Tensor
    """(R,) int64, the response tokens themselves."""
    example_of_token: Tensor
    """(R,) int64, index into `rows` of each response token."""
    counts: np.ndarray
    """(B,) int64, response tokens of each sequence."""
    sequences: Sequences | None = None
    """None: padded."""
    token_weights: Tensor | None = None
    """(R,) float32, each response token's weight in the loss, which is its example's; None: 1 each."""

    @property
    def num_response_tokens(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; one copy from pinned memory, for which the host does not wait."""
        if device.type == "cpu":
            return self
        packed = self.sequences
        parts = [self.input_ids, self.positions, self.targets, self.example_of_token]
        if packed is not None:
            parts += [packed.position_ids, packed.boundaries.long()]
        buffer = torch.cat([part.reshape(-1) for part in parts]).pin_memory().to(device, non_blocking=True)
        moved = [
            flat.view(part.shape) for flat, part in zip(buffer.split([p.numel() for p in parts]), parts, strict=True)
        ]
        sequences = None if packed is None else Sequences(moved[4], moved[5].int(), packed.lengths)
        weights = None if self.token_weights is None else self.token_weights.to(device)
        return Batch(self.rows, moved[0], moved[1], moved[2], moved[3], self.counts, sequences, weights)


@dataclass(frozen=True)
class Batching:
    """How examples become the batches of a model."""

    packed: bool
    """Without padding, which `lm.packing` proves for the model at hand; else padded lines."""
    pad_id: int
    multiple_of: int = 1
    """A packed row's tokens are filled up to a multiple of this, for the sake of the device's kernels."""
    pass_cost: int = 0
    """What a further pass over padded lines costs beside its tokens (tokens)."""
    reason: str = ""
    """Why the lines are padded."""

    def plan(self, lengths: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
        """Rows of each batch; every row once.

        A function of the lengths alone, so the same part gives the same batches on every worker. Memory peaks in the
        first batch and not after an hour.

        Args:
            lengths: (N,) tokens.
            tokens_per_batch: most tokens that a batch computes, padding included; one longer example is one batch.
        """
        if len(lengths) == 0:
            return []
        if self.packed:
            return _packed_groups(lengths, tokens_per_batch)
        return _padded_groups(lengths, tokens_per_batch, self.pass_cost)

    def batch(self, examples: Examples, rows: np.ndarray) -> Batch:
        """The batch of these rows; of no rows, one without a loss."""
        if len(rows) == 0:
            return empty_batch(self.packed, self.pad_id, self.multiple_of)
        return self._pack(examples, rows) if self.packed else _pad(examples, rows, self.pad_id)

    def num_computed(self, lengths: np.ndarray, groups: list[np.ndarray]) -> int:
        """Tokens that a model computes for these batches, those that only fill up included."""
        if self.packed:
            return sum(-(-int(lengths[rows].sum()) // self.multiple_of) * self.multiple_of for rows in groups)
        return sum(len(rows) * int(lengths[rows].max()) for rows in groups)

    def _pack(self, examples: Examples, rows: np.ndarray) -> Batch:
        picked = examples.take(rows)
        total = len(picked.tokens)
        lengths = picked.lengths.tolist()
        filling = -total % self.multiple_of
        if filling:
            lengths.append(filling)  # a sequence of its own, that no other looks at
        starts = np.concatenate([[0], np.cumsum(lengths)])
        input_ids = np.full(total + filling, self.pad_id, dtype=np.int64)
        input_ids[:total] = picked.tokens
        column = np.arange(total + filling) - np.repeat(starts[:-1], lengths)  # (T,) position in its sequence
        has_loss = picked.mask & (column[:total] > 0)  # the first token has no context
        at = np.flatnonzero(has_loss)
        example = np.repeat(np.arange(len(rows)), picked.lengths)[at]
        return Batch(
            rows,
            torch.from_numpy(input_ids)[None],
            torch.from_numpy(at - 1),
            torch.from_numpy(picked.tokens[at].astype(np.int64)),
            torch.from_numpy(example),
            np.bincount(example, minlength=len(rows)),
            Sequences(torch.from_numpy(column)[None], torch.from_numpy(starts.astype(np.int32)), tuple(lengths)),
            _token_weights(picked, example),
        )


def empty_batch(packed: bool = False, pad_id: int = 0, num_tokens: int = 1) -> Batch:
    """A batch of tokens without a loss: sharded models need equal numbers of passes on all workers."""
    nothing = torch.zeros(0, dtype=torch.int64)
    sequences = None
    if packed:
        bounds = torch.tensor([0, num_tokens], dtype=torch.int32)
        sequences = Sequences(torch.arange(num_tokens)[None], bounds, (num_tokens,))
    ids = torch.full((1, num_tokens), pad_id, dtype=torch.int64)
    return Batch(np.zeros(0, np.int64), ids, nothing, nothing, nothing, np.zeros(0, np.int64), sequences)


def _pad(examples: Examples, rows: np.ndarray, pad_id: int) -> Batch:
    """Pad on the right. A causal model never sees what is right of a token, so no attention mask is needed."""
    lengths = examples.lengths[rows]  # (B,)
    width = int(lengths.max())
    picked = examples.take(rows)
    line = np.repeat(np.arange(len(rows)), lengths)  # (tokens,)
    column = np.arange(len(picked.tokens)) - np.repeat(picked.offsets[:-1], lengths)
    input_ids = np.full((len(rows), width), pad_id, dtype=np.int64)  # (B, L)
    input_ids[line, column] = picked.tokens
    has_loss = picked.mask & (column > 0)  # (tokens,) the first token has no context
    example = line[has_loss]
    return Batch(
        rows,
        torch.from_numpy(input_ids),
        torch.from_numpy(example * width + column[has_loss] - 1),
        torch.from_numpy(picked.tokens[has_loss].astype(np.int64)),
        torch.from_numpy(example),
        np.bincount(example, minlength=len(rows)),
        token_weights=_token_weights(picked, example),
    )


def _token_weights(picked: Examples, example: np.ndarray) -> Tensor | None:
    """`example` (R,): which of the picked ones each response token is of."""
    return None if picked.weights is None else torch.from_numpy(picked.weights[example])


def _packed_groups(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """As few groups as the budget allows, of about the same size: the longest example goes where most room is left."""
    order = np.argsort(-lengths, kind="stable")
    sizes = lengths[order].tolist()
    count = min(len(sizes), -(-sum(sizes) // budget))
    while True:
        room = [(0, group) for group in range(count)]
        groups: list[list[int]] = [[] for _ in range(count)]
        for row, size in zip(order.tolist(), sizes, strict=True):
            used, group = heapq.heappop(room)
            groups[group].append(row)
            heapq.heappush(room, (used + size, group))
        if max(used for used, _ in room) <= budget or count == len(sizes):
            return sorted((np.array(g) for g in groups if g), key=lambda g: -int(lengths[g].sum()))
        count += 1


def _padded_groups(lengths: np.ndarray, budget: int, pass_cost: int) -> list[np.ndarray]:
    """Groups of neighbours by length, longest first, that cost least: their padded tokens, and each pass."""
    order = np.argsort(-lengths, kind="stable")
    widths = lengths[order].astype(np.int64)
    num = len(widths)
    cost = np.zeros(num + 1, dtype=np.int64)
    begins = np.zeros(num + 1, dtype=np.int64)
    for end in range(1, num + 1):
        # A group [start, end) is as wide as its first line.
        first = max(0, end - max(1, budget // max(1, int(widths[end - 1]))))
        starts = np.arange(first, end)
        padded = widths[starts] * (end - starts)
        total = np.where((padded <= budget) | (starts == end - 1), cost[starts] + padded + pass_cost, np.int64(2**62))
        best = int(np.argmin(total))
        cost[end], begins[end] = total[best], starts[best]
    groups = []
    end = num
    while end > 0:
        groups.append(order[begins[end] : end])
        end = int(begins[end])
    return groups[::-1]
