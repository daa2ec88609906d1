"""Sequences → examples: a chat may need a sequence for each of its responses, rows of one id one after another."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def first_rows(ids: Array) -> Array:
    """ids (n, 2) of sequences → (N,) the first row of each example."""
    is_first = np.ones(len(ids), dtype=bool)
    is_first[1:] = (ids[1:] != ids[:-1]).any(axis=1)
    return np.flatnonzero(is_first)


def loss_counts(mask: Array, offsets: Array) -> Array:
    """mask (sum of lengths,) of response tokens → (n,) those of each sequence that have a loss: a first token has no
    context.

    Args:
        offsets: (n + 1,) where the sequences begin and end.
    """
    starts = offsets[:-1]
    return np.add.reduceat(mask.astype(np.int64), starts) - mask[starts]


def mean_over_sequences(values: Array, counts: Array, first: Array) -> Array:
    """(n, T) of sequences → (N, T) float64 of examples, weighted by `counts` (n,) tokens.

    Args:
        first: (N,) the first row of each example.
    """
    sums = np.add.reduceat(values.astype(np.float64) * counts[:, None], first, axis=0)
    return sums / np.add.reduceat(counts, first)[:, None]
