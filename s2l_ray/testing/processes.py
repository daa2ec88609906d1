"""Processes of this session, and how they are started."""

from __future__ import annotations

import signal

import psutil


def heed_signals() -> None:
    """For `preexec_fn`: the tests themselves may run under nohup, or in the background of a shell, where signals that
    end a process are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def train_workers() -> list[psutil.Process]:
    """Processes below this one that train, as Ray Train's workers or in tasks: others train on the same machine, and
    theirs must live."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:  # it has ended meanwhile
            continue
        if line.startswith("ray::") and ("TrainWorker" in line or "training_worker" in line):
            found.append(process)
    return found
