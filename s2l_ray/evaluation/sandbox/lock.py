"""Locks a process before it runs a program: limits, no privileges, Landlock, seccomp.

The process cannot undo any of this, and none of it needs privileges. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .landlock import restrict_self
from .seccomp import build_filter, install_filter

MAX_DESCRIPTORS = 64
_MAX_SIGNALS = 256
"""Limit on queued signals, which timers count as too."""
_CPU_MARGIN_S = 1
"""Margin of the CPU limit. Normally the wall-clock limit ends a program first; the CPU limit is for the case that its
watcher is gone."""

_SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 4, 36, 38
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class LockError(Exception):
    """The process could not be locked; the message names the step and the kernel's answer."""


@dataclass(frozen=True)
class Lock:
    """How a program's process is locked."""

    seconds: float
    """Limit on CPU time; the same limit on wall-clock time is enforced elsewhere."""
    memory_bytes: int
    """Limit on address space beyond what the process already has."""
    ruleset: int | None
    """Descriptor of Landlock's rules; None: no Landlock."""
    machine: str | None
    """Architecture of the filter; None: no seccomp."""

    def apply(self) -> None:
        """Lock this process, which must have one thread.

        Raises:
            LockError: a step failed; no program may run.
        """
        with _named("limits"):
            self._set_limits()
        with _named("capabilities"):
            _drop_capabilities()
        with _named("no_new_privs"):
            prctl(_SET_DUMPABLE, 0)  # no core file, whatever the pattern, and no access by other processes
            prctl(_SET_NO_NEW_PRIVS, 1)
        if self.ruleset is not None:
            with _named("Landlock"):
                restrict_self(self.ruleset)
        if self.machine is not None:
            with _named("seccomp"):
                install_filter(build_filter(self.machine, os.getpid()))

    def _set_limits(self) -> None:
        seconds = math.ceil(self.seconds) + _CPU_MARGIN_S
        limits = {
            resource.RLIMIT_AS: address_space() + self.memory_bytes,
            resource.RLIMIT_CPU: seconds,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_NOFILE: MAX_DESCRIPTORS,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
            resource.RLIMIT_SIGPENDING: _MAX_SIGNALS,
        }
        for kind, limit in limits.items():
            hard = resource.getrlimit(kind)[1]
            lower = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(kind, (lower, lower))


def prctl(option: int, value: int) -> None:
    """Call prctl(2); raises OSError if it fails."""
    if _libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))):
        raise OSError(ctypes.get_errno(), "prctl")


def die_with_parent(parent: int) -> None:
    """End by SIGKILL as soon as the process `parent`, which has just forked this one, has ended."""
    prctl(_SET_DEATH_SIGNAL, 9)
    if os.getppid() != parent:
        os._exit(1)


def hide_memory() -> None:
    """Let no process of the same user read this one's memory, descriptors or environment."""
    prctl(_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose parents have ended."""
    prctl(_SET_SUBREAPER, 1)


def prefer_for_oom_killer() -> None:
    """Have the kernel end this process, not the one that holds the model, if the machine runs out of memory."""
    try:
        prctl(_SET_DUMPABLE, 1)  # otherwise the file below would belong to root
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # no /proc here, or a sandbox around this one that has no such file


def address_space() -> int:
    """Bytes of address space of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    none = bytes(24)  # effective, permitted and inheritable, twice 32 bits each
    if _libc.capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


@contextmanager
def _named(step: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        code = getattr(error, "errno", None)
        raise LockError(f"{step}: {errno.errorcode.get(code, code) if code else error}") from error
