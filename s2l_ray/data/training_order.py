"""Training order: which examples make up each optimiser step, as a function of corpus and seed only.

Neither the number of workers nor a restart changes it. Therefore a resumed run ends where an undisturbed one does, and
training on spot nodes can resume with fewer workers.

Memory: one window of token parts (WINDOW_ROWS examples) on every worker, and one that is read ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from s2l_ray.data.token_examples import Examples
from s2l_ray.errors import InternalError

WINDOW_ROWS = 65_536
"""Number of examples that are shuffled together. Parts are random samples of the corpus by construction (ranges of a
hash), and their order is shuffled too, so a window need not be the whole corpus."""


@dataclass(frozen=True)
class Window:
    epoch: int
    index: int
    parts: tuple[int, ...]
    start: int
    """Position of the window's first example in the epoch's order."""
    rows: int


@dataclass(frozen=True)
class TrainPlan:
    parts: tuple[tuple[int, int], ...]
    """(part, rows) in the order of the parts."""
    global_batch_size: int
    total_steps: int
    seed: int
    window_rows: int = WINDOW_ROWS

    @property
    def num_examples(self) -> int:
        return sum(rows for _, rows in self.parts)

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch; the last batch may be smaller, because every example is seen exactly once per epoch."""
        return -(-self.num_examples // self.global_batch_size)

    def windows(self, epoch: int) -> list[Window]:
        """Return the epoch's windows in order, with parts shuffled by (seed, epoch)."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.parts))
        windows: list[Window] = []
        chosen: list[int] = []
        start = rows = 0
        for i, at in enumerate(order):
            part, part_rows = self.parts[at]
            chosen.append(part)
            rows += part_rows
            if rows >= self.window_rows or i == len(order) - 1:
                windows.append(Window(epoch, len(windows), tuple(chosen), start, rows))
                start, rows, chosen = start + rows, 0, []
        return windows

    def windows_from(self, start_step: int) -> list[Window]:
        """Return the windows that steps start_step, start_step + 1, … need, over all epochs."""
        first_epoch, step_in_epoch = divmod(start_step, self.steps_per_epoch)
        position = step_in_epoch * self.global_batch_size
        last_epoch = (self.total_steps - 1) // self.steps_per_epoch
        needed = (
            [w for w in self.windows(first_epoch) if w.start + w.rows > position] if first_epoch <= last_epoch else []
        )
        for epoch in range(first_epoch + 1, last_epoch + 1):
            needed += self.windows(epoch)
        return needed

    def order_of(self, window: Window) -> np.ndarray:
        """Return the order in which training visits the window's rows, (rows,) int64; rows count over its parts."""
        return np.random.default_rng([self.seed, window.epoch, window.index]).permutation(window.rows)

    def batches(self, start_step: int, loaded: Iterator[Examples]) -> Iterator[tuple[int, Examples]]:
        """Yield (step, its examples); steps count from 0.

        Args:
            loaded: the examples of `windows_from(start_step)`, in that order, rows in the order of the parts.
        """
        step = start_step
        rest: Examples | None = None
        skip = (start_step % self.steps_per_epoch) * self.global_batch_size
        for window, examples in zip(self.windows_from(start_step), loaded, strict=True):
            if len(examples) != window.rows:
                raise InternalError(
                    f"window {window}: {len(examples)} examples were read; the token parts have changed"
                )
            # Take each batch from the window as read: shuffling the whole window would delay its first step.
            rows = self.order_of(window)[max(0, skip - window.start) :]
            skip = 0
            waiting = 0 if rest is None else len(rest)
            size = waiting + len(rows)
            ends_epoch = window.start + window.rows == self.num_examples
            whole = size if ends_epoch else size - size % self.global_batch_size
            for at in range(0, whole, self.global_batch_size):
                if step == self.total_steps:
                    return
                end = min(at + self.global_batch_size, whole)
                batch = examples.take(rows[max(0, at - waiting) : end - waiting])
                yield step, batch if at or rest is None else Examples.concatenate([rest, batch])
                step += 1
            left = examples.take(rows[max(0, whole - waiting) :]) if whole < size else None
            rest = left if whole or rest is None or left is None else Examples.concatenate([rest, left])


def make_plan(
    part_rows: list[tuple[int, int]], global_batch_size: int, epochs: float, max_steps: int | None, seed: int
) -> TrainPlan:
    """Create a plan over parts given as (part, rows); `max_steps` takes precedence over `epochs`."""
    plan = TrainPlan(tuple(part_rows), global_batch_size, 1, seed)
    steps = max_steps if max_steps is not None else max(1, round(epochs * plan.steps_per_epoch))
    return TrainPlan(plan.parts, global_batch_size, steps, seed)


def balance_by_length(lengths: np.ndarray, num_workers: int) -> list[np.ndarray]:
    """Distribute the rows of a global batch so that all workers have about the same number of tokens to compute.

    Rows are dealt by length, longest first, back and forth (1 2 3 3 2 1 …).

    Args:
        lengths: (B,) tokens.

    Returns:
        The rows of each worker.
    """
    order = np.argsort(-lengths, kind="stable")
    turn = np.arange(len(order)) // num_workers
    seat = np.arange(len(order)) % num_workers
    worker = np.where(turn % 2 == 0, seat, num_workers - 1 - seat)
    return [order[worker == w] for w in range(num_workers)]
