"""Waits of tasks on a real cluster: within limits, and said."""

from __future__ import annotations

import time

import pytest
import ray

from s2l_ray.errors import UserError
from s2l_ray.execution.capacity_wait import CapacityTimeoutError, Patience, results_of


@ray.remote(num_cpus=1)
def task(number: int) -> int:
    if number < 0:
        raise UserError(f"{number} is negative")
    return number


@pytest.fixture
def full_cluster(ray_cluster: None):
    class Holder:  # in here, so that it travels by value
        def ready(self) -> bool:
            return True

    holder = ray.remote(num_cpus=4)(Holder).remote()
    ray.get(holder.ready.remote())
    yield
    ray.kill(holder)


def test_results_come_in_order_and_an_error_at_once(ray_cluster: None):
    def patience() -> Patience:
        return Patience("x", 300, print)

    assert results_of([task.remote(n) for n in range(8)], patience) == list(range(8))
    with pytest.raises(ray.exceptions.RayTaskError, match="-1 is negative"):
        results_of([task.remote(-1)], patience)


def test_a_wait_for_cpus_that_others_hold_is_said_and_ends(full_cluster: None):
    said: list[str] = []
    tasks = [task.remote(n) for n in range(2)]
    started = time.monotonic()
    with pytest.raises(CapacityTimeoutError, match=r"\[subset\] gave up.*2 of 2 tasks.*each needs 1 CPU, 0 are free"):
        results_of(tasks, lambda: Patience("subset", 3, said.append), every_s=0.5)
    assert time.monotonic() - started < 60
    assert len(said) == 1
    assert "[subset] waiting (at most 3 s): 2 of 2 tasks have not finished" in said[0]
