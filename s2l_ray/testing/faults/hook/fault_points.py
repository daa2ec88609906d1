"""Fault points between any two file operations of a run, in any of its processes.

An audit hook sees a process's file operations before they are done. The variable S2L_FAULT_PLAN (JSON) says what to do:
`record` them, or announce when the moment of one of the `faults` has come, which is the `nth` operation, counted over
all processes, of its `role` at its `place`. Each fault is announced once, by a file with its number in the folder
`markers`, to the test that planned it and does the killing; if the fault has no delay, the process waits for that.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import os
import re
import sys
import threading
import time
from typing import Any

PLAN = "S2L_FAULT_PLAN"
DRIVER = "S2L_FAULT_DRIVER"
_CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.truncate": 0}
"""Audit event → index of the argument that is the path."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_TEMP = re.compile(r"^\.tmp-[0-9a-f]{12}-")
_KINDS = {
    "TrainWorker": "train",
    "training_worker": "alone",
    "TrainController": "controller",
    "ClusterActor": "kmeans",
    "ImplicitFunc": "trial",
}
"""Part of a Ray process's title → its role; other Ray processes run tasks."""
_WAITS_S = 60


def place_of(path: str) -> str:
    """Return the place in a run to which a relative path belongs: `proxy/<key>/snapshots`, `run.json`."""
    parts = [_TEMP.sub("", part) for part in path.split("/")]
    return parts[0] if parts[0] == "locks" else "/".join(parts[:3])


def role_of(pid: int) -> str:
    """Return the role of a descendant of the driver, according to the title that Ray gives it."""
    with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
        title = file.read()
    return next((role for part, role in _KINDS.items() if part in title), "task")


class FaultPoints:
    """Counts file operations, and announces faults whose moment has come."""

    def __init__(self, plan: dict[str, Any], driver: int) -> None:
        self.plan, self.is_driver = plan, driver == os.getpid()
        self._folder = plan["run"] + "/"
        self._inside = threading.local()

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, writes = args[0], bool(args[2] & _WRITING)
        elif event in _CHANGES:
            path, writes = args[_CHANGES[event]], True
        else:
            return
        if writes and isinstance(path, (str, os.PathLike)):
            self.reached(os.fspath(path))

    def reached(self, path: str | bytes) -> None:
        if not isinstance(path, str) or not path.startswith(self._folder) or getattr(self._inside, "own", False):
            return
        self._inside.own = True
        try:
            self._count_deletions_too()
            place = place_of(path[len(self._folder) :])
            role = "driver" if self.is_driver else role_of(os.getpid())
            if self.plan["record"]:
                _append(self.plan["record"], f"{role} {place}\n")
            for i, fault in enumerate(self.plan["faults"]):
                if role == fault["role"] and fnmatch.fnmatchcase(place, fault["place"]):
                    marker = f"{self.plan['markers']}/{i}"
                    if _append(f"{marker}.count", ".") >= fault["nth"]:
                        _announce(marker, waits=fault["delay"] == 0)
        finally:
            self._inside.own = False

    def _count_deletions_too(self) -> None:
        """Count deletions as well, which pyarrow does without triggering audit events."""
        module = sys.modules.get("s2l_ray.storage.folder")
        storage = getattr(module, "Storage", None)
        if storage is None or hasattr(storage.delete, "__wrapped__"):
            return
        for name in ("delete", "delete_dir"):
            setattr(storage, name, _announced(getattr(storage, name), self))


def _announced(operation: Any, points: FaultPoints) -> Any:
    @functools.wraps(operation)
    def announced(storage: Any, rel: str = "") -> None:
        points.reached(f"{storage.path}/{rel}")
        operation(storage, rel)

    return announced


def _announce(marker: str, waits: bool) -> None:
    """Write the marker if no other process has, and wait until the test has reacted."""
    try:
        descriptor = os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    os.write(descriptor, f"{os.getpid()}\n".encode())
    os.close(descriptor)
    deadline = time.monotonic() + _WAITS_S
    while waits and time.monotonic() < deadline and not os.path.exists(f"{marker}.done"):
        time.sleep(0.005)


def _append(path: str, text: str) -> int:
    """Append to a file, and return its new length."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, text.encode())
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


def install() -> None:
    """Install the hook; the first of all processes that inherit the plan is the driver."""
    driver = int(os.environ.setdefault(DRIVER, str(os.getpid())))
    points = FaultPoints(json.loads(os.environ[PLAN]), driver)
    sys.addaudithook(points.audit)
