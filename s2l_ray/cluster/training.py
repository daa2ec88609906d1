"""Training loops on Ray Train workers: what a loop sees of its worker (`RayHost`), and the call that runs them all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from s2l_ray.cluster.checkpoints import FOLDER, PROGRESS, read_progress, torn_named
from s2l_ray.cluster.failures import cause_of, final_error
from s2l_ray.cluster.mailbox import Event, mailbox
from s2l_ray.cluster.notice import NoticeWatch
from s2l_ray.cluster.placement import Placement
from s2l_ray.cluster.session import quiet_ray_data
from s2l_ray.cluster.signals import own_handlers_kept
from s2l_ray.errors import EnvironmentFault, InternalError, S2LError, first_line
from s2l_ray.run_folder.retry import StorageError, full_disk_named
from s2l_ray.run_folder.scratch import scratch_folder
from s2l_ray.run_folder.storage import Storage
from s2l_ray.tokens.examples import Examples
from s2l_ray.tokens.stream import stream_units

RESIZE_CHECK_S = 60.0
"""Elastic: how often to look whether more workers could be had (seconds). Growing restarts all of them from the last
checkpoint, so nodes that come one after another should cost one restart."""


class WorkersFailed(EnvironmentFault, RuntimeError):
    """The workers could not finish; what is complete stays, the same command resumes."""

    retryable = False  # the retries are spent


class Host(Protocol):
    """What a loop needs from where it runs."""

    rank: int
    num_workers: int
    device: torch.device

    def emit(self, **event: Any) -> None: ...

    def same(self, value: Any) -> Any:
        """Rank 0's value, on every rank; a barrier."""

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank; a barrier."""

    def save(self, name: str, progress: dict[str, Any], write: Callable[[Path], None]) -> None:
        """Make a checkpoint of what every rank's `write(folder)` leaves there; a barrier."""

    def notice(self, step: int) -> bool:
        """A node of this training will be taken away, and that is news: time for a checkpoint. May be a barrier."""

    def report(self, metrics: dict[str, Any]) -> None:
        """Tell whoever watches this training from outside (Ray Tune); a barrier."""

    def restore(self) -> contextlib.AbstractContextManager[tuple[Path, dict[str, Any]] | None]:
        """The newest checkpoint's files of all ranks and its progress."""

    def stream(self, tokens: Storage, units: list[tuple[int, ...]]) -> Iterator[Examples]: ...


class RayHost:
    """`Host` inside a Ray Train worker."""

    def __init__(self, box: Any, out: Storage) -> None:
        """`out`: the stage's folder."""
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._box, self._checkpoints = box, out.sub(FOLDER)
        self._notices = NoticeWatch(self.same)

    def emit(self, **event: Any) -> None:
        self._box.put.remote({"rank": self.rank, **event})

    def same(self, value: Any) -> Any:
        if self.num_workers == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]

    def gather(self, value: Any) -> list[Any]:
        if self.num_workers == 1:
            return [value]
        held: list[Any] = [None] * self.num_workers
        dist.all_gather_object(held, value)
        return held

    def save(self, name: str, progress: dict[str, Any], write: Callable[[Path], None]) -> None:
        import ray.train

        def upload(checkpoint: Any, to: str) -> Any:
            """Ray Train's own copies files without retries, and leaves torn ones on a full disk."""
            target = self._checkpoints.sub(to)
            target.upload_folder(Path(checkpoint.path))
            return ray.train.Checkpoint(target.path, target.filesystem)

        with scratch_folder() as folder:
            with full_disk_named(f"{folder} (TMPDIR, on the way to {self._checkpoints.uri})"):
                write(folder)
                if self.rank == 0:
                    Path(folder, PROGRESS).write_text(json.dumps(progress))
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
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder, torn_named(f"{self._checkpoints.uri}/{Path(checkpoint.path).name}"):
            yield Path(folder), read_progress(Path(folder))

    def stream(self, tokens: Storage, units: list[tuple[int, ...]]) -> Iterator[Examples]:
        return stream_units(tokens, units)


def run_on_workers(
    loop: Callable[[Any, Host], dict[str, Any]],
    job: Any,
    out: Storage,
    placement: Placement,
    *,
    what: str,
    max_failures: int,
    checkpoints_to_keep: int = 2,
    environment: dict[str, str] | None = None,
    callbacks: Sequence[Any] = (),
    on_event: Callable[[Event], None],
) -> dict[str, Any]:
    """loop(job, host) on every worker; lost workers are replaced and resume at the newest checkpoint.

    Args:
        out: the stage's folder. It is named for the stage's settings, so that a checkpoint found in it is this job's.
        what: who failed, for messages.
        environment: of the worker processes.
        callbacks: Ray Train's.

    Returns:
        What rank 0's loop returned.

    Raises:
        errors of this package, raised by the loop on any rank: at once, since another try would end alike; retryable
            ones (StorageError) only after `max_failures`.
        InternalError: in place of others that another try would meet again (ValueError, KeyError, …), at once too.
        WorkersFailed: workers were lost more often than `max_failures`.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    from s2l_ray.cluster.stop_at_once import StopAtOnce

    resources = {"CPU": placement.cpus_per_worker, **placement.custom_resources}
    if placement.gpus_per_worker:
        resources["GPU"] = placement.gpus_per_worker
    with mailbox(on_event) as box, full_disk_named(f"{out.uri}/{FOLDER}"):
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"loop": loop, "job": job, "box": box, "out": out},
            scaling_config=ray.train.ScalingConfig(
                num_workers=(
                    placement.num_workers
                    if placement.min_workers is None
                    else (placement.min_workers, placement.num_workers)
                ),
                use_gpu=placement.device == "gpu",
                resources_per_worker=resources,
                accelerator_type=placement.accelerator_type,
                elastic_resize_monitor_interval_s=RESIZE_CHECK_S,
            ),
            run_config=ray.train.RunConfig(
                name=FOLDER,
                storage_path=out.path,
                storage_filesystem=out.filesystem,
                failure_config=ray.train.FailureConfig(max_failures=max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=checkpoints_to_keep),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
                callbacks=[StopAtOnce(), *callbacks],
                worker_runtime_env={"env_vars": environment} if environment else None,
            ),
        )
        try:
            with own_handlers_kept():
                result = trainer.fit()
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            raise _explained(error, out, what, max_failures) from error
    summary: dict[str, Any] = result.return_value
    return summary


def _explained(error: Exception, out: Storage, what: str, max_failures: int) -> BaseException:
    final = final_error(error)
    if isinstance(final, S2LError):
        return final
    if final is not None:
        return InternalError(
            f"the training of the {what} ended with {type(final).__name__}: {first_line(final)}. Another try would end "
            "alike; please report it, with what S2L_TRACEBACK=1 shows"
        )
    goes_on = f"The last checkpoint stays in {out.uri}; the same command resumes there."
    controller = getattr(error, "controller_failure", None)
    if isinstance(controller, OSError):
        if controller.errno is not None:
            return controller  # a full disk is named by the caller
        return StorageError(f"Storage failed while the {what} was trained: {controller}. {goes_on}")
    cause = cause_of(error)
    if controller is not None:
        return WorkersFailed(f"the training of the {what} could not go on: {cause}. {goes_on}")
    return WorkersFailed(
        f"the workers of the {what} were lost or failed more than resources.max_failures={max_failures} times. "
        f"The last cause: {cause}. {goes_on}"
    )


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    quiet_ray_data()
    return config["loop"](config["job"], RayHost(config["box"], config["out"]))
