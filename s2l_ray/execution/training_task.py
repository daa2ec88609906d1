"""Runs a training with a single worker, on a single machine, in a Ray task.

Ray Train starts five processes for a training, and its worker imports PyTorch and everything else: on a machine with
two cores this takes longer than training many a small model. A task runs in an existing process that earlier work may
have left warm. The other features of Ray Train (several workers, GPUs, nodes that come and go) are not needed here. A
lost process costs the same: the work since the last checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s2l_ray.data.token_examples import Examples
from s2l_ray.execution.checkpoint_files import checkpoint_files, open_checkpoint
from s2l_ray.execution.checkpoints import FOLDER, keep_checkpoint, take_over_from_ray_train
from s2l_ray.execution.event_channel import Event, hand_over
from s2l_ray.execution.failures import cause_of, is_final
from s2l_ray.execution.placement import Placement, node_resources
from s2l_ray.execution.restarts import RESTART, WAITING
from s2l_ray.execution.session import quiet_ray_data
from s2l_ray.execution.token_stream import stream_units
from s2l_ray.execution.training_errors import explain, places_did_not_come
from s2l_ray.execution.training_watcher import Watcher
from s2l_ray.lm.worker import Alone, WorkerContext
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.processes import forget_peak
from s2l_ray.storage.retry import translate_disk_full

Loop = Callable[[Any, WorkerContext], dict[str, Any]]

_REPORT = "report"
"""The event that carries the loop's reports."""
_SAY_AFTER_S = 15.0
"""Seconds of waiting for a CPU between messages."""


def suffices(placement: Placement) -> bool:
    """Whether the placement is one worker on the CPUs of the only node."""
    import ray

    return (
        placement.is_one_process_on_cpus
        and not ray.cluster_resources().get("GPU")  # libraries would find and use it
        and len(node_resources()) == 1
    )  # fmt: skip


_followed: dict[Any, Storage] = {}
"""Event streams of the trainings that threads of this process follow → the stage's folder."""
_ended_by_us: set[Any] = set()
"""Event streams of trainings that were ended on purpose and must not be restarted."""


@dataclass
class _Ended:
    """A worker's last message."""

    summary: dict[str, Any]


class TaskWorkerContext(Alone):
    """`WorkerContext` of the only worker."""

    def __init__(self, put: Callable[[Event], None], checkpoints: Storage, checkpoints_to_keep: int) -> None:
        super().__init__(torch.device("cpu"))
        self._put, self._checkpoints, self._keep = put, checkpoints, checkpoints_to_keep

    def emit(self, **event: Any) -> None:
        self._put({"rank": 0, **event})

    def save(self, name: str, progress: dict[str, Any], write: Callable[[Path], None]) -> None:
        with checkpoint_files(self._checkpoints, progress, write) as folder:
            keep_checkpoint(self._checkpoints, name, folder, self._keep)

    def notice(self, step: int) -> bool:
        """Return False: the only node is the driver's own, and the run ends with it."""
        return False

    def report(self, metrics: dict[str, Any]) -> None:
        self.emit(event=_REPORT, metrics=metrics)

    def restore(self) -> AbstractContextManager[tuple[Path, dict[str, Any]] | None]:
        return open_checkpoint(self._checkpoints, None)

    def stream(self, tokens: Storage, units: list[tuple[int, ...]]) -> Iterator[Examples]:
        return stream_units(tokens, units)


def run_in_task(
    loop: Loop,
    job: Any,
    out: Storage,
    placement: Placement,
    *,
    what: str,
    max_failures: int,
    wait_s: float,
    checkpoints_to_keep: int,
    watcher: Watcher | None = None,
    on_event: Callable[[Event], None],
) -> dict[str, Any]:
    """Run `loop(job, worker)` in a task; a lost process is replaced and resumes from the newest checkpoint.

    Arguments and errors are those of `execution.train.run_training`.
    """
    import ray
    from ray.train import WorkerGroupError

    checkpoints = out.sub(FOLDER)
    take_over_from_ray_train(checkpoints)
    custom = {name: each for name, each in placement.worker.items() if name != "CPU"}
    # Not in the placement group of a sweep's trial, to which it would be charged.
    task = _remote().options(num_cpus=placement.cpus_per_worker, resources=custom, scheduling_strategy="DEFAULT")
    work = ray.cloudpickle.dumps((loop, job, checkpoints, checkpoints_to_keep))
    failures = 0
    while True:
        events = task.remote(work)
        _followed[events] = out
        try:
            with translate_disk_full(checkpoints.uri):
                return _follow(events, what, wait_s, out, watcher, on_event)
        except (ray.exceptions.RayError, OSError) as error:
            if events in _ended_by_us:
                raise
            cause = getattr(error, "cause", None) or error
            failures += 1
            failure = WorkerGroupError("", {0: cause})
            if is_final(cause) or 0 <= max_failures < failures:
                raise explain(failure, out, what, max_failures, wait_s) from error
            hand_over({"event": RESTART, "rank": 0, "cause": cause_of(failure)}, on_event)
        finally:
            _followed.pop(events, None)
            _ended_by_us.discard(events)


def end_trainings(run: Storage) -> None:
    """End a run's trainings that other threads follow, which raise Ray's error there, because an interrupt reaches only
    the main thread. They can resume from their checkpoints."""
    for events in [events for events, out in list(_followed.items()) if run.contains(out)]:
        _ended_by_us.add(events)
        _end(events)


def _end(events: Any) -> None:
    """End a training and its process, unless it has already ended."""
    import ray

    with contextlib.suppress(Exception):
        ray.cancel(events, force=True)


@functools.cache
def _remote() -> Any:
    """The remote function, one for all trainings: to Ray, another would be a different function in another process."""
    import ray

    return ray.remote(num_returns="streaming", max_retries=0)(training_worker)


def _follow(
    events: Any,
    what: str,
    wait_s: float,
    out: Storage,
    watcher: Watcher | None,
    on_event: Callable[[Event], None],
) -> dict[str, Any]:
    """Forward the worker's events → its summary. Raises the error that ended it; an interrupt ends the worker."""
    import ray

    try:
        quick = min(_SAY_AFTER_S, wait_s)
        if not ray.wait([events], timeout=quick)[0]:
            hand_over({"event": WAITING, "rank": 0, "cause": "all CPUs are in use"}, on_event)
            if not ray.wait([events], timeout=wait_s - quick)[0]:
                raise places_did_not_come(what, wait_s, out)
        ended = None
        for reference in events:  # to the end, when its process is free for the next training
            said = ray.get(reference)
            if isinstance(said, _Ended):
                ended = said
            elif said is not None and said["event"] != _REPORT:
                hand_over(said, on_event)
            elif said is not None and watcher is not None:
                watcher.take(said["metrics"])
        assert ended is not None
        return ended.summary
    except BaseException:
        _end(events)
        raise


def training_worker(work: bytes) -> Iterator[Event | _Ended | None]:
    """Runs in the task: yields immediately that it has begun, then the loop's events, finally its summary."""
    import ray

    yield None
    forget_peak()
    quiet_ray_data()
    loop, job, checkpoints, keep = ray.cloudpickle.loads(work)
    said: queue.SimpleQueue[Event | _Ended | BaseException] = queue.SimpleQueue()

    def run() -> None:
        try:
            said.put(_Ended(loop(job, TaskWorkerContext(said.put, checkpoints, keep))))
        except BaseException as error:
            said.put(error)

    # A generator cannot yield while it computes, hence the thread.
    thread = threading.Thread(target=run, name="s2l-training", daemon=True)
    thread.start()
    while True:
        one = said.get()
        if isinstance(one, dict):
            yield one
            continue
        thread.join()
        gc.collect()  # the process is reused, but the model must be freed
        if isinstance(one, BaseException):
            raise one
        if not gc.get_freeze_count():  # what remains are modules, which later collections need not search
            gc.freeze()
        yield one
        return
