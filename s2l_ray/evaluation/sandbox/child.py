"""The process of one program: locks itself, compiles and runs the program, and reports how it ended. Standard library
only.

Before the program runs, and only then, the process reports over a separate pipe that it is locked and that the program
compiles. The pipe is closed before the program starts: a program can only write to its standard output and choose its
exit status, which merely distinguishes kinds of failure.
"""

from __future__ import annotations

import atexit
import builtins
import errno
import gc
import json
import mmap
import os
import pwd
import random
import signal
import socket
import sys
import tempfile
import threading
import types
from typing import Any, NoReturn

from .lock import MAX_DESCRIPTORS, Lock, LockError, die_with_parent, prefer_for_oom_killer

LOCKED, FAULT, SYNTAX = b"L", b"F", b"S"
"""Codes on the status pipe: locked; not locked, and why; locked, but the program does not compile, and why."""

EXCEPTION, MEMORY, DENIED = 1, 103, 104
"""Exit statuses."""

_FILE = "<program>"
_end = os._exit
"""A copy, because programs may replace the original."""
RESERVE_BYTES = 8 << 20
"""Memory that is released after a MemoryError, so that it can be reported."""


def run_child(parent: int, lock: Lock, source: int, stdout: int, stderr: int, status: int) -> NoReturn:
    """Everything that the forked process does.

    Args:
        parent: process id of the one that has forked.
        source: descriptor to read from: the program, as JSON.
        stdout, stderr, status: descriptors to write to.
    """
    try:
        os.setsid()
        die_with_parent(parent)
        program, home = _read_all(source), _home()
        _take_over_streams(stdout, stderr)
        prefer_for_oom_killer()
        lock.apply()
    except (LockError, OSError) as error:
        os.write(status, FAULT + str(error).encode("utf-8", "replace")[:1000])
        _end(1)
    os.closerange(3, status)
    os.closerange(status + 1, MAX_DESCRIPTORS)
    if lock.machine is not None:
        sys.addaudithook(_refuse_shell)
    os.write(status, LOCKED)
    code = _compile(json.loads(program), status)
    os.close(status)
    reserve = [mmap.mmap(-1, RESERVE_BYTES)]  # only address space, since it is never touched
    _exit(_execute(code, home, reserve))


def _read_all(source: int) -> bytes:
    pieces = []
    while piece := os.read(source, 65536):
        pieces.append(piece)
    return b"".join(pieces)


def _take_over_streams(stdout: int, stderr: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    for ours, theirs in ((null, 0), (stdout, 1), (stderr, 2)):
        os.dup2(ours, theirs)
    sys.stdin = sys.__stdin__ = os.fdopen(0, "r", encoding="utf-8")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, "utf-8", "backslashreplace")  # type: ignore[misc]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _refuse_shell(event: str, _: tuple[Any, ...]) -> None:
    """Replace system(3), which reports a refused process as an exit status that a program would print as its answer."""
    if event == "os.system":
        raise PermissionError(errno.EPERM, "Operation not permitted")


def _compile(program: str, status: int) -> types.CodeType:
    """Compile the program, which runs nothing of it."""
    try:
        return compile(program, _FILE, "exec", dont_inherit=True)
    # ValueError: NUL, lone surrogates; MemoryError: too deeply nested for the parser
    except (SyntaxError, ValueError, RecursionError, OverflowError, MemoryError) as error:
        os.write(status, SYNTAX + _reason(error).encode("utf-8", "replace")[:1000])
        _end(1)


def _execute(code: types.CodeType, home: str, reserve: list[mmap.mmap]) -> int:
    """Run the program as `__main__`, including its exit handlers; returns the exit status."""
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __file__=_FILE)
    sys.modules["__main__"] = module
    sys.argv = [""]
    os.environ.clear()
    os.environ["HOME"] = home
    tempfile.tempdir = "/"
    _seed()
    gc.enable()
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        return _status(error, reserve)
    return 0


def _home() -> str:
    """The user's folder, which exists but is refused; without it, a program would look for one that does not exist."""
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except (KeyError, OSError):
        home = ""
    return home if os.path.isdir(home) else "/"


def _seed() -> None:
    """Make the same program print the same on every server."""
    random.seed(0)
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed(0)


def _status(error: BaseException, reserve: list[mmap.mmap]) -> int:
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return 0
    line = _line(error)
    no_memory = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if no_memory:
        reserve.clear()
        error.__traceback__ = None
    where = f" (line {line})" if line else ""
    os.write(2, f"\n{_reason(error)}{where}\n".encode("utf-8", "replace"))
    if no_memory:
        return MEMORY
    return DENIED if _was_denied(error) else EXCEPTION


def _line(error: BaseException) -> int | None:
    """The line of the program in which the error was raised."""
    frames, line = error.__traceback__, None
    while frames is not None:
        if frames.tb_frame.f_code.co_filename == _FILE:
            line = frames.tb_lineno
        frames = frames.tb_next
    return line


def _reason(error: BaseException) -> str:
    try:
        said = str(error).strip().partition("\n")[0]
    except BaseException:  # the program's own class
        said = ""
    return f"{type(error).__name__}: {said}"[:300]


def _was_denied(error: BaseException | None) -> bool:
    """Whether the program failed because the sandbox refused something.

    Libraries wrap such errors (urllib), and names cannot be resolved without a socket or a hosts file.
    """
    for _ in range(16):
        if isinstance(error, PermissionError | socket.gaierror):
            return True
        if error is None:
            return False
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _exit(status: int) -> NoReturn:
    """Shut down like the interpreter: wait for threads, run atexit handlers, flush buffers."""
    try:
        if status != MEMORY:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None and not stream.closed:
                stream.flush()
    except BaseException as error:
        if status == 0:
            os.write(2, f"\n{_reason(error)}\n".encode("utf-8", "replace"))
            status = EXCEPTION
    _end(status)
