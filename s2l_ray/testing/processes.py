"""Find training processes of this session, and start processes that obey signals."""

from __future__ import annotations

import signal

import psutil


def heed_signals() -> None:
    """Restore default signal handling, as a `preexec_fn`: tests may run under nohup or in the background of a shell,
    where signals that end a process are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def train_workers() -> list[psutil.Process]:
    """Return the descendants of this process that train, as Ray Train's workers or in tasks; training processes of
    others on the same machine are left out."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:  # it has ended meanwhile
            continue
        if line.startswith("ray::") and ("TrainWorker" in line or "training_worker" in line):
            found.append(process)
    return found
