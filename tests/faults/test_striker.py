"""That a fault which kills nobody is not taken for one that does."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from s2l_ray.testing.faults.fault_plan import Fault
from s2l_ray.testing.faults.striker import Striker, is_dead
from s2l_ray.testing.ray_head import kill_family

PARENT = "import subprocess, time; print(subprocess.Popen(['sleep', '99']).pid, flush=True); time.sleep(99)"


@pytest.fixture
def driver() -> Iterator[subprocess.Popen[str]]:
    """A process with one child."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    family = psutil.Process(process.pid)
    yield process
    kill_family(family)
    process.wait()


def child_of(driver: subprocess.Popen[str]) -> psutil.Process:
    assert driver.stdout is not None
    return psutil.Process(int(driver.stdout.readline()))


def test_who_comes_is_killed_and_named(driver: subprocess.Popen[str], tmp_path: Path) -> None:
    fault, child = Fault("corpus/*", "task", 1, 0.0, "self"), child_of(driver)
    striker = Striker(driver.pid, tmp_path, [fault])
    striker.look()
    assert not striker.struck, "its moment has not come"
    assert not is_dead(child)
    Path(tmp_path, "0").write_text(f"{child.pid}\n")
    striker.look()
    assert striker.struck == {fault: f"{child.pid} sleep"}
    assert is_dead(child)
    assert not is_dead(psutil.Process(driver.pid))
    assert Path(tmp_path, "0.done").exists()


def test_all_there_is(driver: subprocess.Popen[str], tmp_path: Path) -> None:
    fault, child = Fault("corpus/*", "task", 1, 0.0, "tree"), child_of(driver)
    striker = Striker(driver.pid, tmp_path, [fault])
    Path(tmp_path, "0").write_text(f"{child.pid}\n")
    striker.look()
    assert striker.struck
    assert is_dead(child)
    assert driver.poll() == -9


@pytest.mark.parametrize("victim", ["tree", "driver"])
def test_who_is_left_when_another_fault_has_struck_is_left_for_the_next_command(
    driver: subprocess.Popen[str], tmp_path: Path, victim: str
) -> None:
    """Dead with the tree, or alive without its driver."""
    first, second = Fault("corpus/*", "task", 1, 0.0, victim), Fault("tokens/*", "task", 1, 0.0, "self")
    child = child_of(driver)
    striker = Striker(driver.pid, tmp_path, [first, second])
    for marker in "01":
        Path(tmp_path, marker).write_text(f"{child.pid}\n")
    striker.look()
    assert list(striker.struck) == [first]
    assert is_dead(child) == (victim == "tree")
    with contextlib.suppress(psutil.NoSuchProcess):
        child.kill()


def test_who_has_ended_by_itself_is_not_struck(driver: subprocess.Popen[str], tmp_path: Path) -> None:
    child_of(driver)
    striker = Striker(driver.pid, tmp_path, [Fault("corpus/*", "task", 1, 0.0, "self")])
    Path(tmp_path, "0").write_text("999999999\n")
    striker.look()
    assert not striker.struck


@pytest.mark.parametrize("victim", ["worker", "workers", "controller", "raylet", "gcs"])
def test_a_fault_that_finds_nobody_of_its_kind_fails(
    driver: subprocess.Popen[str], tmp_path: Path, victim: str
) -> None:
    child = child_of(driver)
    striker = Striker(driver.pid, tmp_path, [Fault("corpus/*", "task", 1, 0.0, victim)])
    Path(tmp_path, "0").write_text(f"{child.pid}\n")
    with pytest.raises(AssertionError, match="no such process"):
        striker.look()
    assert not striker.struck
