"""Whoever watches a training from outside, as a sweep's trial does. Imports neither Ray nor torch."""

from __future__ import annotations

from typing import Any, Protocol


class Watcher(Protocol):
    """Is told what the loop reports; both ways to train know it."""

    def take(self, metrics: dict[str, Any]) -> None:
        """A report, in the process that waits for the training; what it raises ends the training."""

    def of_ray_train(self) -> Any:
        """Ray Train's callback that does the same, in Ray Train's controller."""
