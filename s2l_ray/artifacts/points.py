"""Schedule of a trajectory's losses: the optimiser steps after which examples are scored, and epochs of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from s2l_ray.config.schema import TrajectoriesConfig
from s2l_ray.errors import UserError


class PlanError(UserError):
    """Error for an impossible schedule; the message has the numbers."""


@dataclass(frozen=True)
class Point:
    """One column of the trajectories."""

    step: int
    """Optimiser steps done when the losses are computed; for those of an epoch, a step in its middle."""
    epoch: int | None = None
    """Epoch in which training computes the losses, counted from 0; None: a separate pass scores them."""


class HasStep(Protocol):
    """A point, or the snapshot that was taken there."""

    @property
    def step(self) -> int: ...

    @property
    def epoch(self) -> int | None: ...


def plan_points(config: TrajectoriesConfig, total_steps: int, steps_per_epoch: int) -> list[Point]:
    """Return all points in the order of time, each at a different step.

    Raises:
        PlanError: there are fewer steps than snapshots, or there is no complete epoch.
    """
    if config.source == "snapshots":
        return [Point(step) for step in snapshot_steps(total_steps, config.num_scored, config.include_step_zero)]
    epochs = total_steps // steps_per_epoch
    if not epochs or epochs + config.num_scored < 2:
        raise PlanError(
            f"trajectories.source={config.source} takes one loss from every complete epoch, but {total_steps} "
            f"optimiser steps make {epochs} epochs of {steps_per_epoch} steps; train longer (proxy.epochs, "
            "proxy.max_steps), or use source=snapshots"
        )
    scored = _hybrid_steps(total_steps, config.num_scored, config.include_step_zero)
    points = [Point(step) for step in scored]
    for epoch in range(epochs):
        first = epoch * steps_per_epoch
        middle = first + (steps_per_epoch - 1) // 2
        nearest = (step for offset in range(steps_per_epoch) for step in (middle + offset, middle - offset))
        own = range(first, first + steps_per_epoch)
        free = next((step for step in nearest if step in own and step not in scored), None)
        if free is None:
            raise PlanError(
                f"trajectories.num_snapshots={config.num_scored} puts a snapshot at each of the {steps_per_epoch} "
                f"optimiser steps of epoch {epoch + 1} and leaves none for the losses of training; lower it, or use "
                "source=snapshots"
            )
        points.append(Point(free, epoch))
    return sorted(points, key=lambda point: point.step)


def middle_point(points: Sequence[HasStep]) -> int | None:
    """Return the index of the scored point nearest to half of the steps, on ties the earlier one.

    The untrained proxy and the last point do not count; None: there is no other scored point.
    """
    last = len(points) - 1
    between = [i for i, point in enumerate(points) if point.epoch is None and point.step > 0 and i != last]
    return min(between, key=lambda i: abs(2 * points[i].step - points[last].step), default=None)


def snapshot_steps(total_steps: int, num_snapshots: int, include_step_zero: bool) -> list[int]:
    """Return the steps after which examples are scored: evenly spaced with first and last; a single one is the last.

    Raises:
        PlanError: there are fewer steps than snapshots.
    """
    first = 0 if include_step_zero else 1
    _check_spread(total_steps - first + 1, total_steps, num_snapshots)
    if num_snapshots == 1:
        return [total_steps]
    return [int(s) for s in np.linspace(first, total_steps, num_snapshots).round()]


def _hybrid_steps(total_steps: int, num_snapshots: int, include_step_zero: bool) -> list[int]:
    """Return evenly spaced steps including the last: training's own losses cover the beginning, but not the end."""
    if include_step_zero:
        return snapshot_steps(total_steps, num_snapshots, include_step_zero)
    _check_spread(total_steps, total_steps, num_snapshots)
    return [round(total_steps * k / num_snapshots) for k in range(1, num_snapshots + 1)]


def _check_spread(places: int, total_steps: int, num_snapshots: int) -> None:
    if places < num_snapshots:
        raise PlanError(
            f"trajectories.num_snapshots={num_snapshots} cannot be spread over {total_steps} optimiser steps; "
            "take fewer snapshots, more epochs (proxy.epochs) or a smaller proxy.global_batch_size"
        )
