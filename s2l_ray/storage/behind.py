"""Work that a thread does behind the caller's: writing files while the next are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from typing_extensions import Self


class Behind:
    """Calls functions in one thread, in their order; at most `ahead` wait there, then the caller waits.

    As a context manager: at the block's end all are done. The first error of any is raised by the next call, or at the
    end of a block that has none of its own; those that wait behind it are dropped.
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
