"""Build batches of examples under a token budget: packed one after another into one row, or padded to one length."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2l_ray.data.token_examples import Examples

LENGTHS = "s2l_sequence_lengths"
"""Argument that passes the lengths to attention on CPUs, as numbers, which need not be read out of a tensor."""


@dataclass(frozen=True)
class Sequences:
    """Positions and boundaries of the sequences in a packed row."""

    position_ids: Tensor
    """(1, T) int64, counting from 0 in every sequence."""
    boundaries: Tensor
    """(S + 1,) int32, the first token of each sequence, and T."""
    lengths: tuple[int, ...]
    """Tokens of each of the S sequences."""

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that the base model passes on to its attention, under the names in `transformers`."""
        found: dict[str, Any] = {
            "position_ids": self.position_ids, "cu_seq_lens_q": self.boundaries, "cu_seq_lens_k": self.boundaries
        }  # fmt: skip
        if self.boundaries.device.type == "cpu":
            return found | {LENGTHS: self.lengths}
        # Rounded up, because layers would be recompiled for every new number.
        longest = -(-max(self.lengths) // 256) * 256
        return found | {"max_length_q": longest, "max_length_k": longest}


@dataclass(frozen=True)
class Batch:
    """B sequences with R response tokens, ready for a model."""

    rows: np.ndarray
    """(B,) row of each sequence among the examples from which the batch was made."""
    input_ids: Tensor
    """(1, T) int64 if the sequences are packed, (B, L) padded on the right if not."""
    positions: Tensor
    """(R,) int64, flat positions in `input_ids` whose hidden states predict response tokens."""
    targets: Tensor
    """(R,) int64, the response tokens."""
    example_of_token: Tensor
    """(R,) int64, index into `rows` for each response token."""
    counts: np.ndarray
    """(B,) int64, response tokens of each sequence."""
    sequences: Sequences | None = None
    """Sequences of a packed row; None: the batch is padded."""
    token_weights: Tensor | None = None
    """(R,) float32, weight in the loss of each response token, which is that of its example; None: all are 1."""

    @property
    def num_response_tokens(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Batch:
        """Move the batch to a device with one asynchronous copy from pinned memory."""
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
    """Rule by which examples become the batches of a model."""

    packed: bool
    """Whether sequences are packed without padding, which `lm.packing` verifies for each model, or padded."""
    pad_id: int
    multiple_of: int = 1
    """Packed rows are filled up to a multiple of this number of tokens, which the device's kernels prefer."""
    pass_cost: int = 0
    """Cost of a further pass over padded sequences in addition to its tokens (tokens)."""
    reason: str = ""
    """Why sequences are padded."""

    def plan(self, lengths: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
        """Plan the rows of each batch, with every row in exactly one.

        The plan is a function of the lengths only, so the same part gives the same batches on every worker. Batches are
        ordered so that memory peaks in the first one and not after an hour.

        Args:
            lengths: (N,) tokens.
            tokens_per_batch: most tokens of a batch, padding included; a longer example is a batch of its own.
        """
        if len(lengths) == 0:
            return []
        if self.packed:
            return _packed_groups(lengths, tokens_per_batch)
        return _padded_groups(lengths, tokens_per_batch, self.pass_cost)

    def batch(self, examples: Examples, rows: np.ndarray) -> Batch:
        """Build the batch of these rows; without rows, it has no loss."""
        if len(rows) == 0:
            return empty_batch(self.packed, self.pad_id, self.multiple_of)
        return self._pack(examples, rows) if self.packed else _pad(examples, rows, self.pad_id)

    def num_computed(self, lengths: np.ndarray, groups: list[np.ndarray]) -> int:
        """Count the tokens that a model processes for these batches, including padding."""
        if self.packed:
            return sum(-(-int(lengths[rows].sum()) // self.multiple_of) * self.multiple_of for rows in groups)
        return sum(len(rows) * int(lengths[rows].max()) for rows in groups)

    def _pack(self, examples: Examples, rows: np.ndarray) -> Batch:
        picked = examples.take(rows)
        total = len(picked.tokens)
        lengths = picked.lengths.tolist()
        filling = -total % self.multiple_of
        if filling:
            lengths.append(filling)  # a separate sequence, to which no other attends
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
    """Build a batch of tokens without a loss; sharded models need equal numbers of passes on all workers."""
    nothing = torch.zeros(0, dtype=torch.int64)
    sequences = None
    if packed:
        bounds = torch.tensor([0, num_tokens], dtype=torch.int32)
        sequences = Sequences(torch.arange(num_tokens)[None], bounds, (num_tokens,))
    ids = torch.full((1, num_tokens), pad_id, dtype=torch.int64)
    return Batch(np.zeros(0, np.int64), ids, nothing, nothing, nothing, np.zeros(0, np.int64), sequences)


def _pad(examples: Examples, rows: np.ndarray, pad_id: int) -> Batch:
    """Pad on the right; a causal model never attends to the right of a token, so no attention mask is needed."""
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
    """Return the weight of each response token; `example` (R,) is its index among the picked examples."""
    return None if picked.weights is None else torch.from_numpy(picked.weights[example])


def _packed_groups(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Divide rows into as few equally large groups as the budget allows, longest first into the emptiest group."""
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
    """Divide rows, sorted by length, into consecutive groups with the least cost: padded tokens plus passes."""
    order = np.argsort(-lengths, kind="stable")
    widths = lengths[order].astype(np.int64)
    num = len(widths)
    cost = np.zeros(num + 1, dtype=np.int64)
    begins = np.zeros(num + 1, dtype=np.int64)
    for end in range(1, num + 1):
        # A group [start, end) is as wide as its first sequence.
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
