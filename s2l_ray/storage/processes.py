"""Which process on which machine this is, and whether another one still runs."""

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
    """What must be equal for two processes to see each other's pids.

    The host's name alone would not do: machines of one image share it, and containers on one machine share the boot
    but not the pids. A wrong "that pid is not here" would steal a live lock.
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
    """When a process of this machine started, in the system's own notation; None if no such process runs.

    With the pid it names a process for good: pids are used again. A zombie no longer runs.
    """
    if platform.system() == "Linux":
        # Fields after the name in parentheses, which may hold spaces: state is the 3rd of proc(5), starttime the 22nd.
        fields = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


def steady_clock_s() -> float:
    """Seconds that never jump back and, on Linux, go on while the machine sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


@contextlib.contextmanager
def at_abrupt_end(callback: Callable[[], None]) -> Iterator[None]:
    """Inside the block `callback` is what must not be left out when this process ends without unwinding."""
    _abrupt_end.append(callback)
    try:
        yield
    finally:
        _abrupt_end.remove(callback)


def run_abrupt_end(timeout_s: float = 5.0) -> None:
    """Call what `at_abrupt_end` was given, the latest first; what hangs (storage out of reach) is left behind."""

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
    """Have `peak_resident_bytes` count from here, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident_bytes() -> int:
    """Highest resident memory of this process so far (bytes).

    Linux hands `ru_maxrss` down to a program that a large process starts, so there it is the program's own high-water
    mark that counts.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
