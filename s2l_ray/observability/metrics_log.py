"""`metrics.jsonl`: the run's append-only event log, with one JSON object per line."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from s2l_ray.storage.disk_faults import disk_faults_named
from s2l_ray.storage.folder import Storage
from s2l_ray.text.display import one_line

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"

Listener = Callable[[str, str, dict[str, Any]], None]


class MetricsLog:
    """Append-only event log. Every line has `time` (ISO 8601, UTC), `stage`, `event` and the given fields.

    On a local disk, each line is appended immediately in a single write. Object stores cannot append: there, the whole
    file is kept in memory (about 200 bytes per line) and rewritten, at most every `flush_every_s` seconds, for at most
    a tenth of the time, and on `close`. Only one process may write it: hold the run's lock.

    Storage errors do not end the run: they are logged, not raised, and the lines are written with the next flush.

    Args:
        listener: called with (stage, event, fields) of every line, from whatever thread logs it.
    """

    def __init__(
        self,
        storage: Storage,
        name: str = METRICS,
        flush_every_s: float = 5.0,
        listener: Listener | None = None,
    ):
        self.storage, self.name, self.flush_every_s, self.listener = storage, name, flush_every_s, listener
        self._mutex = threading.RLock()
        self._pending: list[bytes] = []
        self._written: bytes | None = None  # content of the object; None on local disks
        self._next_flush_s = 0.0
        self._timer: threading.Timer | None = None
        self._failing = False
        if not storage.is_local:
            self._written = _ended(storage.read_bytes(name)) if storage.exists(name) else b""
        elif storage.exists(name):
            with disk_faults_named(storage.uri_of(name), "writing"):
                self._end_torn_line()

    def log(self, stage: str, event: str, **fields: Any) -> None:
        """Add one line; field values are plain data (numpy scalars too), stored as they are; NaN becomes "NaN"."""
        self.tell(stage, event, **fields)
        # The three fixed names take precedence over fields with the same name.
        record = {**fields, "time": _now(), "stage": stage, "event": event}
        ordered = {key: record.pop(key) for key in ("time", "stage", "event")} | record
        plain = _jsonable(ordered)
        try:
            line = json.dumps(plain, ensure_ascii=False).encode() + b"\n"
        except UnicodeEncodeError:  # half of a surrogate pair, which only JSON's escapes can represent
            line = json.dumps(plain).encode() + b"\n"
        with self._mutex:
            self._pending.append(line)
            wait_s = 0.0 if self._written is None else self._next_flush_s - time.monotonic()
            if wait_s <= 0:
                self.flush()
            elif self._timer is None:
                self._timer = threading.Timer(
                    wait_s, self.flush
                )  # so that the last lines before a quiet period are written, too
                self._timer.daemon = True
                self._timer.start()

    def tell(self, stage: str, event: str, **fields: Any) -> None:
        """Report an event only to the listener, because it is too frequent to be written."""
        if self.listener is not None:
            self.listener(stage, event, fields)

    def flush(self) -> None:
        """Write the pending lines."""
        with self._mutex:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if not self._pending:
                return
            started_s = time.monotonic()
            try:
                # On a full disk, the last attempt may have ended within a line, to which nothing must be appended.
                self._write((b"\n" if self._failing else b"") + b"".join(self._pending))
                self._pending.clear()
                self._failing = False
            except OSError as error:
                if not self._failing:
                    logger.warning(
                        "Cannot write %s in %s (the run continues): %s",
                        self.name,
                        self.storage.uri,
                        one_line(str(error)),
                    )
                self._failing = True
            now_s = time.monotonic()
            self._next_flush_s = now_s + max(self.flush_every_s, 10 * (now_s - started_s))

    def close(self) -> None:
        """Write the pending lines; more may be logged afterwards."""
        self.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, content: bytes) -> None:
        if self._written is not None:
            whole = self._written + content
            self.storage.write_bytes(self.name, whole)
            self._written = whole
            return
        path = self.storage.local_path(self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            while content:
                content = content[os.write(descriptor, content) :]
        finally:
            os.close(descriptor)

    def _end_torn_line(self) -> None:
        with open(self.storage.local_path(self.name), "rb+") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def read_metrics(storage: Storage, name: str = METRICS) -> list[dict[str, Any]]:
    """Read the event log into memory, without lines truncated by a crash; [] if there is none."""
    if not storage.exists(name):
        return []
    records = []
    for line in storage.read_bytes(name).splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _ended(content: bytes) -> bytes:
    return content + b"\n" if content and not content.endswith(b"\n") else content


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # numpy and torch scalars
    if isinstance(value, float):
        # JSON has no NaN; null would read as "not measured".
        return (
            value if math.isfinite(value) else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(float(value))]
        )
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
