"""A Ray Train callback that reports why workers restart and what they wait for."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState

from s2l_ray.execution.failures import cause_of
from s2l_ray.execution.restarts import RESTART, WAITING

_SAY_EVERY = 10
"""Number of failed attempts, a minute each, between messages."""


class RestartEvents(ControllerCallback):
    """Emits a `restart` event when workers were lost, and `waiting` while there are no resources for new ones.

    Ray Train's public callbacks report neither preemptions nor waits. (This uses Ray 2.60's internal interface.)
    """

    def __init__(self, box: Any) -> None:
        self._box, self._waits = box, 0

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        if isinstance(current_state, RestartingState):
            self._waits = 0
            self._put(RESTART, current_state.training_failed_error)
        elif isinstance(current_state, ReschedulingState):
            if self._waits % _SAY_EVERY == 0:
                self._put(WAITING, current_state.training_failed_error)
            self._waits += 1

    def _put(self, event: str, error: BaseException) -> None:
        self._box.put.remote({"event": event, "rank": 0, "cause": cause_of(error)})
