"""The interface for observing a training from outside, as a sweep's trial does. Imports neither Ray nor torch."""

from __future__ import annotations

from typing import Any, Protocol


class Watcher(Protocol):
    """Receives what the loop reports, in both ways of training."""

    def take(self, metrics: dict[str, Any]) -> None:
        """Receives a report in the process that waits for the training; raising an error ends the training."""

    def of_ray_train(self) -> Any:
        """A Ray Train callback that does the same in Ray Train's controller."""
