"""Run work in a background thread, such as writing files while the next ones are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from typing_extensions import Self


class Behind:
    """Calls functions in one background thread, in order; with more than `ahead` of them waiting, the caller waits.

    As a context manager, it waits for all of them at the end of the block. The first error is raised by the next call,
    or at the end of a block that did not raise an error itself; functions still waiting are dropped.
    """

    def __init__(self, ahead: int = 2) -> None:
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="s2l-behind")
        self._waiting: deque[Future[Any]] = deque()

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> None:
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self._ahead):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(work, *arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
