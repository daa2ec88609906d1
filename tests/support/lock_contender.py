"""A real process that takes a run's lock when told to."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.paths import ROOT

# Obeys lines on its standard input: `take` answers won, locked or an error's name; `check`; `release`.
CONTENDER = """
import sys
from s2l_ray.storage.lock import RunLock, RunLockedError, RunLockLostError
from s2l_ray.storage.folder import Storage
uri, heartbeat_s, stale_after_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
storage, lock = Storage.open(uri), None
storage.exists()
print("ready", flush=True)
for line in sys.stdin:
    answer = "done"
    if line.strip() == "take":
        lock = RunLock(storage, heartbeat_s=heartbeat_s, stale_after_s=stale_after_s)
        try:
            lock.acquire()
            answer = "won"
        except RunLockedError:
            answer = "locked"
    elif line.strip() == "check":
        try:
            lock.check()
            answer = "mine"
        except RunLockLostError:
            answer = "lost"
    else:
        lock.release()
    print(answer, flush=True)
"""


class Contender:
    """A real process that takes the lock when told to."""

    def __init__(self, uri: str, heartbeat_s: float = 1.0, stale_after_s: float = 60.0):
        command = [sys.executable, "-c", CONTENDER, uri, str(heartbeat_s), str(stale_after_s)]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=env
        )

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
