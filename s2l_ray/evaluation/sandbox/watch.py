"""Watches one program on the client's side: reads its pipes, ends it at its limits, judges how it ended."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from s2l_ray.errors import EnvironmentFault
from s2l_ray.evaluation.sandbox import child
from s2l_ray.evaluation.sandbox.server import ENDED, KILL, TOO_MANY_TASKS
from s2l_ray.evaluation.sandbox.settings import Outcome, ProgramResult

_MAX_LOCK_S = 60.0
"""Timeout for forking and locking, which may take a while on a busy machine (seconds)."""
_MAX_END_S = 30.0
_ERROR_BYTES = 4096
_MAX_ERROR_BYTES = 8 << 20
"""Maximum amount to read, since reading more would cost the reader more than the program (bytes)."""
_CHUNK_BYTES = 65536


class ServerFault(EnvironmentFault):
    """The server reports that it cannot isolate programs or cannot start."""


class ServerDied(EnvironmentFault):
    """The server ended or hangs in the middle of a request."""


@dataclass
class Watch:
    """A program from request to result; a context manager that closes its pipes."""

    server: socket.socket
    seconds: float
    output_bytes: int
    source: bytearray
    """The part of the program that has not been written yet."""
    output: bytearray = field(default_factory=bytearray)
    errors: bytearray = field(default_factory=bytearray)
    """The last part of standard error."""
    num_error_bytes: int = 0
    said: bytearray = field(default_factory=bytearray)
    """What the process reported on itself before the program began."""
    stopped: tuple[Outcome, str] | None = None
    """Outcome and reason if the program was ended from outside."""
    started: float | None = None
    """Time at which it was locked, on the monotonic clock."""
    _ended: tuple[int, int, float] | None = None
    """The server's report: how, exit code, processor time (seconds)."""
    _ends: dict[int, Callable[[int], bool]] = field(default_factory=dict)
    """Our end of each pipe → function that handles it, which returns False at its end."""
    _poll: select.poll = field(default_factory=select.poll)
    _deadline: float = 0.0

    def __enter__(self) -> Watch:
        """Create the pipes and have the server fork. Raises ServerDied."""
        theirs: list[int] = []
        try:
            for take, event in (
                (self._feed, select.POLLOUT), (self._take_output, select.POLLIN), (self._take_errors, select.POLLIN),
                (self._take_status, select.POLLIN),
            ):  # fmt: skip
                read, write = os.pipe()
                ours, other = (write, read) if event == select.POLLOUT else (read, write)
                theirs.append(other)
                self._ends[ours] = take
                os.set_blocking(ours, False)
                self._poll.register(ours, event)
            self._poll.register(self.server, select.POLLIN)
            socket.send_fds(self.server, [b"R"], theirs)
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError):
                raise ServerDied(str(error)) from error
            raise
        finally:
            for end in theirs:
                os.close(end)
        return self

    def __exit__(self, *_: object) -> None:
        for end in list(self._ends):
            self._drop(end)

    def result(self) -> ProgramResult:
        """Wait until the program has ended.

        Raises:
            ServerDied: the server ended or hangs.
            ServerFault: the process could not be locked; nothing was run.
        """
        self._deadline = time.monotonic() + _MAX_LOCK_S
        while self._ended is None:
            for end, _ in self._poll.poll(max(0.0, self._deadline - time.monotonic()) * 1000):
                if end == self.server.fileno():
                    self._take_report()
                elif end in self._ends and not self._ends[end](end):
                    self._drop(end)
            if time.monotonic() >= self._deadline and self._ended is None:
                self._time_is_up()
        seconds = 0.0 if self.started is None else time.monotonic() - self.started
        for end, take in list(self._ends.items()):
            while take != self._feed and self._has_input(end) and take(end):
                pass
        return self._judged(seconds)

    def _time_is_up(self) -> None:
        if self.stopped:
            raise ServerDied("it does not end a program")
        if self.started is None:
            raise ServerDied(f"locking takes longer than {_MAX_LOCK_S:.0f} s")
        self._stop("timeout", f"longer than {self.seconds:g} s")

    def _stop(self, outcome: Outcome, reason: str) -> None:
        if self.stopped or self._ended:
            self.stopped = self.stopped or (outcome, reason)
            return
        self.stopped = (outcome, reason)
        self._deadline = time.monotonic() + _MAX_END_S
        try:
            self.server.sendall(KILL)
        except OSError as error:
            raise ServerDied(str(error)) from error

    def _take_report(self) -> None:
        try:
            report = self.server.recv(struct.calcsize(ENDED), socket.MSG_WAITALL)
        except OSError as error:
            raise ServerDied(str(error)) from error
        if len(report) < struct.calcsize(ENDED):
            raise ServerDied("it ended")
        self._ended = struct.unpack(ENDED, report)

    def _feed(self, end: int) -> bool:
        try:
            del self.source[: os.write(end, self.source[:_CHUNK_BYTES])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            return False
        return bool(self.source)

    def _take_output(self, end: int) -> bool:
        piece = os.read(end, _CHUNK_BYTES)
        self.output += piece
        if len(self.output) > self.output_bytes:
            del self.output[self.output_bytes :]
            self._stop("output_limit", f"more than {self.output_bytes // 1024} KiB")
        return bool(piece)

    def _take_errors(self, end: int) -> bool:
        piece = os.read(end, _CHUNK_BYTES)
        self.errors = (self.errors + piece)[-_ERROR_BYTES:]
        self.num_error_bytes += len(piece)
        if self.num_error_bytes > _MAX_ERROR_BYTES:
            self._stop("output_limit", f"more than {_MAX_ERROR_BYTES >> 20} MiB of errors")
        return bool(piece)

    def _take_status(self, end: int) -> bool:
        piece = os.read(end, _CHUNK_BYTES)
        self.said += piece
        if self.started is None and self.said.startswith(child.LOCKED):
            self.started = time.monotonic()
            self._deadline = self.started + self.seconds
        return bool(piece)

    def _drop(self, end: int) -> None:
        del self._ends[end]
        self._poll.unregister(end)
        os.close(end)

    @staticmethod
    def _has_input(end: int) -> bool:
        poll = select.poll()
        poll.register(end, select.POLLIN)
        return bool(poll.poll(0))

    def _judged(self, seconds: float) -> ProgramResult:
        assert self._ended is not None
        how, code, cpu_s = self._ended
        if self.started is None:
            if self.said.startswith(child.FAULT):
                raise ServerFault(bytes(self.said[1:]).decode("utf-8", "replace"))
            raise ServerDied(f"a process ended before it was locked: {_status_name(code)}")
        outcome, reason = self._outcome(how, code, cpu_s)
        text = bytes(self.output).decode("utf-8", "replace")
        if outcome == "ok" and not text.strip():
            outcome = "no_output"
        return ProgramResult(outcome, text, seconds, reason)

    def _outcome(self, how: int, code: int, cpu_s: float) -> tuple[Outcome, str]:
        said = bytes(self.said)
        if said.startswith(child.LOCKED + child.SYNTAX):
            return "syntax_error", said[2:].decode("utf-8", "replace")
        if self.stopped:
            return self.stopped
        if how == TOO_MANY_TASKS:
            return "memory", "too many threads"
        if code == 0:
            return "ok", ""
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu_s >= self.seconds):
            return "timeout", f"more than {self.seconds:g} s of processor time"
        if code == -signal.SIGSYS:
            return "denied", "a system call of another architecture"
        if code < 0:
            return "exception", _status_name(code)
        lines = bytes(self.errors).decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1].strip()[:400] if lines else _status_name(code)
        if code == child.MEMORY:
            return "memory", reason
        return ("denied" if code == child.DENIED else "exception"), reason


def _status_name(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
