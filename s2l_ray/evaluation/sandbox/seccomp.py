"""The filter for a program's system calls. Standard library only; see `syscalls`.

Classic BPF for seccomp(2), built here so that the nodes need no library.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

from .syscalls import CHECKED, DENIED, NEWEST

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false (both counted from the next instruction), operand."""

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_IF_EQUAL, _IF_GREATER, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x25, 0x35, 0x45
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

ALLOW, KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
REFUSE = _ERRNO | errno.EPERM
REFUSE_ACCESS = _ERRNO | errno.EACCES
ABSENT = _ERRNO | errno.ENOSYS
PRETEND = _ERRNO | 0
"""Verdict: do nothing and return 0."""

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine → its audit number, and its column in the tables."""

_CLONE_THREAD, _CLONE_NAMESPACES = 0x00010000, 0x7E020000
_OPEN_TO_CHANGE = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC (which works on a file opened for reading) and O_TMPFILE: equal on both."""
_FCNTL = (0, 1, 2, 3, 4, 1030, 1032)
"""Allowed fcntl commands: duplicate, flags, size of a pipe. Not F_SETOWN and F_SETSIG, which signal others, nor locks
and leases."""
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
"""Allowed ioctl requests: is it a terminal, its size, bytes to read, non-blocking, close-on-exec."""
_PRCTL = (2, 3, 15, 16, 21, 23, 39, 0x53564D41)
"""Allowed prctl options: names of threads and memory, and reading; not the parent-death signal or dumpability."""


class _SockFilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def supported_machine() -> str | None:
    """This process's architecture, if there is a table for it (32-bit processes on 64-bit kernels have another)."""
    machine = platform.machine()
    return machine if machine in ARCHITECTURES and sys.maxsize > 2**32 else None


def build_filter(machine: str, pid: int) -> list[Instruction]:
    """The filter for the process `pid`, which may signal only itself."""
    audit, column = ARCHITECTURES[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, audit), _then(KILL),  # 32-bit calls of a 64-bit process
        (_LOAD, 0, 0, _NUMBER), (_IF_GREATER, 0, 1, NEWEST), _then(ABSENT),  # including all of x32
    ]  # fmt: skip
    for name, body in _checks(pid).items():
        if (number := CHECKED[name][column]) is not None:
            code += [(_IF_EQUAL, 0, len(body), number), *body]
    for low, high in _ranges(sorted(n for row in DENIED.values() if (n := row[column]) is not None)):
        code += [(_IF_AT_LEAST, 0, 2, low), (_IF_GREATER, 1, 0, high), _then(REFUSE)]
    return [*code, _then(ALLOW)]


def install_filter(instructions: list[Instruction]) -> None:
    """Install the filter permanently for this thread. `no_new_privs` must be set.

    Raises:
        OSError: the kernel refuses.
    """
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    program = _SockFilterProgram(len(instructions), ctypes.addressof(buffer))
    set_seccomp, mode_filter = 22, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(set_seccomp, mode_filter, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def _checks(pid: int) -> dict[str, list[Instruction]]:
    """Name → instructions that end in a verdict."""
    itself = _only(0, (pid,))
    return {
        "clone": [
            _argument(0), (_AND, 0, 0, _CLONE_THREAD | _CLONE_NAMESPACES), (_IF_EQUAL, 0, 1, _CLONE_THREAD),
            _then(ALLOW), _then(REFUSE),
        ],
        "clone3": [_then(ABSENT)],  # its flags are in memory, which filters cannot read; libc falls back to clone
        "openat2": [_then(ABSENT)],
        "open": _unless_any_bit(1, _OPEN_TO_CHANGE),
        "openat": _unless_any_bit(2, _OPEN_TO_CHANGE),
        "kill": itself, "tkill": itself, "tgkill": itself, "rt_sigqueueinfo": itself, "rt_tgsigqueueinfo": itself,
        "fcntl": _only(1, _FCNTL),
        "ioctl": _only(1, _IOCTL),
        "prctl": _only(0, _PRCTL),
        # A program that sets limits continues as if it had succeeded, but keeps its existing limits.
        "setrlimit": [_then(PRETEND)],
        "prlimit64": [
            _argument(0), (_IF_EQUAL, 2, 0, 0), (_IF_EQUAL, 1, 0, pid), _then(REFUSE),
            _argument(2), (_IF_EQUAL, 0, 3, 0), _argument(2, upper=True), (_IF_EQUAL, 0, 1, 0),
            _then(ALLOW), _then(PRETEND),
        ],
    }  # fmt: skip


def _then(verdict: int) -> Instruction:
    return (_RETURN, 0, 0, verdict)


def _argument(index: int, upper: bool = False) -> Instruction:
    """Load 32 bits: the lower ones are all that the kernel takes of an int."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index + 4 * upper)


def _only(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    code = [_argument(argument)]
    for value in values:
        code += [(_IF_EQUAL, 0, 1, value), _then(ALLOW)]
    return [*code, _then(REFUSE)]


def _unless_any_bit(argument: int, mask: int) -> list[Instruction]:
    return [_argument(argument), (_IF_ANY_BIT, 0, 1, mask), _then(REFUSE_ACCESS), _then(ALLOW)]


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, first and last."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
