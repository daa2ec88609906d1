"""What killed workers and drivers change of a target: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import s2l_ray
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.testing.processes import train_workers
from s2l_ray.testing.quiet import Quiet
from tests.support.target_run import SUBSET, after, copy_of, evaluation_of, scores

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def finished(finished_target: Run) -> Run:
    """One undisturbed run, with which others are compared."""
    return finished_target


def wait_for_checkpoint(run: Path, number: int, seconds: float = 240) -> bool:
    """Until some worker writes the checkpoint: the one before it is complete."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if len(list(run.glob("target/*/ray_train/step-*"))) >= number:
            return True
        time.sleep(0.005)
    return False


def assert_same_result(ours: Stage, undisturbed: Stage, atol: float) -> None:
    """Held-out losses of the final weights, and what was trained on."""
    theirs, mine = (s.manifest.extra["summary"]["tally"] for s in (undisturbed, ours))
    for count in ("steps", "examples", "tokens", "response_tokens", "sum_squared_lengths"):
        assert mine[count] == theirs[count], "an example was skipped, or seen twice"
    for name in ("split", "test"):
        for figure in ("micro", "macro", "per_token"):
            assert after(ours, name)[figure] == pytest.approx(after(undisturbed, name)[figure], abs=atol)
        a, b = scores(evaluation_of(ours), name), scores(evaluation_of(undisturbed), name)
        assert set(a) == set(b)
        if atol == 0:
            assert all(a[i]["loss_nats"] == b[i]["loss_nats"] for i in a)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(finished: Run, tmp_path: Path):
    """kill -9 in the middle of an epoch of five steps, with checkpoints every seventeen: the same bits."""
    copy = copy_of(finished, tmp_path)
    killed = []

    def kill() -> None:
        if wait_for_checkpoint(copy, 2):
            for process in train_workers():
                process.kill()
                killed.append(process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    progress = Quiet()
    target = s2l_ray.finetune(str(copy), SUBSET, progress=progress)
    thread.join()
    assert killed, "no worker was found to kill"
    assert "the workers are up, resuming from step" in progress.lines()
    assert_same_result(target, finished.targets[SUBSET], atol=0)
    assert target.manifest.content_fingerprint == finished.targets[SUBSET].manifest.content_fingerprint
    weights = [s.storage.read_bytes("model/model.safetensors") for s in (target, finished.targets[SUBSET])]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("stage", "resumed_stage"), [(0, 0), pytest.param(2, 0, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_killed_driver_of_two_workers_is_resumed_with_one(
    finished: Run, tmp_path: Path, stage: int, resumed_stage: int
):
    """Also where the one worker has no use for ZeRO any more."""
    if stage or resumed_stage:
        pytest.importorskip("deepspeed")
    copy = copy_of(finished, tmp_path)
    command = [sys.executable, "-m", "s2l_ray.cli", "finetune", str(copy), "--budget", "0.3",
               f"target.zero_stage={stage}", "resources.target.workers=2"]  # fmt: skip
    with open(tmp_path / "log", "w") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
        try:
            reached = wait_for_checkpoint(copy, 2)
        finally:
            driver.kill()
            driver.wait()
    assert reached, (tmp_path / "log").read_text()[-3000:]
    assert not list(copy.glob("target/*/manifest.json")), "it was done before it was killed"
    progress = Quiet()
    overrides = [f"target.zero_stage={resumed_stage}", "resources.target.workers=1"]
    target = s2l_ray.finetune(str(copy), SUBSET, overrides, progress=progress)
    assert "the workers are up, resuming from step" in progress.lines()
    assert target.manifest.extra["summary"]["zero_stage"] == resumed_stage
    assert_same_result(target, finished.targets[SUBSET], atol=1e-3)
