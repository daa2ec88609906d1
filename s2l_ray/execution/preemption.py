"""Ray Train's notice that nodes will be reclaimed, such as spot instances, in time for one more checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

WATCHER_ENV = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
_EVERY_S = 2.0


class PreemptionWatcher:
    """Checks on every worker: Ray Train agrees on one answer through an actor and waits for all workers."""

    def __init__(self, same: Callable[[Any], Any]) -> None:
        """`same`: broadcasts rank 0's value to every rank."""
        self._same = same
        self._known: set[str] = set()
        self._calls = self._next = 0
        self._asked_at = self._asked_call = 0.0
        self._on = os.environ.get(WATCHER_ENV, "1") != "0"

    def __call__(self) -> dict[str, Any] | None:
        """Report each node to be reclaimed once: its id, and the seconds left if known. Occasionally acts as a
        barrier."""
        if not self._on:
            return None
        self._calls += 1
        if self._calls < self._next:
            return None
        # Not at every one of many short steps; timed by rank 0's clock, because all ranks must check equally often.
        now = time.monotonic()
        each = (now - self._asked_at) / (self._calls - self._asked_call) if self._next else _EVERY_S
        self._asked_at, self._asked_call = now, self._calls
        self._next = self._calls + self._same(max(1, round(_EVERY_S / max(each, 1e-3))))
        import ray.train

        info = ray.train.get_preemption_info()
        fresh = [node for node in info.preempted_node_ids if node not in self._known] if info else []
        if not fresh:
            return None
        self._known.update(fresh)
        left = None if info.deadline_ms is None else round(info.deadline_ms / 1000 - time.time(), 1)
        return {"nodes": fresh, "seconds_left": left}


def notice_said(event: dict[str, Any]) -> str:
    """The event as a sentence for the user."""
    many = len(event["nodes"]) > 1
    left = "soon" if event["seconds_left"] is None else f"in {max(0, event['seconds_left']):.0f} s"
    return (
        f"{len(event['nodes'])} node{'s' if many else ''} of the workers will be reclaimed {left}: saving a checkpoint "
        f"at step {event['step']:,}"
    )
