"""Processes of this session."""

from __future__ import annotations

import psutil


def train_workers() -> list[psutil.Process]:
    """Ray Train's workers below this process: others train on the same machine, and theirs must live."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:  # it has ended meanwhile
            continue
        if line.startswith("ray::") and "TrainWorker" in line:
            found.append(process)
    return found
