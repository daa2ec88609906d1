"""A training with one worker on one machine, in a Ray task: what a lost process costs, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from s2l_ray.execution.checkpoints import FOLDER
from s2l_ray.execution.event_channel import Event
from s2l_ray.execution.placement import Placement
from s2l_ray.execution.train import run_training
from s2l_ray.execution.training import run_on_workers
from s2l_ray.execution.training_errors import WorkersFailedError
from s2l_ray.lm.after_head import UnsupportedModel
from s2l_ray.storage.folder import Storage
from tests.support import faulty_loops

cloudpickle.register_pickle_by_value(faulty_loops)  # the workers' path has no tests
pytestmark = pytest.mark.usefixtures("ray_cluster")
ONE = Placement("cpu", 1, 1, 0, None, 4)


def train(
    folder: Path, faults: dict[int, str] | None = None, max_failures: int = 3, train: Any = run_training, **options: Any
) -> tuple[dict[str, Any], list[Event]]:
    """`faults`: attempt → kind and step."""
    marks = folder / "marks"
    events: list[Event] = []
    marks.mkdir(exist_ok=True)
    for attempt, fault in (faults or {}).items():
        (marks / f"fault-{attempt}").write_text(fault)
    options.setdefault("wait_s", 300)
    summary = train(
        faulty_loops.counts_to_six, str(marks), Storage.open(folder / "stage"), ONE, what="proxy",
        max_failures=max_failures, on_event=events.append, **options,
    )  # fmt: skip
    return summary, events


def steps(events: list[Event]) -> list[int]:
    return [event["step"] for event in events if event["event"] == "train"]


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "stage" / FOLDER).iterdir() if path.is_dir())


def test_its_process_is_there_for_the_next_training_and_nothing_else_is_started(tmp_path):
    pids = set()
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        summary, events = train(folder)
        assert (summary["began"], summary["attempts"], steps(events)) == (0, 1, [1, 2, 3, 4, 5, 6])
        pids.add(summary["pid"])
        assert kept(folder) == ["step-00000005", "step-00000006"]
    assert len(pids) == 1


def test_a_killed_process_costs_the_work_since_the_last_checkpoint(tmp_path):
    summary, events = train(tmp_path, {1: "killed 3", 2: "killed 5"})
    assert (summary["began"], summary["attempts"]) == (4, 3)
    assert steps(events)[-2:] == [5, 6]
    causes = [event["cause"] for event in events if event["event"] == "restart"]
    assert len(causes) == 2
    assert all(cause.startswith("rank 0: ") and "die" in cause for cause in causes), causes


def test_a_storage_that_was_away_is_worth_another_try(tmp_path):
    assert train(tmp_path, {1: "away 2"})[0]["attempts"] == 2


def test_an_error_of_ours_ends_it_at_once_and_comes_as_it_is(tmp_path):
    with pytest.raises(UnsupportedModel, match=r"^stopped$"):
        train(tmp_path, {1: "stopped 2"})
    assert faulty_loops.attempts(tmp_path / "marks") == 1
    assert train(tmp_path)[0]["began"] == 1, "what was done stays"


@pytest.mark.thorough
def test_too_many_failures_end_it_and_say_where_it_goes_on(tmp_path):
    with pytest.raises(WorkersFailedError, match=r"the training of the proxy ended 2 times.*rank 0.*max_failures=1\)"):
        train(tmp_path, {1: "killed 2", 2: "killed 2"}, max_failures=1)
    assert train(tmp_path)[0]["began"] == 1


def test_a_place_that_does_not_come_ends_the_wait(tmp_path):
    class Holder:
        def ready(self) -> bool:
            return True

    holder = ray.remote(num_cpus=4)(Holder).remote()
    ray.get(holder.ready.remote())
    try:
        with pytest.raises(WorkersFailedError, match=r"resources within resources.capacity_wait_s=1: others hold them"):
            train(tmp_path, wait_s=1)
    finally:
        ray.kill(holder)
    assert faulty_loops.attempts(tmp_path / "marks") == 0


@pytest.mark.thorough
def test_either_way_goes_on_from_the_others_checkpoint(tmp_path):
    """The cluster that a run goes on with may be another one."""
    with pytest.raises(UnsupportedModel):
        train(tmp_path, {1: "stopped 3"}, train=run_on_workers)
    with pytest.raises(UnsupportedModel):
        train(tmp_path, {2: "stopped 5"})
    summary, events = train(tmp_path, train=run_on_workers)
    assert (summary["began"], steps(events)) == (4, [5, 6])


def test_a_checkpoint_that_was_not_finished_is_none(tmp_path):
    with pytest.raises(UnsupportedModel):
        train(tmp_path, {1: "stopped 4"})
    (tmp_path / "stage" / FOLDER / "step-00000003" / "complete").unlink()
    assert train(tmp_path)[0]["began"] == 2
