"""Training loops that end badly, for `run_on_workers`. The job is a folder, in which every attempt leaves a file."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path
from typing import Any

from s2l_ray.lm.response_loss import UnsupportedModel
from s2l_ray.run_folder import StorageError


def attempts(folder: Path) -> int:
    return len(list(folder.glob("rank-0-*")))


def _begin(folder: str, host: Any) -> int:
    Path(folder, f"rank-{host.rank}-{uuid.uuid4().hex}").touch()
    host.gather(None)
    return attempts(Path(folder))


def refuses_on_one_rank(folder: str, host: Any) -> dict[str, Any]:
    _begin(folder, host)
    if host.rank == 1:
        raise UnsupportedModel("this model cannot be measured; choose another")
    host.gather(None)  # for ever: rank 1 does not come
    return {}


def storage_fails_once(folder: str, host: Any) -> dict[str, Any]:
    if _begin(folder, host) == 1:
        raise StorageError("the storage is away")
    return {"attempts": attempts(Path(folder))}


def runs_out_of_memory(folder: str, host: Any) -> dict[str, Any]:
    import torch

    _begin(folder, host)
    if host.rank == 1:
        torch.empty(2**56, dtype=torch.uint8)
    host.gather(None)
    return {}


def is_killed(folder: str, host: Any) -> dict[str, Any]:
    _begin(folder, host)
    if host.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    host.gather(None)
    return {}
