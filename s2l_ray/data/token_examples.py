"""Tokenised examples in memory, with numpy only, so that tasks that read and write tokens need not import torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Examples:
    """Tokenised examples of various lengths in flat arrays: cheap to slice, without Python objects per example."""

    ids: np.ndarray
    """(N, 2) uint64, see data.example_id."""
    tokens: np.ndarray
    """(sum of lengths,) int32."""
    mask: np.ndarray
    """(sum of lengths,) bool, True on response tokens."""
    offsets: np.ndarray
    """(N + 1,) int64."""
    weights: np.ndarray | None = None
    """(N,) float32, weights in the loss; None: 1 each."""
    stages: np.ndarray | None = None
    """(N,) integers, stages of a curriculum; None: no curriculum."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) tokens."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Examples:
        """Return these rows, in the given order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Flat positions of the tokens of all rows, without a loop over rows.
        flat = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        marks = [None if mark is None else mark[rows] for mark in (self.weights, self.stages)]
        return Examples(self.ids[rows], self.tokens[flat], self.mask[flat], offsets, *marks)

    @staticmethod
    def concatenate(parts: list[Examples]) -> Examples:
        starts = np.cumsum([0] + [len(p.tokens) for p in parts])
        return Examples(
            np.concatenate([p.ids for p in parts]),
            np.concatenate([p.tokens for p in parts]),
            np.concatenate([p.mask for p in parts]),
            np.concatenate([[0]] + [p.offsets[1:] + s for p, s in zip(parts, starts[:-1], strict=True)]).astype(
                np.int64
            ),
            _joined([p.weights for p in parts]),
            _joined([p.stages for p in parts]),
        )


def _joined(columns: list[np.ndarray | None]) -> np.ndarray | None:
    there = [column for column in columns if column is not None]
    return np.concatenate(there) if there and len(there) == len(columns) else None
