"""A checkpoint's files on the local disk, on their way to and from storage."""

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
    """A local folder with the files that `write` creates and the progress."""
    with scratch_folder() as folder:
        with translate_disk_full(f"{folder} (TMPDIR, on the way to {checkpoints.uri})"):
            write(folder)
            if progress is not None:
                Path(folder, PROGRESS).write_text(json.dumps(progress))
        yield folder


@contextlib.contextmanager
def open_checkpoint(checkpoints: Storage, name: str | None) -> Iterator[tuple[Path, dict[str, Any]] | None]:
    """Files and progress of the checkpoint `name`; None: the newest one written by a worker in a task, if any."""
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
