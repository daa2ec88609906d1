"""Runs a training in the cheapest suitable way: on Ray Train workers or in a Ray task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from s2l_ray.execution.event_channel import Event
from s2l_ray.execution.placement import Placement
from s2l_ray.execution.training import run_on_workers
from s2l_ray.execution.training_task import run_in_task, suffices
from s2l_ray.execution.training_watcher import Watcher
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.storage.folder import Storage


def run_training(
    loop: Callable[[Any, WorkerContext], dict[str, Any]],
    job: Any,
    out: Storage,
    placement: Placement,
    *,
    what: str,
    max_failures: int,
    wait_s: float,
    checkpoints_to_keep: int = 2,
    environment: dict[str, str] | None = None,
    watcher: Watcher | None = None,
    process_group: bool = False,
    on_event: Callable[[Event], None],
) -> dict[str, Any]:
    """`run_on_workers`, or `run_in_task` (which starts no processes) if there is just one worker on this machine.

    Args:
        watcher: receives what the loop reports.

    The other arguments and the errors are those of `run_on_workers`.
    """
    if not (environment or process_group) and suffices(placement):
        return run_in_task(
            loop, job, out, placement, what=what, max_failures=max_failures, wait_s=wait_s,
            checkpoints_to_keep=checkpoints_to_keep, watcher=watcher, on_event=on_event,
        )  # fmt: skip
    callbacks = [] if watcher is None else [watcher.of_ray_train()]
    return run_on_workers(
        loop, job, out, placement, what=what, max_failures=max_failures, wait_s=wait_s,
        checkpoints_to_keep=checkpoints_to_keep, environment=environment, callbacks=callbacks,
        process_group=process_group, on_event=on_event,
    )  # fmt: skip
