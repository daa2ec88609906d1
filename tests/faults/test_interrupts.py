"""Ctrl-C in the middle of a run: it ends, its lock is given back, and the same command goes on to the same result."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from s2l_ray.testing.faults.disturbed import Outcome, Workplace, assert_nothing_left, contents, differences, workplace
from s2l_ray.testing.faults.fault_plan import Fault
from s2l_ray.testing.tiny import tiny_run_config

COMPLETE = "complete"
INTERRUPTED = "interrupted; complete stages are kept, run the same command to resume"

MOMENTS = {
    "corpus": Fault("corpus/*", "task", 1, 0.0, "SIGINT"),  # in Ray Data
    "proxy": Fault("proxy/*", "alone", 1, 0.0, "SIGINT"),  # in training
    "clusters": Fault("clusters/*", "kmeans", 1, 0.0, "SIGINT"),  # in k-means
}
"""Stage → when its first file is about to be written."""


def configured(place: Workplace, **changes: Any) -> Path:
    return place.config(tiny_run_config(place.run, 200, proxy__epochs=1, selection__budgets=[0.3], **changes))


@pytest.fixture(scope="module")
def place() -> Iterator[Workplace]:
    """With a complete run, of which there is a copy."""
    with workplace() as place:
        outcome = place.s2l("run", configured(place))
        assert outcome.code == 0, outcome.output
        shutil.copytree(place.run, place.base / COMPLETE)
        yield place


def without(place: Workplace, stage: str) -> Path:
    """The configuration; the complete run now lacks that stage."""
    place.delete_run()
    shutil.copytree(place.base / COMPLETE, place.run)
    shutil.rmtree(place.run / stage)
    return place.base / "config.json"


def assert_goes_on(place: Workplace, config: Path) -> None:
    outcome = place.s2l("run", config)
    assert outcome.code == 0, outcome.output
    told = differences(contents(place.run), contents(place.base / COMPLETE))
    assert not told, told[:20]
    assert_nothing_left(place)


def assert_interrupted(outcome: Outcome, place: Workplace) -> None:
    assert outcome.code == 130, outcome.output
    assert outcome.output.count(INTERRUPTED) == 1, outcome.output
    assert "Traceback" not in outcome.output, outcome.output
    assert not list(place.run.glob("locks/*.json"))


def below(driver: subprocess.Popen[bytes], title: str) -> list[psutil.Process]:
    """Its processes whose title begins so."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            if os.path.basename(process.cmdline()[0]).startswith(title):
                found.append(process)
    return found


def wait_for(true: Callable[[], Any], driver: subprocess.Popen[bytes], seconds: float = 300) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert driver.poll() is None, "it has ended before"
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
    return value


@pytest.mark.thorough
@pytest.mark.parametrize("stage", [s if s == "proxy" else pytest.param(s, marks=pytest.mark.slow) for s in MOMENTS])
def test_ctrl_c_in_a_stage(place: Workplace, stage: str) -> None:
    config, moment = without(place, stage), MOMENTS[stage]
    outcome = place.s2l("run", config, faults=[moment])
    assert moment in outcome.struck, outcome.output
    assert_interrupted(outcome, place)
    assert not list(place.run.glob(f"{stage}/*/manifest.json"))
    assert_goes_on(place, config)


@pytest.mark.slow
def test_ctrl_c_while_ray_starts(place: Workplace) -> None:
    config = without(place, "clusters")
    driver, folder = place.start("run", config)
    wait_for(lambda: below(driver, "gcs_server"), driver)
    driver.send_signal(signal.SIGINT)
    assert_interrupted(place.wait(driver, folder, ()), place)
    assert_goes_on(place, config)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_where_ray_trains_controller_does_not_answer(place: Workplace, times: int) -> None:
    """One ends the wait for it soon, a second one at once."""
    without(place, "proxy")
    config = configured(place, resources__proxy__min_workers=1)  # elastic workers are always Ray Train's
    driver, folder = place.start("run", config)
    wait_for(lambda: below(driver, "ray::RayTrainWorker"), driver)
    [controller] = below(driver, "ray::TrainController")
    controller.suspend()
    started = time.monotonic()
    driver.send_signal(signal.SIGINT)
    if times == 2:
        time.sleep(0.5)
        assert driver.poll() is None
        driver.send_signal(signal.SIGINT)
    outcome = place.wait(driver, folder, ())
    seconds = time.monotonic() - started
    with contextlib.suppress(psutil.NoSuchProcess):
        controller.kill()  # Ray does not end what is suspended
    assert outcome.code == 130, outcome.output
    assert not list(place.run.glob("locks/*.json"))
    assert ("ending at once" in outcome.output) == (times == 2)
    assert seconds < 30
    assert_goes_on(place, configured(place))
