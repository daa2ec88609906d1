"""Losses that training computes, one per example and epoch, collected until a window of the order is complete.

Memory: 32 bytes for each example of two windows (data.training_order.WINDOW_ROWS).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.data.training_order import TrainPlan, Window
from s2l_ray.errors import InternalError

TREND_EXAMPLES = 512
"""Neighbours in the training order over which the trend is averaged. Their losses come from nearly the same weights;
fewer would leave noise, more would blur the first steps, in which losses fall fast."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class EpochLosses:
    """Losses of some of an epoch's examples, in any order."""

    positions: Array
    """(n,) int64, positions in the epoch's order."""
    ids: Array
    """(n, 2) uint64."""
    losses: Array
    """(n,) float32, nats per response token."""
    counts: Array
    """(n,) int32, response tokens."""

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, rows: Array) -> EpochLosses:
        return EpochLosses(self.positions[rows], self.ids[rows], self.losses[rows], self.counts[rows])

    @staticmethod
    def empty() -> EpochLosses:
        return EpochLosses(
            np.zeros(0, np.int64), np.zeros((0, 2), np.uint64), np.zeros(0, np.float32), np.zeros(0, np.int32)
        )

    @staticmethod
    def concatenate(parts: list[EpochLosses]) -> EpochLosses:
        together = [EpochLosses.empty(), *parts]
        return EpochLosses(
            np.concatenate([p.positions for p in together]), np.concatenate([p.ids for p in together]),
            np.concatenate([p.losses for p in together]), np.concatenate([p.counts for p in together]),
        )  # fmt: skip


@dataclass(frozen=True)
class WindowLosses:
    """Losses of all examples of a window, in the order of its parts."""

    ids: Array
    """(rows, 2) uint64."""
    losses: Array
    """(rows,) float32."""
    counts: Array
    """(rows,) int32."""
    trend: Array
    """(rows,) float32: mean loss of the examples that training saw at about the same time."""


def completed_windows(plan: TrainPlan, windows: list[Window], step: int) -> list[Window]:
    """Return the windows of the epoch that this step completes; steps count from 0."""
    at = step % plan.steps_per_epoch
    before, seen = at * plan.global_batch_size, min((at + 1) * plan.global_batch_size, plan.num_examples)
    return [window for window in windows if before < window.start + window.rows <= seen]


def split_off(plan: TrainPlan, window: Window, held: EpochLosses) -> tuple[WindowLosses, EpochLosses]:
    """Split the losses held so far into those of the window and the rest.

    Raises:
        InternalError: an example of the window is missing or occurs twice.
    """
    own = (held.positions >= window.start) & (held.positions < window.start + window.rows)
    mine = held.take(np.flatnonzero(own))
    mine = mine.take(np.argsort(mine.positions))
    if not np.array_equal(mine.positions, np.arange(window.start, window.start + window.rows)):
        raise InternalError(
            f"epoch {window.epoch}, window {window.index}: training saw {len(np.unique(mine.positions))} of its "
            f"{window.rows} examples and recorded {len(mine)} losses"
        )
    back = np.argsort(plan.order_of(window))
    trend = running_mean(mine.losses, TREND_EXAMPLES)
    whole = WindowLosses(mine.ids[back], mine.losses[back], mine.counts[back], trend[back])
    return whole, held.take(np.flatnonzero(~own))


def running_mean(values: Array, width: int) -> Array:
    """Average each value (n,) with its neighbours, up to `width` values and fewer at the ends → (n,) float32."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    at = np.arange(len(values))
    low, high = np.maximum(0, at - width // 2), np.minimum(len(values), at + (width + 1) // 2)
    return ((sums[high] - sums[low]) / (high - low)).astype(np.float32)
