"""Temporary folders on this machine that are eventually deleted even if the process was killed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from s2l_ray.storage.processes import machine_id, start_time

_SCRATCH = "s2l-scratch-"
_SCRATCH_NAME = re.compile(rf"^{_SCRATCH}(?P<machine>[0-9a-f]{{12}})-(?P<pid>\d+)-(?P<start>[^-]*)-")


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder below TMPDIR, which is deleted after the block.

    Folders left by killed processes, which may contain gigabytes of a checkpoint, are deleted by the next process that
    calls this on the same machine.
    """
    with tempfile.TemporaryDirectory(prefix=new_scratch_prefix()) as folder:
        yield Path(folder)


def new_scratch_prefix() -> str:
    """Return a prefix for the folders of this process, after deleting those of dead processes."""
    _delete_orphans(Path(tempfile.gettempdir()))
    pid = os.getpid()
    # The start time is included because pids are reused; its digest, because on macOS it contains spaces or dashes.
    return f"{_SCRATCH}{_machine()}-{pid}-{_digest(start_time(pid) or '')}-"


def _delete_orphans(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            match = _SCRATCH_NAME.match(entry.name)
            if match is None or match["machine"] != _machine():
                continue
            started = start_time(int(match["pid"]))
            if started is None or _digest(started) != match["start"]:
                shutil.rmtree(entry.path, ignore_errors=True)


def _machine() -> str:
    return _digest(machine_id())


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
