"""Run chat templates within bounds: they are programs that come with a model, and must not block a worker.

No single operation of a template may create a large value (`'a' * 10**8`), because nothing could interrupt it. A
watchdog interrupts templates that use too much time or memory in many small steps (nested loops).
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from s2l_ray.errors import DataError

T = TypeVar("T")

MAX_S = 5.0
"""Longest time that a template may take for one conversation (seconds); most take a thousandth of it."""
MAX_CHARS = 16 * 2**20
"""Longest text that a template may create (characters)."""
MAX_ITEMS = 10**6
"""Longest list that a template may create (items)."""
_MAX_ARGUMENT = 10**6
_MAX_BITS = 10_000
_MAX_GROWTH_BYTES = 512 * 2**20
_CHECK_S = 0.1
_WIDE = re.compile(r"%[^a-zA-Z%]*(\d{6,}|\*)|\{[^{}]*\d{6,}")


class BeyondBounds(DataError):
    """Error for a template that takes too long, or creates too large a value."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja sandbox in which no single operation creates a value beyond the bounds."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.finalize = _checked
        self.filters = {name: bounded_filter(name, made) for name, made in self.filters.items()}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check(left.bit_length() * max(right, 0), _MAX_BITS)
        elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _check(len(left) + len(right), MAX_CHARS if isinstance(left, str) else MAX_ITEMS)
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _check_arguments(args, kwargs)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _check_text(getattr(__obj, "__name__", ""), owner, args)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Check `str.format` and `format_map` when a template obtains them."""
        owner = getattr(value, "__self__", None)
        if isinstance(owner, str) and getattr(value, "__name__", "") in ("format", "format_map"):
            _check_format(owner)
        return super().wrap_str_format(value)

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Join the output of a template, within the bounds."""
        out, size = [], 0
        for piece in pieces:
            size += len(piece)
            _check(size, MAX_CHARS)
            out.append(piece)
        return "".join(out)

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        return super()._generate(_ConcatToAdd().visit(source).set_environment(self), *args, **options)


class _ConcatToAdd(NodeTransformer):
    """Rewrites `a ~ b` as `a|string + b|string`, which the environment can intercept."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        parts: list[nodes.Expr] = [
            nodes.Filter(self.visit(n), "string", [], [], None, None, lineno=node.lineno) for n in node.nodes
        ]
        return functools.reduce(lambda left, right: nodes.Add(left, right, lineno=node.lineno), parts)


def bounded_filter(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the filter `made`, whose name is `name`, so that it stays within the bounds."""

    @functools.wraps(made)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(args, kwargs)
        for at, value in enumerate(args):
            if isinstance(value, str):
                _check_text(name, value, args[at + 1 :])
                break
            if name == "join" and isinstance(value, list | tuple):
                glue = next((a for a in args[at + 1 :] if isinstance(a, str)), "")
                _check_text(name, glue, (value,))
                break
        return made(*args, **kwargs)

    return bounded


def _check_arguments(args: Iterable[Any], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int):
            _check(abs(value), _MAX_ARGUMENT)
        else:
            _checked(value)


def _checked(value: T) -> T:
    """Return a value if it may be written out; counts nested items, because shared sublists are written repeatedly."""
    if not isinstance(value, list | tuple | dict):
        return value
    count = 0
    left: list[Any] = [value]
    while left:
        one = left.pop()
        inner = list(one.values()) if isinstance(one, dict) else one
        count += len(inner)
        _check(count, MAX_ITEMS)
        left += [item for item in inner if isinstance(item, list | tuple | dict)]
    return value


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check(left.bit_length() + right.bit_length(), _MAX_BITS)
    for made, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(made, str | list | tuple):
            _check(len(made) * times, MAX_CHARS if isinstance(made, str) else MAX_ITEMS)


def _check_text(method: str, text: str, args: tuple[Any, ...]) -> None:
    """Check that a method or filter of this name, applied to `text`, stays within the bounds."""
    if method in ("format", "format_map"):
        _check_format(text)
    elif method == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        times = text.count(args[0]) if args[0] else len(text) + 1
        _check(len(text) + times * len(args[1]), MAX_CHARS)
    elif method == "join" and args and isinstance(args[0], list | tuple):
        sizes = (len(item) if isinstance(item, str) else 20 for item in args[0])
        _check(sum(sizes) + len(text) * len(args[0]), MAX_CHARS)
    elif method in ("expandtabs", "translate", "indent"):
        most = max([8, *(a if isinstance(a, int) else len(a) if isinstance(a, str) else 0 for a in args)])
        _check(len(text) + (text.count("\t") + text.count("\n")) * most, MAX_CHARS)


def _check_format(text: str) -> None:
    if _WIDE.search(text):
        raise BeyondBounds("it formats a value with an enormous width")


def _check(size: int, most: int) -> None:
    if size > most:
        raise BeyondBounds(f"it creates a value of size {size:.3g}, where at most {most:,} is allowed")


class _Watchdog:
    """Interrupts renderings that exceed the bounds; one watchdog serves all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[float, list[int]]] = {}
        """Thread → (deadline, memory readings since the rendering began)."""
        self._thread: threading.Thread | None = None
        self._pid = 0

    def run(self, call: Callable[[], T]) -> T:
        me = threading.get_ident()
        self._begin(me)
        try:
            return call()
        finally:
            with self._lock:
                self._watched.pop(me, None)
                _interrupt(me, None)  # cancels an interrupt that has not reached the thread yet

    def _begin(self, me: int) -> None:
        with self._lock:
            if self._thread is None or self._pid != os.getpid():  # a fork has no threads
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._watch, name="s2l-templates", daemon=True)
                self._thread.start()
            self._watched[me] = (time.monotonic() + MAX_S, [])

    def _watch(self) -> None:
        while True:
            time.sleep(_CHECK_S)
            with self._lock:
                for thread, (deadline, memory) in self._watched.items():
                    memory.append(_resident_bytes())
                    if time.monotonic() > deadline or memory[-1] - memory[0] > _MAX_GROWTH_BYTES:
                        _interrupt(thread, _Interrupted)


class _Interrupted(BeyondBounds):
    def __init__(self, said: str = "") -> None:
        super().__init__(said or f"it takes longer than {MAX_S:g} s, or too much memory")


def _interrupt(thread: int, kind: type[BaseException] | None) -> None:
    """Raise `kind` in the thread between two of its steps; None: cancel an exception that it has not met yet."""
    exception = ctypes.py_object(kind) if kind is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:  # not Linux: bounded in time only
        return 0


_watchdog = _Watchdog()


def within_bounds(call: Callable[[], T]) -> T:
    """Run `call()`, which renders a template, and return its result.

    Raises:
        BeyondBounds: it took too much time or memory; the worker can continue.
    """
    return _watchdog.run(call)
