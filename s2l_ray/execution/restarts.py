"""Events for workers that restart or wait for resources. Imports no Ray."""

from __future__ import annotations

from typing import Any

RESTART, WAITING = "restart", "waiting"


def restart_said(event: dict[str, Any]) -> str:
    """The event as a sentence for the user."""
    if event["event"] == WAITING:
        return f"there are no resources for the workers yet, still waiting: {event['cause']}"
    return f"workers were lost, so all restart from the last checkpoint: {event['cause']}"
