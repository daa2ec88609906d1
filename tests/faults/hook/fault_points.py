"""Fault points between any two file operations of a run, in whichever of its processes they happen.

An audit hook sees a process's file operations before they are done. In the variable S2L_FAULT_PLAN (JSON) stands what
to do: `record` them, or for each of the `faults` strike at the `nth` that a process of `role` does at `place`. Each
strikes once: in the process that creates the file of its number in the folder `markers`.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import os
import re
import signal
import sys
import threading
import time
from typing import Any

PLAN = "S2L_FAULT_PLAN"
DRIVER = "S2L_FAULT_DRIVER"
_CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.truncate": 0}
"""Audit event → which argument is the path."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_TEMP = re.compile(r"^\.tmp-[0-9a-f]{12}-")
_DRIVER_SIGNALS = {"driver": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
_OF_RAY = {
    "controller": ("ray::TrainController",),
    "worker": ("ray::RayTrainWorker",),
    "workers": ("ray::RayTrainWorker",),
    "controller and workers": ("ray::TrainController", "ray::RayTrainWorker"),
    "raylet": ("raylet",),
    "gcs": ("gcs_server",),
}
"""Victim → starts of its command lines."""


def place_of(path: str) -> str:
    """Where in a run a path (relative to its folder) belongs: `proxy/<key>/snapshots`, `run.json`."""
    parts = [_TEMP.sub("", part) for part in path.split("/")]
    return parts[0] if parts[0] == "locks" else "/".join(parts[:3])


class FaultPoints:
    """Counts this process's file operations, and strikes when it is time."""

    def __init__(self, plan: dict[str, Any], driver: int) -> None:
        self.plan, self.driver = plan, driver
        self.role = "driver" if driver == os.getpid() else "worker"
        self._folder = plan["run"] + "/"
        self._counts = [0] * len(plan["faults"])
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
            if self.plan["record"]:
                _append(self.plan["record"], f"{os.getpid()} {self.role} {place}\n")
            for i, fault in enumerate(self.plan["faults"]):
                if self.role == fault["role"] and fnmatch.fnmatchcase(place, fault["place"]):
                    self._counts[i] += 1
                    if self._counts[i] == fault["nth"]:
                        self._strike(fault, f"{self.plan['markers']}/{i}")
        finally:
            self._inside.own = False

    def _count_deletions_too(self) -> None:
        """pyarrow deletes without Python's knowledge."""
        module = sys.modules.get("s2l_ray.run_folder.storage")
        storage = getattr(module, "Storage", None)
        if storage is None or hasattr(storage.delete, "__wrapped__"):
            return
        for name in ("delete", "delete_dir"):
            setattr(storage, name, _announced(getattr(storage, name), self))

    def _strike(self, fault: dict[str, Any], marker: str) -> None:
        if not _claim(marker):
            return
        if not fault["delay"]:
            strike(fault["victim"], self.driver, marker)
            return

        def later() -> None:
            time.sleep(fault["delay"])
            strike(fault["victim"], self.driver, marker)

        threading.Thread(target=later, daemon=True).start()


def _announced(operation: Any, points: FaultPoints) -> Any:
    @functools.wraps(operation)
    def announced(storage: Any, rel: str = "") -> None:
        points.reached(f"{storage.path}/{rel}")
        operation(storage, rel)

    return announced


def strike(victim: str, driver: int, marker: str) -> None:
    """Kill the victim; the marker says which processes that were."""
    import psutil

    if victim in _DRIVER_SIGNALS:
        _append(marker, f"{victim}: {driver}\n")
        os.kill(driver, _DRIVER_SIGNALS[victim])
        return
    below = psutil.Process(driver).children(recursive=True)
    if victim == "tree":
        chosen = [p.pid for p in below] + [driver]
    else:  # where no training is under way, whoever has come to this point
        chosen = _of_ray(victim, below) or [os.getpid()]
    _append(marker, f"{victim}: {chosen}\n")
    for pid in sorted(chosen, key=lambda pid: pid == os.getpid()):  # itself last
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _of_ray(victim: str, below: list[Any]) -> list[int]:
    import psutil

    found = []
    for process in below:
        try:
            names = (os.path.basename(process.cmdline()[0]), process.name())
        except (psutil.Error, IndexError):  # it has ended meanwhile
            continue
        if any(name.startswith(_OF_RAY.get(victim, ())) for name in names):
            found.append(process.pid)
    return found[-1:] if victim == "worker" else found


def _claim(marker: str) -> bool:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _append(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def install() -> None:
    """The first process of all that inherit the plan is the driver."""
    driver = int(os.environ.setdefault(DRIVER, str(os.getpid())))
    points = FaultPoints(json.loads(os.environ[PLAN]), driver)
    sys.addaudithook(points.audit)
