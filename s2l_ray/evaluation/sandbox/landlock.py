"""Landlock restricts which files a program may read; it may change none. Standard library only.

Needs Linux 5.13 but no privileges. https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""ABI → number of file access rights from that version on: the first 13, moving between folders, truncating, ioctl."""
_NET_BIND_AND_CONNECT, _NET_SINCE = 0b11, 4
_SCOPE_SOCKETS_AND_SIGNALS, _SCOPE_SINCE = 0b11, 6

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """The kernel's version of Landlock.

    Raises:
        OSError: ENOSYS if it is not built in or refused by a container, EOPNOTSUPP if it is disabled.
    """
    return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))


def read_only_ruleset(abi: int, paths: Iterable[str]) -> int:
    """Create rules that allow reading below `paths` and nothing else that Landlock controls, and return their
    descriptor.

    Paths that do not exist are skipped.
    """
    rights = max(count for since, count in _FS_RIGHTS.items() if abi >= since)
    attributes = struct.pack("=Q", (1 << rights) - 1)
    if abi >= _NET_SINCE:
        attributes += struct.pack("=Q", _NET_BIND_AND_CONNECT)
    if abi >= _SCOPE_SINCE:
        attributes += struct.pack("=Q", _SCOPE_SOCKETS_AND_SIGNALS)
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    for path in paths:
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            continue  # a dangling link, or something that this user cannot read anyway
        try:
            folder = stat.S_ISDIR(os.fstat(beneath).st_mode)
            rule = struct.pack("=Qi", _READ_FILE | (_READ_DIR if folder else 0), beneath)
            _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
        finally:
            os.close(beneath)
    return ruleset


def restrict_self(ruleset: int) -> None:
    """Apply the rules permanently to this thread and everything it starts. `no_new_privs` must be set."""
    _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))


def _call(number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock")
    return int(result)
