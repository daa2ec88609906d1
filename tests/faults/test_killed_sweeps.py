"""Sweeps whose driver, workers or trials are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import psutil
import pytest
import ray

from s2l_ray.testing.ray_head import kill_family
from tests.support.sweep_run import CHECKPOINT_STEPS, manifests, swept, tree, values, wait_until

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(900), pytest.mark.slow]


def processes(name: str, root: int | None = None) -> list[psutil.Process]:
    """Ray's processes of that name, of this test's cluster or that of the process `root`: others are not ours."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        try:
            if process.name() == name or (process.cmdline()[:1] and process.cmdline()[0].startswith(name)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def steps_taken(folder: Path, selector: str, budget: float) -> list[int]:
    """Of a target, all of its processes' together."""
    lines = [json.loads(line) for p in folder.glob("sweep/logs/*.jsonl") for line in p.read_text().splitlines()]
    stage = f"target/{selector}-{budget}"
    return [line["step"] for line in lines if (line["stage"], line["event"]) == (stage, "train")]


def records(trialless_copy: Path) -> list[Path]:
    """Of trials that have ended: written after the target's own manifest."""
    return list(trialless_copy.glob("sweep/trials/*.json"))


def test_a_killed_driver_resumes_without_repeating_a_finished_trial(undisturbed_sweep, trialless_copy):
    """Two of three trials side by side on an embedded Ray; SIGKILL to all of it when one has finished and another is
    under way. (Without their driver Ray's own processes live on for a minute, in which a trial may yet end.)"""
    config = trialless_copy.parent / "config.json"
    config.write_text(json.dumps(tree(trialless_copy, selectors=["s2l"])))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "s2l_ray.cli", "sweep", str(config)]
    with (trialless_copy.parent / "first.txt").open("w") as out:
        driver = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        try:
            wait_until(lambda: records(trialless_copy) or driver.poll() is not None)
            wait_until(lambda: list(trialless_copy.glob("target/*/ray_train/step-*")) or driver.poll() is not None)
        finally:
            if driver.poll() is None:
                kill_family(psutil.Process(driver.pid))
            driver.wait()
    finished, num_recorded = manifests(trialless_copy), len(records(trialless_copy))
    assert 1 <= num_recorded <= len(finished) < 3, (trialless_copy.parent / "first.txt").read_text()
    trained = {p.name: p.stat().st_mtime_ns for p in trialless_copy.glob("proxy/*/model/*")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"3 trials, {num_recorded} of them already done" in done.stdout
    assert {p: t for p, t in manifests(trialless_copy).items() if p in finished} == finished
    assert {p.name: p.stat().st_mtime_ns for p in trialless_copy.glob("proxy/*/model/*")} == trained
    report = json.loads((trialless_copy / "sweep/report.json").read_text())
    for point in report["curves"]["target"]:
        assert point["values"] == pytest.approx(
            values(undisturbed_sweep[0])[point["selector"], point["budget"]], abs=1e-6
        )
    assert not (trialless_copy / "sweep/ray_tune").exists()
    assert not (trialless_copy / "stage_locks").exists()
    for noise in ("Configuration for experiment", "tensorboard", "worker processes have been started", "WARNING"):
        assert noise not in done.stdout + done.stderr


def test_killed_workers_and_trials_cost_only_their_last_checkpoint(undisturbed_sweep, trialless_copy, caplog, capfd):
    killed: dict[str, int] = {}

    def kill(name: str, process: psutil.Process) -> None:
        process.send_signal(signal.SIGKILL)
        killed[name] = process.pid

    def disturb() -> None:
        wait_until(lambda: any(trialless_copy.glob("target/*/ray_train/step-0000002*")))
        before = {p.pid for p in processes("ray::training_worker")}
        for process in processes("ray::training_worker"):
            kill("worker", process)
        wait_until(lambda: [p for p in processes("ray::training_worker") if p.pid not in before])
        kill("trial", wait_until(lambda: processes("ray::ImplicitFunc"))[0])

    thread = threading.Thread(target=disturb)
    thread.start()
    result, _ = swept(trialless_copy, selectors=["s2l"], budgets=[0.1], full=False)
    thread.join()
    assert set(killed) == {"worker", "trial"}
    assert caplog.text.count("was lost; it is restarted and resumes") == 1
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())
    assert not result.failed
    assert values(result)["s2l", 0.1] == pytest.approx(values(undisturbed_sweep[0])["s2l", 0.1], abs=1e-6)
    taken = Counter(steps_taken(trialless_copy, "s2l", 0.1))
    assert set(taken) == set(range(1, max(taken) + 1))
    again = [step for step, times in taken.items() if times > 1]
    assert len(again) <= 2 * 2 * CHECKPOINT_STEPS
    assert 1 not in again, "training began anew"
    wait_until(lambda: ray.available_resources().get("CPU") == 4, 120)
