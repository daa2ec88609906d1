"""SIGTERM (`ray job stop`, systemd, Kubernetes) ends a run as Ctrl-C does, told apart by the exit code.

Ray and Ray Train put handlers of their own in the way: `ray.init` has the process dump its stack and abort at SIGTERM,
and `fit` has it exit without a word at Ctrl-C, even long after that training is over.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

STOPPED = 143
"""Exit code after SIGTERM: 128 + 15, as a shell says it."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class _SigtermHandler:
    """Raises KeyboardInterrupt: the one exception that Ray lets out of a waiting `ray.get`, for any signal."""

    def __init__(self) -> None:
        self.received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.received:  # a second one must not interrupt the clean-up
            self.received = True
            raise KeyboardInterrupt


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[_SigtermHandler]:
    """Inside the block SIGTERM raises KeyboardInterrupt; what is yielded says afterwards whether it came."""
    handler = _SigtermHandler()
    if threading.current_thread() is not threading.main_thread():
        yield handler
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield handler
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def own_handlers_kept() -> Iterator[None]:
    """What the block does to the handlers of SIGTERM and Ctrl-C is undone after it, where Python code had set them.

    Raises:
        KeyboardInterrupt: also where a handler of Ray's turned the signal into SystemExit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except SystemExit as wanted:
        term = before[signal.SIGTERM]
        if wanted.code == signal.SIGTERM and callable(term):
            term(signal.SIGTERM, None)
        raise KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            # SIG_DFL would kill the process without any clean-up: then Ray's own is the better one.
            if callable(handler):
                signal.signal(number, handler)
