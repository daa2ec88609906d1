"""Ctrl-C, SIGTERM, SIGHUP and a closed terminal: the lock is given back, and the exit code tells which it was."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from s2l_ray.storage.processes import at_abrupt_end, run_abrupt_end
from s2l_ray.testing.processes import heed_signals
from s2l_ray.testing.tiny import tiny_run_config
from tests.support.paths import ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

WORKER = """
import subprocess, sys, time
from s2l_ray.cli import main
from s2l_ray.storage.lock import RunLock
from s2l_ray.storage.folder import Storage

def work(arguments):
    with RunLock(Storage.open(sys.argv[1])):
        deaf = "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(99)"
        subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            print("working", flush=True)
            time.sleep(99)
        finally:
            print("cleaning up", flush=True)
            time.sleep(float(sys.argv[2]))
            print("clean", flush=True)

import s2l_ray.cli
s2l_ray.cli.recipes._recipes = work
sys.exit(main(["recipes"]))
"""
"""A command that holds a run's lock, has a child, and takes a given time to clean up."""


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@contextlib.contextmanager
def kept_alive(lock: Path) -> Iterator[None]:
    """Touch the lock every second, as its holder would."""
    over = threading.Event()

    def touch() -> None:
        while not over.wait(1):
            lock.touch()

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def worker(run: Path, clean_up_s: float, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
    def begin() -> None:
        heed_signals()
        if before is not None:
            before()

    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(run), str(clean_up_s)], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, preexec_fn=begin,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def locks(run: Path) -> list[Path]:
    return list(run.glob("locks/*"))


@pytest.mark.thorough
@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_what_holds_a_lock(tmp_path: Path, number: signal.Signals) -> None:
    process = worker(tmp_path, 0.3)
    assert locks(tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == CODES[number]
    assert out == "cleaning up\nclean\n"
    assert len(err.strip().splitlines()) == 1, err
    assert not locks(tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("first", CODES)
def test_a_second_ctrl_c_hastens_the_end(tmp_path: Path, first: signal.Signals) -> None:
    process = worker(tmp_path, 60)
    (child,) = psutil.Process(process.pid).children()
    process.send_signal(first)
    assert process.stdout is not None
    assert process.stdout.readline() == "cleaning up\n"
    time.sleep(0.5)
    assert locks(tmp_path)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert process.returncode == 130
    assert "ending at once" in err
    assert "Traceback" not in err
    assert not locks(tmp_path)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.thorough
@pytest.mark.parametrize("further", [signal.SIGTERM, signal.SIGHUP])
def test_further_signals_of_a_service_manager_do_not_disturb(tmp_path: Path, further: signal.Signals) -> None:
    process = worker(tmp_path, 1.5)
    process.send_signal(signal.SIGTERM)
    for _ in range(3):
        time.sleep(0.3)
        process.send_signal(further)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "cleaning up\nclean\n")
    assert not locks(tmp_path)


@pytest.mark.thorough
def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """`nohup s2l run … &`"""
    process = worker(tmp_path, 0.1, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.7)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143


@pytest.mark.thorough
def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """Lines to it fail then; the clean-up must not."""
    child, terminal = pty.fork()
    if child == 0:
        heed_signals()
        os.execve(sys.executable, [sys.executable, "-c", WORKER, str(tmp_path), "0.5"], ENVIRONMENT)
    shown = b""
    while b"working" not in shown:
        shown += os.read(terminal, 1000)
    assert locks(tmp_path)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert not locks(tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("number", CODES)
def test_a_run_that_waits_for_a_lock(tmp_path: Path, number: signal.Signals) -> None:
    """Another machine holds it; a signal ends the waiting, and the other's lock stays."""
    run = tmp_path / "run"
    (run / "locks").mkdir(parents=True)
    other = run / "locks/0000000000000000.json"
    other.write_text("held by something of a later version")
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(tiny_run_config(run)))
    process = subprocess.Popen(
        [sys.executable, "-m", "s2l_ray.cli", "run", str(tmp_path / "my.yaml")], env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=heed_signals,
    )  # fmt: skip
    assert process.stdout is not None
    with kept_alive(other):  # on a busy machine, the command takes longer to start than a silent lock lasts
        for line in process.stdout:
            if "Waiting" in line:
                break
        process.send_signal(number)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == CODES[number], rest
    assert "complete stages are kept" in rest
    assert "Traceback" not in rest
    wait_until(lambda: locks(run) == [other], seconds=1)


@pytest.mark.thorough
def test_the_abrupt_end_waits_for_nobody() -> None:
    done: list[int] = []
    started = time.monotonic()

    def fails() -> None:
        raise KeyError

    with at_abrupt_end(lambda: time.sleep(60)), at_abrupt_end(fails), at_abrupt_end(lambda: done.append(1)):
        run_abrupt_end(timeout_s=0.5)
    assert done == [1]
    assert time.monotonic() - started < 5
    run_abrupt_end()
    assert done == [1]
