"""Training loops that end badly, for `run_on_workers`. The job is a folder, in which every attempt leaves a file."""

from __future__ import annotations

import functools
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from s2l_ray.lm.after_head import UnsupportedModel
from s2l_ray.storage.retry import StorageError


def attempts(folder: Path) -> int:
    return len(list(folder.glob("rank-0-*")))


def _begin(folder: str, worker: Any) -> int:
    Path(folder, f"rank-{worker.rank}-{uuid.uuid4().hex}").touch()
    worker.all_gather(None)
    return attempts(Path(folder))


def refuses_on_one_rank(folder: str, worker: Any) -> dict[str, Any]:
    _begin(folder, worker)
    if worker.rank == 1:
        raise UnsupportedModel("this model cannot be measured; choose another")
    worker.all_gather(None)  # indefinitely: rank 1 does not come
    return {}


def storage_fails_once(folder: str, worker: Any) -> dict[str, Any]:
    if _begin(folder, worker) == 1:
        raise StorageError("the storage is away")
    return {"attempts": attempts(Path(folder))}


def runs_out_of_memory(folder: str, worker: Any) -> dict[str, Any]:
    import torch

    _begin(folder, worker)
    if worker.rank == 1:
        torch.empty(2**56, dtype=torch.uint8)
    worker.all_gather(None)
    return {}


def is_killed(folder: str, worker: Any) -> dict[str, Any]:
    _begin(folder, worker)
    if worker.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    worker.all_gather(None)
    return {}


def _kill_beside(named: str) -> None:
    """Processes of this worker's node whose title holds `named`; itself last."""
    beside = psutil.Process().parent()
    assert beside is not None
    found = [p for p in beside.children(recursive=True) if named in " ".join(p.cmdline()) and p.pid != os.getpid()]
    for process in found:
        process.kill()
    if named in " ".join(psutil.Process().cmdline()):
        os.kill(os.getpid(), signal.SIGKILL)


def loses_its_controller(folder: str, worker: Any) -> dict[str, Any]:
    if _begin(folder, worker) == 1:
        if worker.rank == 0:
            _kill_beside("TrainController")
        time.sleep(300)
    return {"attempts": attempts(Path(folder))}


def loses_everybody(folder: str, worker: Any) -> dict[str, Any]:
    if _begin(folder, worker) == 1:
        if worker.rank == 0:
            _kill_beside("TrainController")
            _kill_beside("_Box")
            _kill_beside("TrainWorker")
        time.sleep(300)
    return {"attempts": attempts(Path(folder))}


def is_killed_once(folder: str, worker: Any) -> dict[str, Any]:
    if _begin(folder, worker) == 1 and worker.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    worker.all_gather(None)
    return {"attempts": attempts(Path(folder))}


def loses_a_connection(folder: str, worker: Any) -> dict[str, Any]:
    """Raises what another try may not meet again."""
    _begin(folder, worker)
    if worker.rank == 1:
        raise RuntimeError(f"connection {attempts(Path(folder))} was lost")
    worker.all_gather(None)
    return {}


def tells_its_device(folder: str, worker: Any) -> dict[str, Any]:
    return {"device": str(worker.device), "hidden": os.environ.get("CUDA_VISIBLE_DEVICES")}


def counts_to_six(folder: str, worker: Any) -> dict[str, Any]:
    """A checkpoint at every step; where a file says so, a death or an error before that step's."""
    at = _begin(folder, worker)
    step, began = 0, 0
    with worker.restore() as found:
        if found is not None:
            step = began = found[1]["step"]
            assert (found[0] / "weights").read_text() == str(step)
    fault = Path(folder, f"fault-{at}")
    kind, when = fault.read_text().split() if fault.exists() else ("none", "0")
    while step < 6:
        step += 1
        worker.emit(event="train", step=step)
        if step == int(when):
            if kind == "second-killed":
                time.sleep(2)  # the controller looks several times a second for checkpoints to note
            if kind == "killed" or (kind == "second-killed" and worker.rank == 1):
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "stopped":
                raise UnsupportedModel("stopped")
            if kind == "away":
                raise StorageError("the storage is away")
        worker.save(f"step-{step:08d}", {"step": step}, functools.partial(_write_step, step))
    return {"began": began, "attempts": at, "pid": os.getpid()}


def _write_step(step: int, files: Path) -> None:
    (files / "weights").write_text(str(step))
