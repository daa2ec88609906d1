"""Training loops on Ray Train workers: the context a loop runs in, and the call that runs the loops."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from s2l_ray.data.token_examples import Examples
from s2l_ray.execution.capacity import ACCELERATOR_TYPE
from s2l_ray.execution.checkpoint_files import checkpoint_files, open_checkpoint
from s2l_ray.execution.checkpoints import FOLDER
from s2l_ray.execution.event_channel import Event, event_channel, hand_over
from s2l_ray.execution.failures import cause_of
from s2l_ray.execution.orphaned_placement_groups import remove_orphaned_placement_groups
from s2l_ray.execution.placement import Placement
from s2l_ray.execution.preemption import PreemptionWatcher
from s2l_ray.execution.restarts import RESTART
from s2l_ray.execution.session import head_answers, quiet_ray_data
from s2l_ray.execution.token_stream import stream_units
from s2l_ray.execution.training_errors import WorkersFailedError, ended, explain
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import translate_disk_full

RESIZE_CHECK_S = 60.0
"""Elastic training: how often to check whether more workers are possible (seconds). Growing restarts all workers from
the last checkpoint, so nodes that are added one after another should cost only one restart."""


class RayWorkerContext:
    """`WorkerContext` inside a Ray Train worker."""

    def __init__(self, box: Any, out: Storage, device: str) -> None:
        """`out`: the stage's folder. `device`: the placement's, cpu or gpu."""
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        # If no GPU is reserved, Ray 2.60 hides none, and Ray Train would use the first one that torch sees.
        self.device = ray.train.torch.get_device() if device == "gpu" else torch.device("cpu")
        self._box, self._checkpoints = box, out.sub(FOLDER)
        self._notices = PreemptionWatcher(self.broadcast)

    def emit(self, **event: Any) -> None:
        self._box.put.remote({"rank": self.rank, **event})

    def broadcast(self, value: Any) -> Any:
        if self.num_workers == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def all_gather(self, value: Any) -> list[Any]:
        if self.num_workers == 1:
            return [value]
        held: list[Any] = [None] * self.num_workers
        dist.all_gather_object(held, value)
        return held

    def save(self, name: str, progress: dict[str, Any], write: Callable[[Path], None]) -> None:
        import ray.train

        def upload(checkpoint: Any, to: str) -> Any:
            """Replaces Ray Train's upload, which does not retry and leaves incomplete files on a full disk."""
            target = self._checkpoints.sub(to)
            target.upload_folder(Path(checkpoint.path))
            return ray.train.Checkpoint(target.path, target.filesystem)

        with checkpoint_files(self._checkpoints, progress if self.rank == 0 else None, write) as folder:
            checkpoint = ray.train.Checkpoint.from_directory(folder) if os.listdir(folder) else None
            ray.train.report(
                {"checkpoint": name}, checkpoint=checkpoint, checkpoint_dir_name=name, checkpoint_upload_fn=upload
            )

    def notice(self, step: int) -> bool:
        news = self._notices()
        if news and self.rank == 0:
            self.emit(event="notice", step=step, **news)
        return news is not None

    def report(self, metrics: dict[str, Any]) -> None:
        import ray.train

        ray.train.report(metrics)

    @contextlib.contextmanager
    def restore(self) -> Iterator[tuple[Path, dict[str, Any]] | None]:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        with open_checkpoint(self._checkpoints, None if checkpoint is None else Path(checkpoint.path).name) as found:
            yield found

    def stream(self, tokens: Storage, units: list[tuple[int, ...]]) -> Iterator[Examples]:
        return stream_units(tokens, units)


def run_on_workers(
    loop: Callable[[Any, WorkerContext], dict[str, Any]],
    job: Any,
    out: Storage,
    placement: Placement,
    *,
    what: str,
    max_failures: int,
    wait_s: float = 86_400,
    checkpoints_to_keep: int = 2,
    environment: dict[str, str] | None = None,
    callbacks: Sequence[Any] = (),
    process_group: bool = False,
    on_event: Callable[[Event], None],
) -> dict[str, Any]:
    """Run `loop(job, worker)` on every worker; lost workers are replaced and resume from the newest checkpoint.

    Args:
        out: the stage's folder. Its name depends on the stage's settings, so any checkpoint in it belongs to this job.
        what: what is trained, for messages.
        max_failures: how many failures of the workers and of the process that controls them to tolerate; -1: any
        number. The loss of a node that was announced in advance does not count.
        wait_s: how long the workers may wait for resources, all waits together (seconds).
        environment: environment variables for the worker processes.
        callbacks: callbacks for Ray Train.
        process_group: whether even a single worker needs torch's process group.

    Returns:
        The result of rank 0's loop.

    Raises:
        errors of this package, raised by the loop on any rank: immediately, since a retry would fail the same way;
            retryable ones (StorageError) only after `max_failures`.
        InternalError: replaces other errors that a retry would raise again (ValueError, KeyError, …), also immediately.
        WorkersFailedError: workers were lost more than `max_failures` times, or got no resources in time.
    """
    import ray.train

    lost_controllers = 0
    while True:
        with event_channel(on_event) as box, translate_disk_full(out.uri_of(FOLDER)):
            # As bytes: Ray Train's controller receives them too, and would import everything needed to unpickle them.
            work = ray.cloudpickle.dumps({"loop": loop, "job": job, "out": out})
            config = {"work": work, "box": box, "device": placement.device}
            trainer = _trainer(
                config, out, placement, max_failures, wait_s, checkpoints_to_keep, environment, callbacks, process_group
            )  # fmt: skip
            try:
                summary: dict[str, Any] = trainer.fit().return_value
                return summary
            except ray.exceptions.ActorDiedError as error:
                # Ray Train restarts workers, but not the process that controls them. Its workers end with it.
                lost_controllers += 1
                cause = f"the process that controls the workers (Ray Train's controller) was lost: {cause_of(error)}"
                lost_cluster = not head_answers(ray.get_runtime_context().gcs_address)
                if lost_cluster or 0 <= max_failures < lost_controllers:
                    raise WorkersFailedError(ended(what, cause, lost_controllers, max_failures, out)) from error
                hand_over({"event": RESTART, "rank": 0, "cause": cause}, on_event)
            except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
                raise explain(error, out, what, max_failures, wait_s) from error
        _wait_for_leftovers()


def _trainer(
    config: dict[str, Any],
    out: Storage,
    placement: Placement,
    max_failures: int,
    wait_s: float,
    checkpoints_to_keep: int,
    environment: dict[str, str] | None,
    callbacks: Sequence[Any],
    process_group: bool,
) -> Any:
    import ray.train

    from s2l_ray.execution.fail_fast import FailFast
    from s2l_ray.execution.interruptible import InterruptibleTrainer
    from s2l_ray.execution.restart_callback import RestartEvents

    on_gpu = placement.device == "gpu"
    resources = {name: each for name, each in placement.worker.items() if not name.startswith(ACCELERATOR_TYPE)}
    fewest = placement.min_workers
    if not on_gpu and ray.cluster_resources().get("GPU"):
        # Libraries check for GPUs themselves, and some would allocate memory on one.
        environment = {**(environment or {}), "CUDA_VISIBLE_DEVICES": ""}
    return InterruptibleTrainer(
        _worker,
        train_loop_config=config,
        backend_config=_backend(placement, process_group),
        scaling_config=ray.train.ScalingConfig(
            num_workers=placement.num_workers if fewest is None else (fewest, placement.num_workers),
            use_gpu=on_gpu,
            resources_per_worker=resources,
            accelerator_type=placement.accelerator_type,
            elastic_resize_monitor_interval_s=RESIZE_CHECK_S,
        ),
        run_config=ray.train.RunConfig(
            name=FOLDER,
            storage_path=out.path,
            storage_filesystem=out.filesystem,
            failure_config=ray.train.FailureConfig(
                max_failures=max_failures, controller_failure_limit=max(1, math.ceil(wait_s / _start_timeout_s()))
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=checkpoints_to_keep),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            callbacks=[FailFast(), RestartEvents(config["box"]), *callbacks],
            worker_runtime_env={"env_vars": environment} if environment else None,
        ),
    )


def _backend(placement: Placement, process_group: bool) -> Any:
    """The connection between workers; none for one worker on CPUs, whose controller then need not import torch."""
    from ray.train.backend import BackendConfig

    if placement.device == "cpu" and placement.num_workers == 1 and not process_group:
        return BackendConfig()
    from ray.train.torch import TorchConfig

    return TorchConfig(backend="nccl" if placement.device == "gpu" else "gloo")


def _start_timeout_s() -> float:
    """How long Ray Train waits for resources before it counts a failure and requests them again (seconds)."""
    from ray.train.v2._internal.constants import (
        DEFAULT_WORKER_GROUP_START_TIMEOUT_S,
        WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
    )

    return float(os.environ.get(WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, DEFAULT_WORKER_GROUP_START_TIMEOUT_S))


def _wait_for_leftovers(settle_s: float = 10.0) -> None:
    """Release what the workers of a lost controller had reserved, or new workers would wait for it."""
    deadline = time.monotonic() + settle_s
    while not remove_orphaned_placement_groups() and time.monotonic() < deadline:
        time.sleep(0.5)


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    import ray

    quiet_ray_data()
    work = ray.cloudpickle.loads(config["work"])
    found: dict[str, Any] = work["loop"](work["job"], RayWorkerContext(config["box"], work["out"], config["device"]))
    return found
