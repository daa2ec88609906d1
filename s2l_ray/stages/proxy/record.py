"""Records losses computed by training, and writes them as points of the trajectories. Uses torch, but not Ray.

A worker holds the losses of its share until a window of the training order is complete; then the workers divide the
window's parts among them and write them. A checkpoint includes the losses of an unfinished window, so that a restart
with any number of workers continues from exactly there; parts written after that checkpoint are written again.
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
    """Losses computed by training are missing or damaged; only another training can compute them again."""


class EpochRecorder:
    """One worker's recorder; all workers must call the same methods at the same steps."""

    def __init__(self, job: ProxyJob, worker: WorkerContext) -> None:
        self._job, self._worker, self._plan = job, worker, job.plan
        self._pending: list[EpochLosses] = []
        """Losses of incomplete windows; those gathered from all workers are on rank 0."""
        self._written: dict[str, FileDigest] = {}
        """Digests of the files that all ranks have written for the current epoch."""
        self._windows: tuple[int, list[Window]] = (-1, [])

    @property
    def is_on(self) -> bool:
        return bool(self._job.index_of_epoch)

    def ends_epoch(self, step: int) -> bool:
        """Whether a recorded epoch ends with the update before `step`."""
        epoch, at = divmod(step, self._plan.steps_per_epoch)
        return at == 0 and epoch - 1 in self._job.index_of_epoch

    def begin(self) -> None:
        """Remove what an earlier attempt at this training recorded."""
        if self._worker.rank == 0:
            for index in self._job.index_of_epoch.values():
                snapshot_folder(self._job.out, index).delete_dir()
        if self.is_on:
            self._worker.all_gather(None)

    def add(self, step: int, batch: Examples, seen: ExampleLosses | None) -> None:
        """Record the losses of this worker's share of a step, counted from 0; write windows that are complete."""
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
        """Send the losses of all workers to rank 0, which saves them; call this before a checkpoint."""
        if self.is_on:
            held = self._all_pending()
            self._pending = [held] if self._worker.rank == 0 else []

    def save(self, folder: Path) -> None:
        """Save the state in a checkpoint's folder, after `gather`."""
        if not self.is_on or self._worker.rank:
            return
        np.savez(folder / _PENDING, **asdict(EpochLosses.concatenate(self._pending)))
        written = {name: asdict(digest) for name, digest in self._written.items()}
        (folder / _WRITTEN).write_text(json.dumps(written), encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Restore the state from a checkpoint's folder.

        Raises:
            RecordedLossesGone: parts written before that checkpoint have changed or are missing.
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
        """Declare the losses of the epoch that ends at `step` complete."""
        index = self._job.index_of_epoch[step // self._plan.steps_per_epoch - 1]
        complete_snapshot(self._job, self._worker, index, TRAINING, self._written)
        self._written = {}

    def _all_pending(self) -> EpochLosses:
        return EpochLosses.concatenate(self._worker.all_gather(EpochLosses.concatenate(self._pending)))

    def _write(self, window: Window, losses: WindowLosses) -> None:
        """Write this rank's share of the window's parts."""
        index, rows_of = self._job.index_of_epoch[window.epoch], dict(self._plan.parts)
        folder = snapshot_folder(self._job.out, index).sub(TRAINING)
        starts = np.cumsum([0, *(rows_of[part] for part in window.parts)])
        for i in range(self._worker.rank, len(window.parts), self._worker.num_workers):
            rows = slice(starts[i], starts[i + 1])
            table = score_table(losses.ids[rows], index, losses.losses[rows], losses.counts[rows], losses.trend[rows])
            folder.write_table(part_name(window.parts[i]), table)

    def _check_written(self) -> None:
        """Check the files, each rank its share, with the same outcome on all ranks."""
        mine = sorted(self._written)[self._worker.rank :: self._worker.num_workers]
        altered = [name for name in mine if not self._is_there(name)]
        lost = sorted(name for names in self._worker.all_gather(altered) for name in names)
        if lost:
            raise RecordedLossesGone(
                f"{self._job.out.uri_of(lost[0])}{f' and {len(lost) - 1} more' if len(lost) > 1 else ''}: losses "
                "computed by training are missing or damaged, and only another training can compute them again"
            )

    def _is_there(self, name: str) -> bool:
        return self._job.out.exists(name) and self._job.out.digest(name) == self._written[name]
