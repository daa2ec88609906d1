"""Kill the victims of faults at the planned moments, and make sure that they are dead."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from s2l_ray.testing.faults.fault_plan import Fault

_SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
_OF_RAY = {
    "controller": ("ray::TrainController",),
    "worker": ("ray::RayTrainWorker",),
    "workers": ("ray::RayTrainWorker",),
    "controller and workers": ("ray::TrainController", "ray::RayTrainWorker"),
    "raylet": ("raylet",),
    "gcs": ("gcs_server",),
}
"""Victim → prefixes of its processes' titles."""
_DIES_S = 20


class Striker:
    """Kills the victims of one command; call `look` as often as possible."""

    def __init__(self, driver: int, folder: Path, faults: Sequence[Fault]) -> None:
        """Prepare for a command; `folder` is where the hook writes its markers."""
        self.struck: dict[Fault, str] = {}
        """Killed processes of each fault: pids and titles."""
        self._driver = psutil.Process(driver)
        self._waiting = {fault: folder / str(i) for i, fault in enumerate(faults)}
        self._due: dict[Fault, float] = {}

    def look(self) -> None:
        """Carry out the faults whose moment has come.

        Raises:
            AssertionError: a fault finds no process of the kind that it is to kill, or cannot kill it.
        """
        for fault, marker in list(self._waiting.items()):
            if marker.exists() and fault not in self._due:
                self._due[fault] = time.monotonic() + fault.delay
            if time.monotonic() >= self._due.get(fault, float("inf")) and (who := marker.read_text()).endswith("\n"):
                del self._waiting[fault]
                try:
                    self._strike(fault, int(who))
                finally:
                    marker.with_suffix(".done").touch()

    def _strike(self, fault: Fault, who: int) -> None:
        chosen = self._victims(fault.victim, who)
        if not chosen:
            # The victim certainly exists only while a process waits for the fault and the driver is alive: another
            # fault, or the end of the command, may have ended either.
            told = f"{fault}: no such process among {[_title(p) for p in self._below()]}"
            assert fault.delay or _is_gone(who) or is_dead(self._driver), told
            return  # not carried out: the next command tries it again
        told = ", ".join(f"{process.pid} {_title(process)}" for process in chosen)
        if fault.victim in _SIGNALS:
            os.kill(self._driver.pid, _SIGNALS[fault.victim])
        else:
            for process in chosen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            deadline = time.monotonic() + _DIES_S
            while living := [process for process in chosen if not is_dead(process)]:
                assert time.monotonic() < deadline, f"{fault}: {living} live on"
                time.sleep(0.002)
        self.struck[fault] = told

    def _victims(self, victim: str, who: int) -> list[psutil.Process]:
        """Return the victims that are alive."""
        if victim == "tree":
            chosen = [self._driver, *self._below()]
        elif victim == "driver" or victim in _SIGNALS:
            chosen = [self._driver]
        elif victim == "self":
            chosen = [process for process in self._below() if process.pid == who]
        else:
            chosen = [process for process in self._below() if _title(process).startswith(_OF_RAY[victim])]
            chosen = chosen[-1:] if victim == "worker" else chosen
        return [process for process in chosen if not is_dead(process)]

    def _below(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return self._driver.children(recursive=True)
        return []


def is_dead(process: psutil.Process) -> bool:
    """Whether the process is dead, including zombies."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def _is_gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return is_dead(psutil.Process(pid))
    return True


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error, IndexError):
        return os.path.basename(process.cmdline()[0])[:80]
    return ""
