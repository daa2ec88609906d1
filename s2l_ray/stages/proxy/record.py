"""The losses that training computes, written as points of the trajectories. Knows torch, not Ray.

A worker holds the losses of its share until a window of the training order is complete; then the workers share the
window's parts out and write them. A checkpoint takes along what of an unfinished window there is, so that a restart,
with however many workers, goes on from exactly there; what was written after that checkpoint is written again.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from s2l_ray.artifacts.snapshots import TRAINING, score_table, snapshot_folder
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.epoch_losses import EpochLosses, WindowLosses, completed_windows, split_off
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.training_order import Window
from s2l_ray.errors import DataError
from s2l_ray.lm.step import ExampleLosses
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.stages.proxy.job import ProxyJob, complete_snapshot, take_scores
from s2l_ray.storage.digests import FileDigest

_PENDING, _WRITTEN = "epoch_losses.npz", "epoch_losses.json"


class RecordedLossesGone(DataError):
    """Losses that training computed are gone or damaged; only another training computes them again."""


class EpochRecorder:
    """Of one worker; every worker calls the same methods at the same steps."""

    def __init__(self, job: ProxyJob, worker: WorkerContext) -> None:
        self._job, self._worker, self._plan = job, worker, job.plan
        self._pending: list[EpochLosses] = []
        """Of windows that are not complete; what was gathered of others lies on rank 0."""
        self._written: dict[str, FileDigest] = {}
        """Of the present epoch, by all ranks."""
        self._windows: tuple[int, list[Window]] = (-1, [])

    @property
    def is_on(self) -> bool:
        return bool(self._job.index_of_epoch)

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch that is recorded ends with the update before `step`."""
        epoch, at = divmod(step, self._plan.steps_per_epoch)
        return at == 0 and epoch - 1 in self._job.index_of_epoch

    def begin(self) -> None:
        """Remove what another course of this training recorded."""
        if self._worker.rank == 0:
            for index in self._job.index_of_epoch.values():
                snapshot_folder(self._job.out, index).delete_dir()
        if self.is_on:
            self._worker.all_gather(None)

    def add(self, step: int, batch: Examples, seen: ExampleLosses | None) -> None:
        """What the step, counted from 0, computed of this worker's share."""
        epoch, at = divmod(step, self._plan.steps_per_epoch)
        if epoch not in self._job.index_of_epoch or seen is None:
            return
        positions = at * self._plan.global_batch_size + seen.rows
        self._pending.append(EpochLosses(positions, batch.ids[seen.rows], seen.losses, seen.counts))
        if self._windows[0] != epoch:
            self._windows = epoch, self._plan.windows(epoch)
        done = completed_windows(self._plan, self._windows[1], step)
        if not done:
            return
        held = self._all_pending()
        for window in done:
            losses, held = split_off(self._plan, window, held)
            self._write(window, losses)
        self._pending = [held] if self._worker.rank == 0 else []
        parts = take_scores(self._job.out, self._job.index_of_epoch[epoch], TRAINING)
        for files in self._worker.all_gather(parts):
            self._written |= {f["name"]: FileDigest(f["size"], f["digest"]) for f in files}

    def gather(self) -> None:
        """Before a checkpoint: what all workers hold goes to rank 0, which saves it."""
        if self.is_on:
            held = self._all_pending()
            self._pending = [held] if self._worker.rank == 0 else []

    def save(self, folder: Path) -> None:
        """Into a checkpoint, after `gather`."""
        if not self.is_on or self._worker.rank:
            return
        np.savez(folder / _PENDING, **asdict(EpochLosses.concatenate(self._pending)))
        written = {name: asdict(digest) for name, digest in self._written.items()}
        (folder / _WRITTEN).write_text(json.dumps(written), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """From a checkpoint.

        Raises:
            RecordedLossesGone: parts that were written before it are not as they were.
        """
        if not self.is_on:
            return
        written = json.loads((folder / _WRITTEN).read_text(encoding="utf-8"))
        self._written = {name: FileDigest(**digest) for name, digest in written.items()}
        if self._worker.rank == 0:
            with np.load(folder / _PENDING, allow_pickle=False) as found:
                self._pending = [EpochLosses(**found)]
        self._check_written()

    def finish_epoch(self, step: int) -> None:
        """Declare the losses of the epoch complete that ends at `step`."""
        index = self._job.index_of_epoch[step // self._plan.steps_per_epoch - 1]
        complete_snapshot(self._job, self._worker, index, TRAINING, self._written)
        self._written = {}

    def _all_pending(self) -> EpochLosses:
        return EpochLosses.concatenate(self._worker.all_gather(EpochLosses.concatenate(self._pending)))

    def _write(self, window: Window, losses: WindowLosses) -> None:
        """This rank's share of the window's parts."""
        index, rows_of = self._job.index_of_epoch[window.epoch], dict(self._plan.parts)
        folder = snapshot_folder(self._job.out, index).sub(TRAINING)
        starts = np.cumsum([0, *(rows_of[part] for part in window.parts)])
        for i in range(self._worker.rank, len(window.parts), self._worker.num_workers):
            rows = slice(starts[i], starts[i + 1])
            table = score_table(losses.ids[rows], index, losses.losses[rows], losses.counts[rows], losses.trend[rows])
            folder.write_table(part_name(window.parts[i]), table)

    def _check_written(self) -> None:
        """Every rank its share of the files; all find the same."""
        mine = sorted(self._written)[self._worker.rank :: self._worker.num_workers]
        altered = [name for name in mine if not self._is_there(name)]
        lost = sorted(name for names in self._worker.all_gather(altered) for name in names)
        if lost:
            raise RecordedLossesGone(
                f"{self._job.out.uri}/{lost[0]}{f' and {len(lost) - 1} more' if len(lost) > 1 else ''}: losses that "
                "training computed are gone or damaged, and only a training from the start computes them again"
            )

    def _is_there(self, name: str) -> bool:
        return self._job.out.exists(name) and self._job.out.digest(name) == self._written[name]
