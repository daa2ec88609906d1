"""Events of workers that start again, and of those that wait for places. Imports no Ray."""

from __future__ import annotations

from typing import Any

RESTART, WAITING = "restart", "waiting"


def restart_said(event: dict[str, Any]) -> str:
    """The event as a sentence."""
    if event["event"] == WAITING:
        return f"there are no resources for the workers yet, still waiting: {event['cause']}"
    return f"workers were lost, all start again from the last checkpoint: {event['cause']}"
