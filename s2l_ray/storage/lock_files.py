"""Content of lock files, and how other processes see them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone

from s2l_ray.storage.folder import FileEntry

LARGEST_BYTES = 1 << 16
"""Larger files are not locks and are not read."""
_LONGEST_TEXT = 500


@dataclass(frozen=True)
class LockRecord:
    """Content of a lock file."""

    machine: str
    host: str
    pid: int
    process_start: str | None
    user: str
    command: str
    state: str  # `trying` or `held`
    created: str  # ISO 8601, UTC
    heartbeat: str  # ISO 8601, UTC; for people, and for storage without time stamps


@dataclass(frozen=True)
class SeenLock:
    """Another process's lock file, as listed."""

    token: str
    record: LockRecord | None  # None: unreadable (half-written on storage without atomic writes)
    age_s: float

    @property
    def holds(self) -> bool:
        """Whether the lock is held, or must be assumed to be."""
        if self is NOT_LISTED:
            return False
        return self.record is None or self.record.state == "held"


NOT_LISTED = SeenLock("", None, 0.0)
"""Placeholder for the own file if a listing lacks it, or if writing it took so long that others may have removed it."""


def describe(seen: SeenLock) -> str:
    """Describe the lock, its holder and since when it has been held, for messages."""
    if seen is NOT_LISTED:
        return "nobody else, but the storage does not list this process's own lock file or is too slow to trust it"
    record = seen.record
    if record is None:
        return f"an unreadable lock ({seen.token}.json), last changed {max(0, seen.age_s):.0f} s ago"
    verb = "held" if seen.holds else "being taken"
    who = f"pid {record.pid} on {_shown(record.host)} (user {_shown(record.user)})"
    return f"the lock {verb} by {who} since {_shown(record.created)}: {_shown(record.command)}"


def _shown(text: str) -> str:
    """Shorten a text, and escape control characters that a terminal would obey."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"


def parse_record(content: bytes) -> LockRecord | None:
    """Parse the content of a lock file; None: no RunLock has written it."""
    if len(content) > LARGEST_BYTES:
        return None
    try:
        record = LockRecord(**json.loads(content))
        datetime.fromisoformat(record.heartbeat)
    except (ValueError, TypeError, RecursionError):  # RecursionError: JSON nested too deeply
        return None
    texts = (record.machine, record.host, record.user, record.command, record.state, record.created, record.heartbeat)
    if not all(isinstance(text, str) for text in texts) or not isinstance(record.process_start, str | None):
        return None
    return record if type(record.pid) is int and record.pid > 0 else None


def age_s_between(own: FileEntry, other: FileEntry, record: LockRecord | None) -> float:
    """Return how long before the own file the other was written, by the storage's clock or else by the hosts'."""
    if own.mtime_ns and other.mtime_ns:
        return (own.mtime_ns - other.mtime_ns) / 1e9
    if record is None:
        return 0.0
    heartbeat = datetime.fromisoformat(record.heartbeat)
    return (
        datetime.now(timezone.utc) - (heartbeat if heartbeat.tzinfo else heartbeat.replace(tzinfo=timezone.utc))
    ).total_seconds()


def utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
