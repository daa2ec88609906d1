"""Work behind the caller's thread: in order, overlapping, bounded, and no error is lost."""

from __future__ import annotations

import threading
import time

import pytest

from s2l_ray.storage.behind import Behind


def test_the_caller_goes_on_while_the_work_is_done_in_order():
    went_on, done = threading.Event(), list[int]()

    def work(number: int) -> None:
        assert went_on.wait(30), "the caller waited for the work"
        done.append(number)

    with Behind(ahead=3) as behind:
        for number in range(3):
            behind(work, number)
        went_on.set()
        for number in range(3, 50):
            behind(work, number)
    assert done == list(range(50))


def test_no_more_wait_than_may():
    most = [0, 0]  # under way now, at most

    def work() -> None:
        time.sleep(0.001)
        most[0] -= 1

    with Behind(ahead=2) as behind:
        for _ in range(40):
            most[0] += 1
            most[1] = max(most)
            behind(work)
    assert most[1] <= 3


def fails() -> None:
    raise OSError("the disk is full")


def failing(calls: list[int]) -> None:
    with Behind() as behind:
        behind(fails)
        for number in range(1000):
            behind(time.sleep, 0.001)
            calls.append(number)


def test_an_error_is_raised_by_the_next_call_or_at_the_end():
    calls = list[int]()
    with pytest.raises(OSError, match="disk is full"):
        failing(calls)
    assert len(calls) < 10, "what came after the error was still taken"
    with pytest.raises(OSError, match="disk is full"), Behind() as behind:
        behind(fails)


def not_finite(behind: Behind) -> None:
    behind(fails)
    raise ValueError("not finite")


def test_an_error_of_the_block_stands_before_one_behind_it():
    with pytest.raises(ValueError, match="not finite"), Behind() as behind:
        not_finite(behind)
