"""A checkpoint's files on this machine: on their way to storage, and from there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from s2l_ray.execution.checkpoints import PROGRESS, newest_complete, read_progress, translate_torn_checkpoint
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import translate_disk_full
from s2l_ray.storage.scratch import scratch_folder


@contextlib.contextmanager
def checkpoint_files(
    checkpoints: Storage, progress: dict[str, Any] | None, write: Callable[[Path], None]
) -> Iterator[Path]:
    """A folder on this machine with what `write` leaves there, and with the progress."""
    with scratch_folder() as folder:
        with translate_disk_full(f"{folder} (TMPDIR, on the way to {checkpoints.uri})"):
            write(folder)
            if progress is not None:
                Path(folder, PROGRESS).write_text(json.dumps(progress))
        yield folder


@contextlib.contextmanager
def open_checkpoint(checkpoints: Storage, name: str | None) -> Iterator[tuple[Path, dict[str, Any]] | None]:
    """The files and the progress of a checkpoint; None: of the newest that a worker in a task has left, if any."""
    import ray.train

    name = name or newest_complete(checkpoints)
    if name is None:
        yield None
        return
    one = checkpoints.sub(name)
    with (
        ray.train.Checkpoint(one.path, one.filesystem).as_directory() as folder,
        translate_torn_checkpoint(one.uri),
    ):
        yield Path(folder), read_progress(Path(folder))
