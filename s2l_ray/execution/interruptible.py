"""Ray Train's trainer without its own handling of Ctrl-C."""

from __future__ import annotations

import contextlib
from typing import Any

import ray
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

_ABORT_S = 1.5
"""Seconds that the controller may take to end its workers; `ray job stop` kills the driver after three."""


class InterruptibleTrainer(DataParallelTrainer):
    """Ray Train's trainer for any backend, whose `fit` ends within `_ABORT_S` after a KeyboardInterrupt.

    Ray Train's own `fit` replaces the Ctrl-C handler with one that waits indefinitely for its controller and ignores
    a second Ctrl-C. (This overrides an internal method of Ray 2.60; there is no option for it.)
    """

    _controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        """Does nothing; Ray Train would install its handler here."""
        self._controller = controller

    def fit(self) -> Any:
        try:
            return super().fit()
        except KeyboardInterrupt:
            self._abort()
            raise

    def _abort(self) -> None:
        """End the controller and its workers and release their resources: the driver may live on (a notebook)."""
        if self._controller is None:
            return
        with contextlib.suppress(ray.exceptions.RayError):  # the controller ends during the call
            ray.get(self._controller.abort.remote(), timeout=_ABORT_S)
        ray.kill(self._controller)
