"""Ray glue of the proxy stage: the loop on Ray Train workers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from s2l_ray.cluster.mailbox import Event, mailbox
from s2l_ray.cluster.placement import Placement
from s2l_ray.cluster.session import quiet_ray_data
from s2l_ray.proxy.loop import ProxyJob, run_worker
from s2l_ray.proxy.score import NonFiniteScore
from s2l_ray.proxy.stream import stream_units
from s2l_ray.proxy.train import NonFiniteLoss
from s2l_ray.run_folder.storage import Storage
from s2l_ray.tokens.examples import Examples


class ProxyFailed(RuntimeError):
    """The workers could not finish; what is complete stays, the same command resumes."""


class RayHost:
    """`loop.Host` inside a Ray Train worker."""

    def __init__(self, box: Any) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._box = box

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

    def save(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        import ray.train

        name = f"step-{step:08d}"
        if self.rank != 0:
            ray.train.report({"step": step}, checkpoint=None, checkpoint_dir_name=name)
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state(), os.path.join(folder, "state.pt"))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": step}, checkpoint=checkpoint, checkpoint_dir_name=name)

    def load(self) -> dict[str, Any] | None:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            # weights_only: a checkpoint must not be able to run code.
            return torch.load(Path(folder) / "state.pt", map_location="cpu", weights_only=True)

    def stream(self, tokens: Storage, units: list[tuple[int, ...]]) -> Iterator[Examples]:
        return stream_units(tokens, units)


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    quiet_ray_data()
    try:
        return run_worker(config["job"], RayHost(config["box"]))
    except (NonFiniteLoss, NonFiniteScore) as error:
        # Every rank stops here alike. Returned, not raised: a retry would only diverge again.
        return {"stopped": str(error), "kind": type(error).__name__}


def train_and_score(
    job: ProxyJob, placement: Placement, max_failures: int, on_event: Callable[[Event], None]
) -> dict[str, Any]:
    """Run the job on Ray Train workers until its last snapshot; lost workers are replaced.

    Raises:
        NonFiniteLoss, NonFiniteScore: the proxy diverged.
        ProxyFailed: workers were lost more often than `max_failures`.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    resources = {"CPU": placement.cpus_per_worker}
    if placement.gpus_per_worker:
        resources["GPU"] = placement.gpus_per_worker
    with mailbox(on_event) as box:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"job": job, "box": box},
            scaling_config=ray.train.ScalingConfig(
                num_workers=placement.num_workers,
                use_gpu=placement.device == "gpu",
                resources_per_worker=resources,
                accelerator_type=placement.accelerator_type,
            ),
            run_config=ray.train.RunConfig(
                # The stage's folder is named for its settings, so that a checkpoint found here belongs to this job.
                name="ray_train",
                storage_path=job.out.path,
                storage_filesystem=job.out.filesystem,
                failure_config=ray.train.FailureConfig(max_failures=max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            cause = str(error).strip().splitlines()
            raise ProxyFailed(
                f"the proxy's workers were lost or failed more than resources.max_failures={max_failures} times. "
                f"Complete snapshots and the last checkpoint stay in {job.out.uri}; the same command resumes there. "
                f"The last cause: {cause[-1] if cause else error!r}"
            ) from error
    summary: dict[str, Any] = result.return_value
    if "stopped" in summary:
        kind = {"NonFiniteLoss": NonFiniteLoss, "NonFiniteScore": NonFiniteScore}[summary["kind"]]
        raise kind(summary["stopped"])
    return summary
