"""Losses of every kind, by real kills: what goes on, how it is told, and how it is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.util.placement_group import placement_group, remove_placement_group

from s2l_ray.execution.placement import Placement
from s2l_ray.execution.restarts import RESTART, WAITING, restart_said
from s2l_ray.execution.training import run_on_workers
from s2l_ray.execution.training_errors import WorkersFailedError, explain
from s2l_ray.storage.folder import Storage
from tests.support import faulty_loops

cloudpickle.register_pickle_by_value(faulty_loops)  # the workers' path has no tests
# Slow: minutes, and tests/faults kills workers always.
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]


def run(
    loop: Any, folder: Path, max_failures: int, events: list[dict[str, Any]] | None = None, wait_s: float = 600
) -> dict[str, Any]:
    out, marks = Storage.open(folder / "stage"), folder / "marks"
    marks.mkdir()
    told = [] if events is None else events
    return run_on_workers(
        loop, str(marks), out, Placement("cpu", 2, 1, 0, None, 4), what="proxy", max_failures=max_failures,
        wait_s=wait_s, on_event=told.append,
    )  # fmt: skip


def causes(events: list[dict[str, Any]]) -> list[str]:
    return [event["cause"] for event in events if event["event"] == RESTART]


def test_a_killed_worker_is_told_while_the_training_goes_on(tmp_path):
    events: list[dict[str, Any]] = []
    assert run(faulty_loops.is_killed_once, tmp_path, 1, events) == {"attempts": 2}
    [cause] = causes(events)
    assert "rank 1: its process died" in cause


def test_what_workers_raise_is_counted_and_the_last_is_told(tmp_path):
    events: list[dict[str, Any]] = []
    with pytest.raises(WorkersFailedError) as failed:
        run(faulty_loops.loses_a_connection, tmp_path, 1, events)
    assert "rank 1: RuntimeError: connection 1 was lost" in causes(events)[0]
    said = str(failed.value)
    assert said.startswith("the training of the proxy ended 2 times, the last time so: the workers failed: rank 1: ")
    assert "connection 2 was lost" in said
    assert "(resources.max_failures=1)" in said
    assert "the same command resumes" in said


def test_a_lost_controller_is_one_failure_and_the_training_goes_on(tmp_path):
    events: list[dict[str, Any]] = []
    assert run(faulty_loops.loses_its_controller, tmp_path, 1, events) == {"attempts": 2}
    [cause] = causes(events)
    assert "the process that controls the workers (Ray Train's controller) was lost" in cause


def test_a_kill_that_takes_all_of_them_is_told_as_what_it_was(tmp_path):
    with pytest.raises(WorkersFailedError) as failed:
        run(faulty_loops.loses_everybody, tmp_path, 0)
    said = str(failed.value)
    assert "ended once: the process that controls the workers (Ray Train's controller) was lost" in said
    assert "(resources.max_failures=0)" in said
    assert "times" not in said


def test_workers_without_places_are_waited_for_so_long_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    events: list[dict[str, Any]] = []
    other = placement_group([{"CPU": 3}])
    assert other.wait(60)
    try:
        with pytest.raises(WorkersFailedError, match=r"did not get resources within resources\.capacity_wait_s=3"):
            run(faulty_loops.tells_its_device, tmp_path, 3, events, wait_s=3)
    finally:
        remove_placement_group(other)
    assert [e["event"] for e in events] == [WAITING]
    assert restart_said(events[0]).startswith("there are no resources for the workers yet, still waiting")


def test_workers_on_cpus_compute_on_cpus(tmp_path):
    assert run(faulty_loops.tells_its_device, tmp_path, 0)["device"] == "cpu"


def test_places_that_never_came_are_no_failure_of_the_workers(tmp_path):
    error = ControllerError(WorkerGroupStartupTimeoutError(num_workers=8))
    said = str(explain(error, Storage.open(tmp_path), "target (s2l-0.1)", 3, 7200))
    assert "the workers of the target (s2l-0.1) did not get resources within resources.capacity_wait_s=7200" in said
    assert "max_failures" not in said
