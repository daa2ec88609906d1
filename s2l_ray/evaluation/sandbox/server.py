"""The fork server: a process without Ray or credentials that has imported what programs need. Standard library only.

The client sends it four descriptors for each program, over the socket that is its standard input; it forks, ends the
program when told to, and reports how it ended. It reads neither programs nor their output, so that its memory, of which
every program gets a copy, contains nothing of the others. It exits when its input is closed. `fork_server` loads it
under another package name, so that nothing else of s2l_ray is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

from .child import run_child
from .lock import Lock, adopt_orphans
from .prepare import Unable, prepare

KILL = b"K"
ENDED = ">Bid"
"""A report: how, exit code (negative: signal), processor time (seconds)."""
BY_ITSELF, TOO_MANY_TASKS = 0, 1

_TICK_MS = 50
_POLL_MS = 5
"""Interval between checks for an ended child if the kernel has no process descriptors (milliseconds)."""
_MAX_TASKS = 512
"""Threads with tiny stacks cost the kernel memory that no limit counts."""
_ORPHAN_ROUNDS = 10_000


def main() -> None:
    """Serve until the input ends. `sys.argv[-1]`: the settings as JSON."""
    settings = json.loads(sys.argv[-1])
    user = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # so that a package's output is not mistaken for a message
        os.dup2(null, stream)
    os.close(null)
    try:
        ready, lock = prepare(settings)
    except Unable as error:
        send(user, {"fault": str(error)})
        return
    adopt_orphans()
    send(user, ready)
    while True:
        request, descriptors, _, _ = socket.recv_fds(user, 1, 4)
        if request == KILL:
            continue  # that program has just ended
        if len(descriptors) != 4:
            return
        report = _run(user, lock, descriptors)
        if report is None:
            return
        user.sendall(report)


def send(user: socket.socket, message: dict[str, Any]) -> None:
    """Send a message: its length in four bytes, then JSON."""
    data = json.dumps(message).encode()
    user.sendall(struct.pack(">I", len(data)) + data)


def _run(user: socket.socket, lock: Lock, descriptors: list[int]) -> bytes | None:
    """Fork, wait, and return the report; None if the client is gone."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            run_child(parent, lock, *descriptors)
        finally:
            os._exit(1)
    for descriptor in descriptors:
        os.close(descriptor)
    how, raw, cpu_s, present = _wait(user, pid)
    _end_orphans()
    return struct.pack(ENDED, how, os.waitstatus_to_exitcode(raw), cpu_s) if present else None


def _wait(user: socket.socket, pid: int) -> tuple[int, int, float, bool]:
    """Wait for the process → (how it ended, its wait status, its CPU time in seconds, whether the client is still
    there)."""
    how, present = BY_ITSELF, True
    poll = select.poll()
    poll.register(user, select.POLLIN)
    process = _descriptor(pid)
    if process is not None:
        poll.register(process, select.POLLIN)
    looked = time.monotonic()
    try:
        while True:
            ready = poll.poll(_TICK_MS if process is not None else _POLL_MS)
            ended, raw, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                return how, raw, usage.ru_utime + usage.ru_stime, present
            if any(descriptor == user.fileno() for descriptor, _ in ready):
                _kill(pid)
                present = bool(user.recv(1))
                if not present:
                    poll.unregister(user)
            if time.monotonic() - looked > _TICK_MS / 1000:
                looked = time.monotonic()
                if _num_tasks(pid) > _MAX_TASKS:
                    how = TOO_MANY_TASKS
                    _kill(pid)
    finally:
        if process is not None:
            os.close(process)


def _descriptor(pid: int) -> int | None:
    """A descriptor that becomes readable when the process has ended; None if the kernel has none (before Linux 5.3)."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _num_tasks(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0  # it has just ended


def _kill(pid: int) -> None:
    """Kill the process and its session, since without a filter it may have forked. It has not been reaped yet, so its
    id is still its own."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _end_orphans() -> None:
    """End processes that a program left behind if it may fork; they have become children of this process."""
    for _ in range(_ORPHAN_ROUNDS):
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            for orphan in _children():
                _kill(orphan)
            time.sleep(0.001)


def _children() -> list[int]:
    me, found = str(os.getpid()), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parent = file.read().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if parent == me:
            found.append(int(name))
    return found
