"""SIGTERM (`ray job stop`, systemd, Kubernetes), SIGHUP (a closed terminal) and Ctrl-C all end a run in the same way.

They differ in the exit code. `ray.init` installs its own handler, which makes the process dump its stack and abort on
SIGTERM; Ray Train's handler is not installed at all (execution.interruptible).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import psutil

from s2l_ray.storage.processes import run_abrupt_end

STOPPED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, by shell convention."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGACTION_BYTES = 256
"""At least the size of C's `struct sigaction` on any system (bytes)."""
_SAME_KEYPRESS_S = 0.2
"""Ctrl-C reaches all processes of the terminal, and some of them pass it on."""


class EndingSignals:
    """Handler for all three signals. The first one raises KeyboardInterrupt, the only exception that Ray lets out of a
    waiting `ray.get`. A second Ctrl-C ends the process immediately; other further signals are ignored, since service
    managers send several and clean-up is under way."""

    def __init__(self) -> None:
        self.first: int | None = None
        """The number of the first signal."""
        self._at = 0.0
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    @property
    def exit_code(self) -> int:
        return 128 + (self.first or signal.SIGINT)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.note(number):
            raise KeyboardInterrupt

    def note(self, number: int) -> bool:
        """Whether this is the first."""
        if self.first is None:
            self.first, self._at = number, time.monotonic()
            if number == signal.SIGHUP:  # the terminal is gone, and writing to it would fail during clean-up
                _to_nowhere(self._terminals)
            return True
        if number == signal.SIGINT and time.monotonic() - self._at > _SAME_KEYPRESS_S:
            end_at_once(128 + number)
        return False


def end_at_once(exit_code: int) -> None:
    """End this process and everything it started immediately; only locks are released and tokens removed."""
    with contextlib.suppress(OSError):
        os.write(2, b"\nending at once\n")
    started = psutil.Process().children(recursive=True)
    for process in started:
        with contextlib.suppress(psutil.Error):
            process.kill()
    run_abrupt_end()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(exit_code)


def _to_nowhere(descriptors: list[int]) -> None:
    """Discard what is written to these descriptors from now on, without an error."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in descriptors:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextlib.contextmanager
def ending_signals() -> Iterator[EndingSignals]:
    """Make the three signals raise KeyboardInterrupt inside the block; the yielded object records which one came.

    Signals that this process ignores (`nohup`, a script's background job) stay ignored.
    """
    handler = EndingSignals()
    if threading.current_thread() is not threading.main_thread():
        yield handler
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number in _SIGNALS if before[number] is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, handler)
    try:
        yield handler
    finally:
        for number in ours:
            signal.signal(number, before[number])
        if handler.first is not None:  # nothing is left to clean up, and the interpreter is slow to exit
            signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def own_handlers_kept() -> Iterator[None]:
    """Restore the signal handlers that Python code had set before the block.

    Raises:
        KeyboardInterrupt: if Ray's handler turned a SIGTERM into SystemExit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    except SystemExit as wanted:
        ours = before[signal.SIGTERM]
        if wanted.code != signal.SIGTERM or not isinstance(ours, EndingSignals):
            raise
        ours.note(signal.SIGTERM)
        raise KeyboardInterrupt from None
    finally:
        for each, handler in before.items():
            # SIG_DFL would kill the process without any clean-up, so Ray's own handler is better.
            if callable(handler):
                signal.signal(each, handler)


@contextlib.contextmanager
def dispositions_put_back() -> Iterator[None]:
    """Undo, within milliseconds, what C code does to the signals' dispositions inside the block.

    Ray 2.60's shutdown resets SIGTERM to the system's default, which ends a process without any clean-up, a second
    before it is done, and Python does not notice.
    """
    libc = ctypes.CDLL(None)
    before = {number: ctypes.create_string_buffer(_SIGACTION_BYTES) for number in _SIGNALS}
    for number, action in before.items():
        libc.sigaction(number, None, action)

    def put_back() -> None:
        for number, action in before.items():
            libc.sigaction(number, action, None)

    done = threading.Event()

    def look_after() -> None:
        while not done.wait(0.005):
            put_back()

    thread = threading.Thread(target=look_after, name="s2l-signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        put_back()
