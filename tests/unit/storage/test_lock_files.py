"""Locks that no RunLock of this machine and this time has written: dated wrong, torn, huge, hostile."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s2l_ray.storage.folder import Storage
from s2l_ray.storage.lock import RunLock, RunLockedError
from s2l_ray.storage.lock_files import LARGEST_BYTES, SeenLock, describe, parse_record
from s2l_ray.storage.processes import machine_id, start_time

DAY_S = 24 * 3600
RECORD = {
    "machine": "elsewhere|boot|pid:[1]", "host": "elsewhere", "pid": 77, "process_start": "123", "user": "someone",
    "command": "s2l run big.yaml", "state": "held", "created": "2026-01-01T00:00:00+00:00",
    "heartbeat": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


def lock_file(folder: Path, content: bytes, dated_s: float = 0.0) -> Path:
    path = folder / "locks/0000.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    at = time.time() + dated_s
    os.utime(path, (at, at))
    return path


def wait(folder: Path) -> float:
    """Seconds until the run is taken."""
    started = time.monotonic()
    with RunLock(Storage.open(folder), heartbeat_s=0.2, stale_after_s=1, wait_s=20):
        assert not (folder / "locks/0000.json").exists()
        return time.monotonic() - started


@pytest.mark.thorough
@pytest.mark.parametrize("dated_s", [DAY_S, 60, 400 * DAY_S, 60 * 365 * DAY_S])
def test_a_date_in_the_future_does_not_keep_a_lock(tmp_path: Path, dated_s: float) -> None:
    lock_file(tmp_path, json.dumps(RECORD).encode(), dated_s)
    assert 0.8 < wait(tmp_path) < 8


@pytest.mark.thorough
def test_a_date_in_the_future_does_not_end_a_living_lock(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\nwhile True:\n"
        "    t = time.time() + 86400\n    os.utime(sys.argv[1], (t, t))\n    time.sleep(0.3)\n"
    )
    path = lock_file(tmp_path, json.dumps(RECORD).encode(), DAY_S)
    holder = subprocess.Popen([sys.executable, "-c", program, str(path)])
    try:
        time.sleep(1)
        lock = RunLock(Storage.open(tmp_path), heartbeat_s=0.3, stale_after_s=2, wait_s=5)
        with pytest.raises(RunLockedError, match="pid 77"), lock:
            pass
    finally:
        holder.kill()
        holder.wait()
    assert path.exists()


def test_a_future_lock_of_a_dead_process_here_is_taken_at_once(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    started = start_time(dead.pid) or "1"
    dead.wait()
    record = RECORD | {"machine": machine_id(), "host": socket.gethostname(), "pid": dead.pid, "process_start": started}
    lock_file(tmp_path, json.dumps(record).encode(), DAY_S)
    assert wait(tmp_path) < 0.8


GARBAGE = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep, small": b"[" * 30_000,
    "huge": b'{"machine": "' + b"x" * (30 << 20) + b'"}',
    "bytes": bytes(range(256)),
    "empty": b"",
    "number": b"1" * 10_000,
    "null": b"null",
    "lists": json.dumps({name: [[]] for name in RECORD}).encode(),
    "pid": json.dumps(RECORD | {"pid": -1}).encode(),
    "large pid": json.dumps(RECORD | {"pid": 10**30}).encode(),
    "pid is true": json.dumps(RECORD | {"pid": True}).encode(),
    "no date": json.dumps(RECORD | {"heartbeat": "yesterday"}).encode(),
    "one field more": json.dumps(RECORD | {"x": 1}).encode(),
    "surrogates": json.dumps(RECORD | {"user": "\ud800"}).encode(),
    "UTF-16": json.dumps(RECORD).encode("utf-16"),
    "NaN": b"NaN",
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_holds_no_longer_than_a_lock_and_says_so(tmp_path: Path, name: str) -> None:
    lock_file(tmp_path, GARBAGE[name], DAY_S)
    with pytest.raises(RunLockedError) as error, RunLock(Storage.open(tmp_path)):
        pass
    message = str(error.value)
    message.encode()
    assert len(message) < 2000
    assert wait(tmp_path) < 8


def test_what_is_shown_of_a_lock_cannot_command_a_terminal() -> None:
    record = parse_record(json.dumps(RECORD | {"command": "\x1b[2Js2l\n" + "y" * 5000, "host": "\u202eh"}).encode())
    assert record is not None
    told = describe(SeenLock("0", record, 0.0))
    assert told.isprintable()
    assert len(told) < 1500
    assert parse_record(b" " * LARGEST_BYTES + json.dumps(RECORD).encode()) is None


@pytest.mark.parametrize("what", ["folder where a lock should be", "link to nowhere"])
def test_what_is_no_file_is_no_lock(tmp_path: Path, what: str) -> None:
    (tmp_path / "locks").mkdir()
    if what == "link to nowhere":
        (tmp_path / "locks/0000.json").symlink_to("nowhere")
    else:
        (tmp_path / "locks/0000.json").mkdir()
    with RunLock(Storage.open(tmp_path)):
        pass
