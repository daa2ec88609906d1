"""Combine sequences into examples: a chat may need one sequence per response, in adjacent rows with the same id."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def first_rows(ids: Array) -> Array:
    """Return the first row of each example, (N,), given the ids (n, 2) of sequences."""
    is_first = np.ones(len(ids), dtype=bool)
    is_first[1:] = (ids[1:] != ids[:-1]).any(axis=1)
    return np.flatnonzero(is_first)


def loss_counts(mask: Array, offsets: Array) -> Array:
    """Count the response tokens of each sequence that have a loss, (n,); a first token has none, lacking context.

    Args:
        mask: (sum of lengths,) True on response tokens.
        offsets: (n + 1,) where the sequences begin and end.
    """
    starts = offsets[:-1]
    return np.add.reduceat(mask.astype(np.int64), starts) - mask[starts]


def mean_over_sequences(values: Array, counts: Array, first: Array) -> Array:
    """Average values (n, T) of sequences over examples, weighted by token `counts` (n,) → (N, T) float64.

    Args:
        first: (N,) first row of each example.
    """
    sums = np.add.reduceat(values.astype(np.float64) * counts[:, None], first, axis=0)
    return sums / np.add.reduceat(counts, first)[:, None]
