"""The errors of this package under one root, what of them people read, and the exit code that tells how far it came.

Every error that is raised on purpose is one of these. `retryable` says whether another try may pass; whether something
had started before it is marked on the error by whoever starts things (`running`), and decides between exit 1 and 2.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from s2l_ray.text.display import MAX_VALUE, printable, shorten
from s2l_ray.text.redact import redact_text

MAX_MESSAGE = 2000
"""Longest message (characters)."""
_MAX_FAULTS = 12
_LONGEST_SECRET = 4096


class S2LError(Exception):
    """What this package raises on purpose; the message says what is wrong, what follows from it and what would do."""

    retryable = False
    """Another try, later or on another worker, may pass."""

    def __str__(self) -> str:
        """The message, no longer than people can read; all of it with S2L_TRACEBACK=1."""
        whole = super().__str__()
        return redact_text(whole) if os.environ.get("S2L_TRACEBACK") else readable(whole)


class UserError(S2LError, ValueError):
    """The command, the configuration, or a model or file that it names cannot be used as asked."""


class DataError(S2LError, ValueError):
    """Data are not what they have to be: rows of the corpus, files of the run."""


class EnvironmentFault(S2LError):
    """The machine, the cluster, the network or the storage failed."""

    retryable = True


class InternalError(S2LError, RuntimeError):
    """A fault of this program: nothing that the user gave explains it."""


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Mark every error that leaves the block: something had started by then."""
    try:
        yield
    except BaseException as error:
        mark_started(error)
        raise


@contextlib.contextmanager
def foreign_named(kind: type[S2LError] | Callable[[Exception], type[S2LError]], what: str, cure: str) -> Iterator[None]:
    """An error of ours in place of whatever a library raises in the block; lack of memory stays what it is.

    Args:
        kind: of the error, or what chooses it by the library's.
        what: cannot be done; a sentence up to the library's own words.
        cure: what would do.
    """
    try:
        yield
    except (S2LError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "memory" in str(error):  # as PyTorch says it
            raise
        chosen = kind if isinstance(kind, type) else kind(error)
        raise chosen(f"{what}: {type(error).__name__}: {first_line(error)}. {cure}") from error


def mark_started(error: BaseException) -> None:
    error.__dict__["after_start"] = True


def exit_code(error: BaseException) -> int:
    """2 for an error of ours before anything had started, else 1."""
    return 2 if isinstance(error, S2LError) and not isinstance(error, InternalError) and not _started(error) else 1


def _started(error: BaseException | None) -> bool:
    """An error that was raised in place of another inherits its mark."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if error.__dict__.get("after_start"):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def describe(error: BaseException) -> str:
    """What the command line says: errors of ours as they are, foreign ones in one line with their type."""
    if isinstance(error, S2LError):
        return str(error) or type(error).__name__
    cause = getattr(error, "cause", None)  # Ray's error of a task is a traceback as text
    if isinstance(cause, BaseException):
        return describe(cause)
    name, said = type(error).__name__, first_line(error)
    if isinstance(error, MemoryError):
        return f"{name}: {said}. This machine does not have enough memory; use a larger one, or ask for less"
    if isinstance(error, OSError):
        return readable(f"{name}: {said}. The system refuses it; S2L_TRACEBACK=1 shows where")
    return readable(f"{name}: {said}. This is an unexpected error: please report it, with what S2L_TRACEBACK=1 shows")


def first_line(error: BaseException) -> str:
    """The first line of what it says, or its type where it says nothing; never raises."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:
        lines = []
    return shorten(redact_text(lines[0]).rstrip(". "), 600) if lines else type(error).__name__


def shown(value: Any) -> str:
    """`repr(value)` for a message, cut; of large values only the beginning is ever written out."""
    return shorten(redact_text(_bounded(value, MAX_VALUE)), MAX_VALUE)


def _bounded(value: Any, room: int, depth: int = 0) -> str:
    """About `repr`, in time and memory bounded by `room` whatever the value's size and depth."""
    if isinstance(value, str):
        return repr(redact_text(value)[: room + 1])
    if isinstance(value, bytes):
        return redact_text(repr(value[: room + _LONGEST_SECRET]))[: room + 1]
    if isinstance(value, int) and value.bit_length() > 512:
        return f"<a whole number of about {int(value.bit_length() * 0.30103) + 1:,} digits>"
    if not isinstance(value, dict | list | tuple | set):
        return repr(value)
    if depth > 8:
        return "…"
    left, right = ("[", "]") if isinstance(value, list) else ("(", ")") if isinstance(value, tuple) else ("{", "}")
    pieces: list[str] = []
    for item in value:
        piece = _bounded(item, room, depth + 1)
        if isinstance(value, dict):
            piece += f": {_bounded(value[item], room, depth + 1)}"
        pieces.append(piece)
        room -= len(piece) + 2
        if room < 0:
            break
    return left + ", ".join(pieces) + right


def listed(faults: Sequence[str], limit: int = _MAX_FAULTS) -> list[str]:
    """At most so many, each cut, and how many more there are."""
    cut = [shorten(redact_text(fault), MAX_MESSAGE // (min(len(faults), limit) + 1)) for fault in faults[:limit]]
    return cut if len(faults) <= limit else [*cut, f"… and {len(faults) - limit:,} more"]


def readable(text: str) -> str:
    """For people and terminals: no credentials, control characters as their codes, no longer than `MAX_MESSAGE`."""
    return shorten(printable(shorten(redact_text(text), MAX_MESSAGE), keep="\n\t"), MAX_MESSAGE)
