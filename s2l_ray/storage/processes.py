"""Identify this process and machine, and tell whether another process is still running."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_abrupt_end: list[Callable[[], None]] = []


def machine_id() -> str:
    """Return an id that is equal for processes that can see each other's pids.

    The host name is not sufficient: machines from one image share it, and containers on one machine share the boot id
    but not the pids. Wrongly concluding that a pid does not exist would steal a live lock.
    """
    boot = _read_text("/proc/sys/kernel/random/boot_id")
    try:
        pid_namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        pid_namespace = ""
    return f"{socket.gethostname()}|{boot}|{pid_namespace}"


def host_name() -> str:
    return socket.gethostname()


def user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return f"uid {os.getuid()}"


def start_time(pid: int) -> str | None:
    """Return when a process on this machine started, in the system's own notation; None if it is not running.

    Pids are reused, but pid and start time together identify a process. A zombie does not count as running.
    """
    if platform.system() == "Linux":
        # Fields after the name in parentheses, which may have spaces: state is the 3rd in proc(5), starttime the 22nd.
        fields = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


def steady_clock_s() -> float:
    """Return seconds of a clock that never goes back and, on Linux, continues while the machine sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


@contextlib.contextmanager
def at_abrupt_end(callback: Callable[[], None]) -> Iterator[None]:
    """Register `callback` for the block, to be called if this process exits without unwinding the stack."""
    _abrupt_end.append(callback)
    try:
        yield
    finally:
        _abrupt_end.remove(callback)


def run_abrupt_end(timeout_s: float = 5.0) -> None:
    """Call the callbacks of `at_abrupt_end`, latest first, without waiting longer than `timeout_s`."""

    def run() -> None:
        for callback in reversed(list(_abrupt_end)):
            with contextlib.suppress(Exception):
                callback()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def forget_peak() -> None:
    """Make `peak_resident_bytes` count from now on, if the system supports it (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident_bytes() -> int:
    """Return the highest resident memory of this process so far (bytes).

    On Linux, a program started by a large process inherits its `ru_maxrss`, so the program's own high-water mark is
    read instead.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
