from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s2l_ray.storage.folder import Storage
from s2l_ray.storage.lock import RunLock, RunLockedError, RunLockLostError
from s2l_ray.storage.processes import machine_id, start_time
from tests.support.lock_contender import Contender


@pytest.fixture
def contender() -> Iterator[Callable[..., Contender]]:
    started: list[Contender] = []

    def start(*args, **kwargs) -> Contender:
        started.append(Contender(*args, **kwargs))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3_uri")


def _foreign_lock(storage: Storage, **changes) -> None:
    record = {
        "machine": "elsewhere|boot|pid:[1]",
        "host": "elsewhere",
        "pid": 77,
        "process_start": "123",
        "user": "someone",
        "command": "s2l run big.yaml",
        "state": "held",
        "created": "2026-01-01T00:00:00+00:00",
        "heartbeat": "2026-01-01T00:00:00+00:00",
    }
    storage.write_json("locks/0000.json", record | changes)


def test_held_until_the_block_ends_also_by_an_exception(uri: str):
    storage = Storage.open(uri)

    def work() -> None:
        with RunLock(storage) as lock:
            lock.check()
            assert len(storage.list("locks")) == 1
            with pytest.raises(RunLockedError), RunLock(storage):
                pass
            assert len(storage.list("locks")) == 1  # the loser withdrew
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert storage.list("locks") == []
    with RunLock(storage):
        pass


@pytest.mark.thorough
def test_of_two_processes_exactly_one_wins(uri: str, contender):
    pair = [contender(uri), contender(uri)]
    assert [each.answer() for each in pair] == ["ready", "ready"]
    winners = []
    for _ in range(10):
        for each in pair:
            each.tell("take")
        answers = [each.answer() for each in pair]
        assert sorted(answers) == ["locked", "won"]
        winners.append(answers.index("won"))
        assert pair[winners[-1]].ask("release") == "done"
    assert Storage.open(uri).list("locks") == []


@pytest.mark.thorough
def test_of_many_threads_at_most_one_is_inside(tmp_path: Path):
    storage = Storage.open(tmp_path)
    inside, seen, wins = [], [], []

    def contend() -> None:
        try:
            with RunLock(storage, wait_s=10):
                inside.append(1)
                seen.append(len(inside))
                time.sleep(0.02)
                inside.pop()
                wins.append(1)
        except RunLockedError:
            pass

    threads = [threading.Thread(target=contend) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {1}
    assert len(wins) >= 2


def test_a_killed_holder_is_replaced_at_once(uri: str, contender):
    holder = contender(uri)
    assert holder.answer() == "ready"
    assert holder.ask("take") == "won"
    storage = Storage.open(uri)
    with pytest.raises(RunLockedError, match=f"pid {holder.process.pid} "), RunLock(storage):
        pass
    holder.process.send_signal(signal.SIGKILL)
    while start_time(holder.process.pid) is not None:  # a zombie from here on: nobody has waited for it
        time.sleep(0.01)
    started_s = time.monotonic()
    with RunLock(storage):
        assert time.monotonic() - started_s < 30, "it was waited for as one that may live"
        assert len(storage.list("locks")) == 1


@pytest.mark.thorough
def test_the_smaller_token_stays_and_the_larger_withdraws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    storage = Storage.open(tmp_path)
    _foreign_lock(storage, state="trying")  # 0000 is smaller than any
    with pytest.raises(RunLockedError, match="being taken by pid 77"), RunLock(storage):
        pass
    os.rename(tmp_path / "locks/0000.json", tmp_path / "locks/ffffffffffffffffz.json")
    monkeypatch.setattr("s2l_ray.storage.lock.random.uniform", lambda *_: pytest.fail("withdrew"))
    threading.Timer(0.3, storage.delete, ["locks/ffffffffffffffffz.json"]).start()
    with RunLock(storage):
        assert len(storage.list("locks")) == 1


def test_a_used_again_pid_does_not_keep_a_dead_lock(tmp_path: Path):
    storage = Storage.open(tmp_path)
    _foreign_lock(storage, machine=machine_id(), pid=os.getpid(), process_start="1")
    with RunLock(storage):
        assert len(storage.list("locks")) == 1


def test_the_error_says_who_what_and_what_to_do(uri: str):
    storage = Storage.open(uri)
    _foreign_lock(storage)
    with pytest.raises(RunLockedError) as error, RunLock(storage):
        pass
    for words in (
        "pid 77 on elsewhere",
        "user someone",
        "2026-01-01",
        "s2l run big.yaml",
        "mix",
        "Wait for",
        storage.uri,
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"host": "el', b"[1]", b'{"pid": 3}'])
def test_an_unreadable_lock_counts_until_it_is_old(tmp_path: Path, content: bytes):
    storage = Storage.open(tmp_path)
    storage.write_bytes("locks/0000.json", content)
    with pytest.raises(RunLockedError, match=r"unreadable lock \(0000\.json\)"), RunLock(storage):
        pass
    _make_older(storage, 61)
    with RunLock(storage):
        pass


def test_silence_is_measured_by_the_storages_clock(tmp_path: Path):
    storage = Storage.open(tmp_path)
    _foreign_lock(storage)  # its own time stamps are long past: another host's clock
    _make_older(storage, 50)
    with pytest.raises(RunLockedError, match=r"5[0-9] s ago"), RunLock(storage):
        pass
    _make_older(storage, 61)
    with RunLock(storage):
        assert [entry.name for entry in storage.list("locks")] != ["locks/0000.json"]


@pytest.mark.thorough
def test_waiting_ends_when_a_foreign_lock_lapses(uri: str):
    storage = Storage.open(uri)
    _foreign_lock(storage)
    messages: list[str] = []
    started_s = time.monotonic()
    with RunLock(storage, heartbeat_s=0.3, stale_after_s=2, wait_s=15, on_wait=messages.append):
        assert time.monotonic() - started_s > 1
    assert "pid 77 on elsewhere" in messages[0]


@pytest.mark.thorough
def test_a_process_here_that_lives_is_not_waited_for_as_long(tmp_path: Path, contender):
    """One on another machine may be dead; of one on this machine it is known."""
    holder = contender(str(tmp_path), heartbeat_s=0.2, stale_after_s=1.5)
    assert (holder.answer(), holder.ask("take")) == ("ready", "won")
    started_s = time.monotonic()
    with pytest.raises(RunLockedError), RunLock(Storage.open(tmp_path), wait_s=60, wait_for_living_s=0.5):
        pass
    assert 0.5 <= time.monotonic() - started_s < 45
    assert holder.ask("release") == "done"


@pytest.mark.thorough
def test_a_holder_lives_past_the_stale_time_by_its_heartbeat(tmp_path: Path):
    storage = Storage.open(tmp_path)
    with RunLock(storage, heartbeat_s=0.2, stale_after_s=1.5) as lock:
        time.sleep(2)
        with pytest.raises(RunLockedError), RunLock(storage, heartbeat_s=0.2, stale_after_s=1.5):
            pass
        lock.check()


def test_a_holder_whose_lock_is_gone_knows(uri: str):
    storage = Storage.open(uri)
    with RunLock(storage, heartbeat_s=0.1, stale_after_s=30) as lock:
        until_s = time.monotonic() + 60
        while not lock.lost and time.monotonic() < until_s:
            for entry in storage.list("locks"):  # again: a heartbeat that had looked just before puts it back
                storage.delete(entry.name)
            time.sleep(0.05)
        with pytest.raises(RunLockLostError, match="taken over"):
            lock.check()
        assert storage.list("locks") == []  # and did not put it back


@pytest.mark.thorough
@pytest.mark.parametrize("taken_over", [True, False])
def test_a_suspended_holder_goes_on_only_if_nobody_took_over(tmp_path: Path, contender, taken_over: bool):
    holder = contender(str(tmp_path), heartbeat_s=0.2, stale_after_s=1.5)
    assert holder.answer() == "ready"
    assert holder.ask("take") == "won"
    storage = Storage.open(tmp_path)
    os.kill(holder.process.pid, signal.SIGSTOP)
    time.sleep(1.8)
    if taken_over:
        with RunLock(storage, heartbeat_s=0.2, stale_after_s=1.5):
            os.kill(holder.process.pid, signal.SIGCONT)
            assert holder.ask("check") == "lost"
    else:
        os.kill(holder.process.pid, signal.SIGCONT)
        assert holder.ask("check") == "mine"
        with pytest.raises(RunLockedError), RunLock(storage, heartbeat_s=0.2, stale_after_s=1.5):
            pass


@pytest.mark.thorough
def test_a_late_heartbeat_cannot_bring_a_taken_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The holder's write hangs until another has taken over, then lands: the holder must notice, not go on beside."""
    storage = Storage.open(tmp_path)
    old, new = (RunLock(storage, heartbeat_s=0.3, stale_after_s=1.0) for _ in range(2))
    old.acquire()
    old._stop.set()  # beats only when told
    write = old._write

    def hanging_write(state: str) -> None:
        monkeypatch.setattr(old, "_write", write)
        time.sleep(1.2)
        new.acquire()
        write(state)

    monkeypatch.setattr(old, "_write", hanging_write)
    old._beat()
    assert old.lost
    with pytest.raises(RunLockLostError):
        old.check()
    new.check()
    assert [entry.name for entry in storage.list("locks")] == [new._name()]
    new.release()


def test_a_stale_time_under_three_heartbeats_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="raise it"):
        RunLock(Storage.open(tmp_path), heartbeat_s=10, stale_after_s=20)


def test_the_lock_file_names_this_process_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["s2l", "run", "s3://key:hush@bucket/p"])
    storage = Storage.open(tmp_path)
    with RunLock(storage):
        (entry,) = storage.list("locks")
        record = json.loads(storage.read_bytes(entry.name))
    assert record["pid"] == os.getpid()
    assert record["process_start"] == start_time(os.getpid())
    assert record["state"] == "held"
    assert "hush" not in record["command"]


def _make_older(storage: Storage, seconds: float) -> None:
    past_s = time.time() - seconds
    os.utime(storage.local_path("locks/0000.json"), (past_s, past_s))
