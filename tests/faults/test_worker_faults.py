"""How a training ends when its workers fail: at once and in one piece where another try would not help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from s2l_ray.execution.failures import cause_of
from s2l_ray.execution.placement import Placement
from s2l_ray.execution.training import run_on_workers
from s2l_ray.execution.training_errors import WorkersFailedError
from s2l_ray.lm.after_head import UnsupportedModel
from s2l_ray.storage.folder import Storage
from tests.support import faulty_loops

cloudpickle.register_pickle_by_value(faulty_loops)  # the workers' path has no tests
pytestmark = pytest.mark.usefixtures("ray_cluster")


def run(loop: Any, folder: Path, max_failures: int) -> dict[str, Any]:
    placement = Placement("cpu", 2, 1, 0, None, 4)
    out = Storage.open(folder / "stage")
    marks = folder / "marks"
    marks.mkdir(exist_ok=True)
    return run_on_workers(
        loop, str(marks), out, placement, what="proxy", max_failures=max_failures, on_event=lambda event: None
    )


@pytest.mark.thorough
def test_an_error_of_ours_on_one_rank_ends_all_ranks_at_once_and_comes_as_it_is(tmp_path):
    with pytest.raises(UnsupportedModel, match=r"^this model cannot be measured; choose another$"):
        run(faulty_loops.refuses_on_one_rank, tmp_path, max_failures=3)
    assert faulty_loops.attempts(tmp_path / "marks") == 1, "another try could not have ended better"


@pytest.mark.thorough
def test_a_storage_that_was_away_is_worth_another_try(tmp_path):
    assert run(faulty_loops.storage_fails_once, tmp_path, max_failures=1) == {"attempts": 2}


@pytest.mark.thorough
def test_a_rank_that_runs_out_of_memory_is_said_so_with_a_cure(tmp_path):
    with pytest.raises(WorkersFailedError) as failed:
        run(faulty_loops.runs_out_of_memory, tmp_path, max_failures=0)
    said = str(failed.value)
    assert "rank 1" in said
    assert "can't allocate memory" in said
    assert "lower tokens_per_microbatch" in said
    assert "the same command resumes" in said


@pytest.mark.thorough
def test_after_the_death_of_a_rank_all_of_them_go_on_from_the_last_checkpoint(tmp_path):
    """The last one that Ray Train has noted: on a busy machine, some written shortly before the death are not."""
    (tmp_path / "marks").mkdir()
    (tmp_path / "marks/fault-1").write_text("second-killed 4")
    ended = run(faulty_loops.counts_to_six, tmp_path, max_failures=1)
    assert ended["attempts"] == 2
    assert ended["began"] in (1, 2, 3)


@pytest.mark.thorough
def test_a_killed_rank_is_named(tmp_path):
    with pytest.raises(WorkersFailedError) as failed:
        run(faulty_loops.is_killed, tmp_path, max_failures=0)
    assert "rank 1: its process died" in str(failed.value)
    assert "connection error code 2" in str(failed.value)
    assert "actor_id" not in str(failed.value)


RAY_SAYS = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 36c2) was "
    "22.1GB / 23.0GB (0.96), which exceeds the memory usage threshold of 0.95.\nRefer to the documentation on how to "
    "address the out of memory issue: https://docs.ray.io/debug-memory.html"
)


def test_a_worker_that_ray_killed_for_memory_comes_before_the_ranks_that_lost_its_connection():
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:49713")
    killed = WorkerHealthCheckFailedError("A worker health check failed.", ray.exceptions.OutOfMemoryError(RAY_SAYS))
    said = cause_of(WorkerGroupError("…", {0: lost, 1: killed}))
    assert said.startswith("rank 1: 1 worker(s) were killed due to the node running low on memory")
    assert "22.1GB / 23.0GB" in said
    assert "documentation" not in said
    assert "zero_stage" in said


def test_a_rank_that_lost_its_connection_is_not_taken_for_the_cause():
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:49713")
    assert cause_of(WorkerGroupError("…", {0: lost, 1: KeyError("input_ids")})) == "rank 1: KeyError: 'input_ids'"


def test_a_lost_storage_is_said_with_its_cure():
    """Ray Train's own access to it ends in pyarrow's bare OSError."""
    lost = OSError("When testing for existence of bucket 'b': AWS Error NETWORK_CONNECTION during HeadBucket: refused")
    said = cause_of(WorkerGroupError("…", {0: lost}))
    assert said.startswith("rank 0: OSError: When testing for existence of bucket 'b'")
    assert said.endswith("So the storage failed: check network and endpoint")
