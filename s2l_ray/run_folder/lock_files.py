"""What a lock file holds, and what another process sees of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from s2l_ray.run_folder.storage import FileEntry


@dataclass(frozen=True)
class LockRecord:
    """One lock file's content."""

    machine: str
    host: str
    pid: int
    process_start: str | None
    user: str
    command: str
    state: str  # `trying` or `held`
    created: str  # ISO 8601, UTC
    heartbeat: str  # ISO 8601, UTC; for people, and where the storage keeps no time stamps


@dataclass(frozen=True)
class SeenLock:
    """Another process's lock file as listed."""

    token: str
    record: LockRecord | None  # None: unreadable (half-written on storage without atomic writes)
    age_s: float

    @property
    def holds(self) -> bool:
        """Whether it has won already, or must be taken to have."""
        if self is NOT_LISTED:
            return False
        return self.record is None or self.record.state == "held"


NOT_LISTED = SeenLock("", None, 0.0)
"""Stands for my own file when a listing lacks it, or when writing it took so long that others may have removed it."""


def describe(seen: SeenLock) -> str:
    """The lock, its holder and since when, for messages."""
    if seen is NOT_LISTED:
        return "nobody else, but the storage does not list this process's own lock file or is too slow to trust it"
    record = seen.record
    if record is None:
        return f"an unreadable lock ({seen.token}.json), last changed {max(0, seen.age_s):.0f} s ago"
    verb = "held" if seen.holds else "being taken"
    who = f"pid {record.pid} on {record.host} (user {record.user})"
    return f"the lock {verb} by {who} since {record.created}: {record.command}"


def parse_record(content: bytes) -> LockRecord | None:
    try:
        fields: dict[str, Any] = json.loads(content)
        record = LockRecord(**fields)
    except (ValueError, TypeError):
        return None
    return record if isinstance(record.pid, int) else None


def age_s_between(own: FileEntry, other: FileEntry, record: LockRecord | None) -> float:
    """How long before my own file the other was written, by the storage's clock (the hosts', if it has none)."""
    if own.mtime_ns and other.mtime_ns:
        return (own.mtime_ns - other.mtime_ns) / 1e9
    if record is None:
        return 0.0
    return (datetime.now(timezone.utc) - datetime.fromisoformat(record.heartbeat)).total_seconds()


def utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
