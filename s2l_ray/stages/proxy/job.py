"""The job description of the proxy's workers, and the completion of a point of the trajectories. Uses torch, not
Ray."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from s2l_ray.artifacts.points import Point
from s2l_ray.artifacts.snapshots import Snapshot, score_folder, score_name, snapshot_folder, write_snapshot
from s2l_ray.config.schema import ProxyConfig, TrajectoriesConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.training_order import TrainPlan
from s2l_ray.errors import InternalError
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.storage.digests import FileDigest
from s2l_ray.storage.folder import Storage


@dataclass(frozen=True)
class ProxyJob:
    """Everything that a worker needs; the same for all workers."""

    proxy: ProxyConfig
    trajectories: TrajectoriesConfig
    plan: TrainPlan
    points: tuple[Point, ...]
    """Points in training at which losses are taken, in chronological order."""
    seed: int
    tokenizer: Any
    tokens: Storage
    """Folder of the token parts."""
    out: Storage
    """Folder of the stage."""
    threads: int | None = None
    """CPU threads of a worker; None: torch's own choice."""
    kept: tuple[int, ...] = ()
    """Points whose weights are kept, for selectors that need more than their scores."""

    @cached_property
    def index_of_step(self) -> dict[int, int]:
        """Optimiser step after which the examples are scored → the point's number."""
        return {point.step: index for index, point in enumerate(self.points) if point.epoch is None}

    @cached_property
    def index_of_epoch(self) -> dict[int, int]:
        """Epoch whose losses are recorded → the point's number."""
        return {point.epoch: index for index, point in enumerate(self.points) if point.epoch is not None}


def take_scores(out: Storage, index: int, weights: str) -> list[dict[str, Any]]:
    """Take the records of this point's parts from `out` (see Storage.take_written), and leave the others, such as those
    of kept weights."""
    written, folder = out.take_written(), score_folder(index, weights)
    out.note_written(file for file in written if not file["name"].startswith(folder))
    return [file for file in written if file["name"].startswith(folder)]


def complete_snapshot(
    job: ProxyJob, worker: WorkerContext, index: int, weights: str, known: dict[str, FileDigest]
) -> Snapshot:
    """Declare the point's losses complete, once all parts exist with all their rows.

    Every rank must call this, and checks its share of the parts, of which there may be tens of thousands.

    Args:
        known: digests of earlier files; those of this process are in its records. Parts that an interrupted attempt
            wrote are in neither, and are read to compute theirs.

    Raises:
        InternalError: rows are missing.
    """
    folder = snapshot_folder(job.out, index).sub(weights)
    sums: dict[int, float] = {}
    mine = job.plan.parts[worker.rank :: worker.num_workers]
    tables = folder.read_tables([part_name(part) for part, _ in mine], ["loss_nats"])
    for (part, expected), table in zip(mine, tables, strict=True):
        losses = table["loss_nats"].to_numpy()
        if len(losses) != expected:
            raise InternalError(f"{folder.uri_of(part_name(part))} has {len(losses)} rows instead of {expected}")
        sums[part] = float(losses.sum(dtype=np.float64))
    for written in worker.all_gather(take_scores(job.out, index, weights)):
        known = known | {f["name"]: FileDigest(f["size"], f["digest"]) for f in written}
    names = [score_name(index, weights, part) for part, _ in mine]
    files = [{"name": name, **asdict(known.get(name) or job.out.digest(name))} for name in names]
    gathered = worker.all_gather((sums, files))
    of_part = {part: value for share, _ in gathered for part, value in share.items()}
    all_files = sorted((file for _, share in gathered for file in share), key=lambda f: str(f["name"]))
    rows = sum(n for _, n in job.plan.parts)
    # The sum is exact, so its order does not matter.
    mean, point = math.fsum(of_part.values()) / rows, job.points[index]
    done = Snapshot(index, point.step, weights, rows, mean, all_files, point.epoch)
    if worker.rank == 0:
        write_snapshot(job.out, done)
        worker.emit(
            event="snapshot", snapshot=index, step=point.step, epoch=point.epoch, mean_loss_nats=mean, reused=False
        )
    worker.all_gather(None)
    return done
