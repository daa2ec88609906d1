"""Lock that allows one writer per run, on local disks and object stores, without conditional writes.

Each contender writes its own file under `locks/` and *then* lists the folder; it has won if no other live lock is
listed. Of two contenders, at least one lists after the other has written, so both cannot win. To let one of them win,
the one with the smaller token stays and waits for the others to withdraw. (The only requirement is that a listing shows
what was written before it, as on POSIX, S3, GCS and Azure.)

A live holder rewrites its file every `heartbeat_s`. Ages are differences between the storage's own time stamps, so the
machines' clocks need not agree. If a time stamp is in the future (the storage's clock was set back, a folder was
copied), a lock counts as old once this process has seen it unchanged for as long. A holder that was stopped for longer
than others wait (suspended, storage unreachable) contends again under a new token before it continues.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict

from s2l_ray.errors import EnvironmentFault, UserError
from s2l_ray.storage.folder import FileEntry, Storage
from s2l_ray.storage.lock_files import (
    LARGEST_BYTES,
    NOT_LISTED,
    LockRecord,
    SeenLock,
    age_s_between,
    describe,
    parse_record,
    utc_now,
)
from s2l_ray.storage.processes import at_abrupt_end, host_name, machine_id, start_time, steady_clock_s, user_name
from s2l_ray.text.display import one_line
from s2l_ray.text.redact import redact_command

logger = logging.getLogger(__name__)

FOLDER = "locks"
_POLL_S = 0.05
_MAX_WITHDRAWALS = 5
_WAIT_POLL_S = 1.0


class RunLockedError(EnvironmentFault, RuntimeError):
    """Error if another process is writing this run."""


class RunLockLostError(EnvironmentFault, RuntimeError):
    """Error if another process has taken over the run, so that this one may no longer write it."""

    retryable = False


class RunLock:
    """Lock of a run: `with RunLock(run_storage) as lock:` makes the block its only writer.

    Call `lock.check()` before each commit.

    Args:
        storage: the run's folder.
        heartbeat_s: interval at which the lock shows that it is alive (seconds).
        stale_after_s: silence after which others may take over (seconds); at least three heartbeats. A process killed
            on this machine is noticed at once.
        wait_s: how long to wait for another process's lock before giving up (seconds).
        wait_for_living_s: the same if the other process is on this machine and known to be alive; None: wait_s.
        on_wait: called about every 10 s with a sentence that says what is being waited for.

    Raises:
        RunLockedError: on entering, if another process holds the run; the message says who and what to do.
        UserError: stale_after_s is too short.
    """

    def __init__(
        self,
        storage: Storage,
        heartbeat_s: float = 10.0,
        stale_after_s: float = 60.0,
        wait_s: float = 0.0,
        on_wait: Callable[[str], None] | None = None,
        wait_for_living_s: float | None = None,
    ):
        if stale_after_s < 3 * heartbeat_s:
            raise UserError(
                f"stale_after_s={stale_after_s:g} is under three heartbeats of {heartbeat_s:g} s: raise it."
            )
        self.storage = storage
        self.heartbeat_s, self.stale_after_s, self.wait_s, self.on_wait = heartbeat_s, stale_after_s, wait_s, on_wait
        self.wait_for_living_s = wait_s if wait_for_living_s is None else wait_for_living_s
        self.lost = False
        # Others see time stamps in whole seconds, this process its own clock: leave a margin before giving up.
        self._safe_gap_s = 0.75 * stale_after_s
        self._patience_s = min(5.0, 0.25 * stale_after_s)
        self._token = ""
        self._created = ""
        self._last_beat_s = 0.0
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched: dict[str, tuple[object, float]] = {}
        """Others' locks: their last known state, and when this process first saw it (seconds)."""
        self._open = contextlib.ExitStack()

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock. Raises RunLockedError."""
        started_s = steady_clock_s()
        next_message_s = 0.0
        withdrawals = 0
        while (blocker := self._contend("trying")) is not None:
            withdrawals += 1
            now_s = steady_clock_s()
            lives = blocker.record is not None and blocker.record.machine == machine_id()
            deadline_s = started_s + (self.wait_for_living_s if lives else self.wait_s)
            may_wait = now_s < deadline_s
            if not may_wait and (blocker.holds or withdrawals >= _MAX_WITHDRAWALS):
                raise RunLockedError(self._describe(blocker))
            if may_wait and self.on_wait and now_s >= next_message_s:
                self.on_wait(f"Waiting up to {deadline_s - now_s:.0f} s more for {describe(blocker)}.")
                next_message_s = now_s + 10.0
            pause_s = random.uniform(
                2 * _POLL_S, 6 * _POLL_S
            )  # two may have withdrawn for each other: return at different times
            time.sleep(min(_WAIT_POLL_S, max(pause_s, deadline_s - now_s)) if blocker.holds else pause_s)
        self.lost = False
        self._stop.clear()
        self._open.enter_context(at_abrupt_end(self._abandon))
        self._thread = threading.Thread(target=self._beat_until_stopped, name="s2l-run-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Release the lock; does nothing if it is not held."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
            self._thread = None
        with self._mutex:
            if self._token:
                self._withdraw()
        self._open.close()

    def _abandon(self) -> None:
        """Release the lock in a process that is about to exit, without waiting for other threads."""
        self._stop.set()
        if self._token:
            self.storage.delete(self._name())

    def check(self) -> None:
        """Call before each write that matters. Raises RunLockLostError if another process has taken the run over."""
        if self._token and steady_clock_s() - self._last_beat_s > self._safe_gap_s:
            self._beat()  # this process was suspended, and the heartbeat's thread may not have run yet
        if self.lost:
            raise RunLockLostError(
                f"This process (pid {os.getpid()} on {host_name()}) showed no activity for {self.stale_after_s:g} s, "
                f"and another process has taken over the run {self.storage.uri}, so this one stops writing. Let the "
                "other one finish; then run the same command to resume."
            )

    def _contend(self, state: str, own_old: str = "") -> SeenLock | None:
        """Write a new lock file, then list the others; return the lock in the way, or None if this process has won."""
        started_s = steady_clock_s()
        self._created = self._created or utc_now()
        self._token = secrets.token_hex(8)
        try:
            self._write(state)
            blocker = self._wait_for_others(state, own_old, started_s)
            if blocker is None and state != "held":
                self._write("held")
            if blocker is None and steady_clock_s() - started_s > self._safe_gap_s:
                blocker = NOT_LISTED  # so slow that others may have removed this lock meanwhile
        except BaseException:
            self._withdraw()
            raise
        if blocker is not None:
            self._withdraw()
        else:
            self._last_beat_s = started_s
        return blocker

    def _wait_for_others(self, state: str, own_old: str, started_s: float) -> SeenLock | None:
        while True:
            others = self._live_others({self._token, own_old})
            if others is not None and not others:
                return None
            for other in others or ():
                if other.holds or (state == "trying" and other.token < self._token):
                    return other
            if steady_clock_s() - started_s > self._patience_s:
                return others[0] if others else NOT_LISTED
            time.sleep(_POLL_S)

    def _live_others(self, mine: set[str]) -> list[SeenLock] | None:
        """Return other processes' live locks, and remove dead ones; None: the own file is not listed."""
        entries = {entry.name.rpartition("/")[2].removesuffix(".json"): entry for entry in self.storage.list(FOLDER)}
        own = entries.get(self._token)
        if own is None:
            return None
        live = []
        for token in sorted(entries.keys() - mine):
            entry = entries[token]
            try:
                record = parse_record(self.storage.read_bytes(entry.name)) if entry.size <= LARGEST_BYTES else None
            except FileNotFoundError:
                continue  # withdrawn between the listing and the reading
            seen = SeenLock(token, record, max(age_s_between(own, entry, record), self._unchanged_s(entry, record)))
            if self._is_dead(seen):
                logger.warning("Removing the lock of a dead process on %s: %s", self.storage.uri, describe(seen))
                self.storage.delete(entries[token].name)
            else:
                live.append(seen)
        return live

    def _unchanged_s(self, entry: FileEntry, record: LockRecord | None) -> float:
        """Return for how long this process has seen the lock unchanged (seconds)."""
        state, now_s = (entry, record), steady_clock_s()
        seen, since_s = self._watched.get(entry.name, (None, now_s))
        if seen != state:
            since_s = now_s
        self._watched[entry.name] = (state, since_s)
        return now_s - since_s

    def _is_dead(self, seen: SeenLock) -> bool:
        if seen.age_s > self.stale_after_s:
            return True
        record = seen.record
        if record is None or record.machine != machine_id() or record.process_start is None:
            return False
        return start_time(record.pid) != record.process_start

    def _beat_until_stopped(self) -> None:
        failing = False
        while not self._stop.wait(self.heartbeat_s) and not self.lost:
            try:
                self._beat()
                failing = False
            except Exception as error:
                # Storage that is briefly unavailable must not end a long run; check() decides when it is too long.
                if not failing:
                    logger.warning("The lock of %s cannot be renewed: %s", self.storage.uri, one_line(str(error)))
                failing = True

    def _beat(self) -> None:
        with self._mutex:
            if self.lost or not self._token:
                return
            started_s = steady_clock_s()
            if not self.storage.exists(self._name()):
                self.lost, self._token = True, ""
                return
            self._write("held")
            if steady_clock_s() - self._last_beat_s <= self._safe_gap_s:
                self._last_beat_s = started_s
                return
            # This process was suspended, or the write hung: others may have removed the lock. Contend again.
            old = self._token
            try:
                self.lost = self._contend("held", own_old=old) is not None
            except BaseException:
                self._token = old  # not known to be lost: the next beat, or check(), contends again
                raise
            self.storage.delete(f"{FOLDER}/{old}.json")

    def _write(self, state: str) -> None:
        pid = os.getpid()
        record = LockRecord(
            machine=machine_id(),
            host=host_name(),
            pid=pid,
            process_start=start_time(pid),
            user=user_name(),
            command=redact_command(sys.argv)[:500],
            state=state,
            created=self._created,
            heartbeat=utc_now(),
        )
        self.storage.write_bytes(self._name(), json.dumps(asdict(record), indent=1).encode())

    def _withdraw(self) -> None:
        try:
            self.storage.delete(self._name())
        except OSError as error:
            logger.warning(
                "The lock %s of %s could not be removed (%s); it expires %g s after its last renewal.",
                self._name(), self.storage.uri, one_line(str(error)), self.stale_after_s,
            )  # fmt: skip
        self._token = ""

    def _name(self) -> str:
        return f"{FOLDER}/{self._token}.json"

    def _describe(self, seen: SeenLock) -> str:
        return (
            f"The run {self.storage.uri} is locked: {describe(seen)}\n"
            "Two processes writing one run would mix their results, so this one stops before it changes anything.\n"
            "Wait for the other one, stop it, or choose another run folder. If it is already dead, its lock expires "
            f"{self.stale_after_s:g} s after its last renewal ({max(0, seen.age_s):.0f} s ago): run the same command "
            "again then."
        )
