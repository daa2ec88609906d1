"""A comparison of LaTeX that is interrupted leaves no process behind, and no answer to the next one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from s2l_ray.evaluation.answers.symbolic import ProcessComparer

ENDLESS = r"\int_0^1 \sum_{k=1}^{\infty} x^{k^{k}} dx"


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Ctrl-C for this process alone, so that what it started goes on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have what they run with & ignore it
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)


def servers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "-I" in child.cmdline()]


def test_a_start_that_is_interrupted_leaves_nothing_and_may_be_repeated() -> None:
    with ProcessComparer() as compare:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt), interrupted_after(0.2):
                compare.start()  # imports sympy, which takes longer
            assert servers() == []
        assert compare(r"\frac{1}{3}", r"\frac{2}{6}") == "equal"
        assert len(servers()) == 1
    assert servers() == []


def test_an_interrupted_comparison_does_not_answer_the_next() -> None:
    with ProcessComparer(seconds=60) as compare:
        compare.start()
        begin = time.monotonic()
        with pytest.raises(KeyboardInterrupt), interrupted_after(0.3):
            compare("1", ENDLESS)
        assert time.monotonic() - begin < 30
        assert servers() == []
        assert [compare("2", r"\frac{4}{2}"), compare("2", "3")] == ["equal", "different"]
