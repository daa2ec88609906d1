"""What an actor pool says of its failures: a process that is gone, a worker that raised, and how often is too often."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from s2l_ray.execution.actor_pool import ActorPool, PoolFailedError
from s2l_ray.execution.placement import Placement

pytestmark = pytest.mark.usefixtures("ray_cluster")

PLACE = Placement("cpu", 1, 1.0, 0.0, None, 1, {})


def fails_first(marker: Path, how: Callable[[], None]) -> type:
    class Worker:
        def run(self, item: int) -> int:
            if not marker.exists():
                marker.touch()
                how()
            return item * item

    return Worker


def raises() -> None:
    raise OSError("the disk of the model is gone")


def dies() -> None:
    os._exit(7)


def is_wrong() -> None:
    raise ValueError("no such layer")


def said_of(marker: Path, how: Callable[[], None], max_failures: int = 1) -> list[str]:
    said: list[str] = []
    with ActorPool(fails_first(marker, how), PLACE, "answers", max_failures, said.append) as pool:
        assert pool.map([1, 2, 3]) == [1, 4, 9]
    return said


def test_a_worker_that_raised_is_not_called_lost(tmp_path):
    [line] = said_of(tmp_path / "marker", raises)
    assert line == "[answers] a worker failed (OSError: the disk of the model is gone); starting a replacement (1)"


def test_a_process_that_died_is_called_lost(tmp_path):
    [line] = said_of(tmp_path / "marker", dies)
    assert line.startswith("[answers] a process was lost (its process died (")
    assert line.endswith("; starting a replacement (1)")


def test_the_last_cause_is_told_where_it_was_too_often(tmp_path):
    with pytest.raises(PoolFailedError, match=r"answers failed 1 time .*: OSError: the disk of the model is gone\."):
        said_of(tmp_path / "marker", raises, max_failures=0)


def test_what_another_try_would_meet_again_ends_it_at_once(tmp_path):
    with pytest.raises(ValueError, match="no such layer"):
        said_of(tmp_path / "marker", functools.partial(is_wrong), max_failures=-1)
