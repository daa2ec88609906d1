"""A training's checkpoints on storage, `ray_train/<step>/`. Imports no Ray.

They are written by Ray Train, which keeps a list of them, or by a worker in a task, which marks each complete one.
Each can resume from the other's checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from s2l_ray.errors import DataError
from s2l_ray.storage.folder import Storage

FOLDER = "ray_train"
PROGRESS = "progress.json"
_LIST = "checkpoint_manager_snapshot.json"
_COMPLETE = "complete"
"""File that marks a complete checkpoint not listed by Ray Train; written last."""
_TORN_LIST = (ValueError, KeyError, TypeError)
_TORN_MARKS = ("PytorchStreamReader", "loading state_dict", "safetensor", "invalid load key", "corrupt")


class CheckpointDamaged(DataError, RuntimeError):
    """A checkpoint cannot be loaded; the message says which one, and how to train without it."""


def read_progress(folder: Path) -> dict[str, Any]:
    """The progress that the loop saved with the weights."""
    progress: dict[str, Any] = json.loads((folder / PROGRESS).read_text())
    return progress


@contextlib.contextmanager
def translate_torn_checkpoint(uri: str) -> Iterator[None]:
    """Raises CheckpointDamaged, naming the checkpoint, if the block finds its files incomplete or corrupt."""
    try:
        yield
    except (EOFError, pickle.UnpicklingError, json.JSONDecodeError, FileNotFoundError) as error:
        raise CheckpointDamaged(_damaged(uri, error)) from error
    except Exception as error:
        if type(error).__module__.startswith("s2l_ray"):
            raise
        # torch and safetensors have no specific errors for this:
        if any(mark in f"{type(error).__name__} {error}".lower() for mark in map(str.lower, _TORN_MARKS)):
            raise CheckpointDamaged(_damaged(uri, error)) from error
        raise


def _damaged(uri: str, error: Exception) -> str:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"the checkpoint {uri} cannot be loaded ({said[0][:300]}): its files are corrupt or incomplete. Delete "
        f"{uri.rpartition('/')[0]} and run the same command again: training starts over, complete stages are kept"
    )


def drop_unusable_checkpoints(out: Storage, say: Callable[[str], None]) -> None:
    """Discard the checkpoints in a stage's folder, with a message, if their list is corrupt or names missing ones.

    Ray Train does not write its list atomically: a full disk or a kill can leave half of it, and then it could never
    start again.
    """
    folder = out.sub(FOLDER)
    if not folder.exists(_LIST):
        return
    try:
        names = _listed(folder)
        gone = [name for name in names if not folder.exists(f"{name}/{PROGRESS}")]
        why = f"checkpoint {gone[0]} is incomplete" if gone else ""
    except _TORN_LIST as error:
        why = f"{_LIST} is corrupt ({error})"
    if why:
        say(f"{folder.uri}: {why}; training starts over.")
        folder.delete_dir()


def newest_complete(folder: Storage) -> str | None:
    """Name of the newest checkpoint written by a worker in a task; the names sort by step."""
    complete = [name for name in folder.folders() if folder.exists(f"{name}/{_COMPLETE}")]
    return max(complete, default=None)


def take_over_from_ray_train(folder: Storage) -> None:
    """Mark the newest of Ray Train's checkpoints as one to resume from, and delete its list, which would go stale."""
    if not folder.exists(_LIST):
        return
    try:
        newest = max(_listed(folder), default=None)
    except _TORN_LIST:  # of a work without checkpoints: where there are some, `drop_unusable_checkpoints` came before
        newest = None
    if newest is not None:
        folder.write_bytes(f"{newest}/{_COMPLETE}", b"")
    folder.delete(_LIST)


def keep_checkpoint(folder: Storage, name: str, files: Path, keep: int) -> None:
    """Upload a checkpoint's files and delete all but the newest `keep`; a kill at any moment leaves a complete one."""
    folder.delete_dir(name)  # left by an upload that was killed
    folder.sub(name).upload_folder(files)
    folder.write_bytes(f"{name}/{_COMPLETE}", b"")
    for old in sorted(folder.folders())[:-keep]:
        folder.delete(f"{old}/{_COMPLETE}")  # first, so that a half-deleted checkpoint does not count
        folder.delete_dir(old)


def _listed(folder: Storage) -> list[str]:
    """The checkpoints in Ray Train's list. Raises one of _TORN_LIST if it is corrupt."""
    results = json.loads(folder.read_bytes(_LIST))["checkpoint_results"]
    return [result["checkpoint_dir_name"] for result in results]
