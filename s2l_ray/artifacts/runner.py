"""Build stages in a run folder, under its lock, or skip those that are complete.

A stage's folder is named after the fingerprint of its settings and inputs: a changed setting creates another folder and
leaves the old one unchanged (changing back finds it again), and downstream stages follow by content.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator

from s2l_ray.artifacts.manifest import (
    HERE,
    SUMMARY,
    EarlierLayout,
    StageManifest,
    invalidate,
    read_manifest,
    write_manifest,
)
from s2l_ray.artifacts.outputs import list_outputs, verify_outputs
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage, StageSpec
from s2l_ray.errors import mark_started
from s2l_ray.observability.metrics_log import METRICS, Listener, MetricsLog
from s2l_ray.observability.progress import Progress
from s2l_ray.storage.atomic_files import delete_unfinished_files
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.lock import FOLDER as LOCKS
from s2l_ray.storage.lock import RunLock
from s2l_ray.storage.writable import check_writable

_STAGE_LOCK_TIMEOUT_S = 30 * 24 * 3600.0

_WORKING_DIRS = ("ray_train",)
"""Working state inside a stage's folder (execution.checkpoints.FOLDER), deleted once the stage is complete."""


class StageRunner:
    """Builds the stages of one run.

    Args:
        shared: whether others (trials of a sweep) build stages of this run at the same time; stages are then locked
            separately.
    """

    def __init__(
        self, run: Run, progress: Progress, metrics: MetricsLog, lock: RunLock | None = None, shared: bool = False
    ) -> None:
        self.run, self.progress, self.metrics, self.shared = run, progress, metrics, shared
        self._lock = lock
        self._started = False

    @property
    def started(self) -> bool:
        """Whether a stage or a trial has begun; from then on, an error is a failure, not a refusal."""
        return self._started

    def mark_started(self) -> None:
        """Record that work has begun outside a stage, after which errors are failures, not refusals."""
        self._started = True

    def ensure(self, spec: StageSpec) -> Stage:
        """Build the stage, or skip it if it is complete, and report which."""
        return self.record(self.make(spec))

    def make(self, spec: StageSpec) -> Stage:
        """Build the stage like `ensure`, but leave adding it to the run to `record`, so that threads can build it."""
        found = self._complete(spec, spec.place, repair=not self.shared)
        if found is not None:
            return found
        if not self.shared:
            return self._build(spec, spec.place, self._lock)
        own = RunLock(
            self.run.storage.sub("stage_locks", spec.key), wait_s=_STAGE_LOCK_TIMEOUT_S, on_wait=self.progress.say
        )
        with own as lock:  # another trial may have built it meanwhile, or the same artifact under another name
            place = self._first_place(spec) if spec.folder and spec.kind else spec.place
            found = self._complete(spec, place, repair=True)
            return found or self._build(spec, place, lock)

    def find(self, spec: StageSpec) -> Stage | None:
        """Return the stage if it is complete, without building anything."""
        return self._complete(spec, spec.place, repair=False)

    def _first_place(self, spec: StageSpec) -> str:
        """Return the folder in which trials build the artifact with this key, which the first of them chose."""
        note = f"sweep/made/{spec.key}.json"
        try:
            noted = self.run.storage.read_json(note)["folder"]
            if isinstance(noted, str) and noted.startswith(f"{spec.kind}/") and noted.endswith(f"-{spec.key[:8]}"):
                return noted
        except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
            pass  # not built before, or the note is damaged: this trial is the first
        self.run.storage.write_json(note, {"folder": spec.place})
        return spec.place

    def _complete(self, spec: StageSpec, place: str, repair: bool) -> Stage | None:
        storage = self.run.storage.sub(place)
        try:
            manifest = read_manifest(storage)
        except EarlierLayout as earlier:
            if repair:
                self.progress.say(f"[{spec.name}] {str(earlier).partition('. ')[0]}. Made again.")
            return None
        if manifest is None or manifest.key != spec.key:
            return None
        problems = verify_outputs(storage, manifest.outputs)
        if not problems:
            if repair:
                _delete_working_dirs(storage)
            return Stage(spec.name, place, storage, manifest, reused=True)
        if repair:
            more = f" {len(problems) - 1} more of its files are damaged or gone." if len(problems) > 1 else ""
            self.progress.say(f"[{spec.name}] {problems[0].what}{more} Made again.")
            invalidate(storage, problems)
        return None

    def _build(self, spec: StageSpec, place: str, lock: RunLock | None) -> Stage:
        storage = self.run.storage.sub(place).recording()
        started, clock = _now(), time.monotonic()
        self.metrics.log(spec.name, "stage_started", folder=place)
        if spec.prepare is not None:
            spec.prepare()
        self.mark_started()
        result = spec.build(storage)
        delete_unfinished_files(storage.filesystem, storage.path)
        seconds = time.monotonic() - clock
        manifest = StageManifest(
            stage=spec.name,
            key=spec.key,
            settings=dict(spec.settings),
            inputs=dict(spec.inputs),
            content_fingerprint=result.content,
            row_counts=result.row_counts,
            outputs=list_outputs(storage, leave_out=tuple(f"{folder}/" for folder in _WORKING_DIRS)),
            seeds=result.seeds,
            started_at=started,
            finished_at=_now(),
            wall_seconds=seconds,
            device_seconds=seconds * result.num_devices,
            device=result.device,
            peak_memory_bytes=result.peak_memory_bytes,
            warnings=[warning.replace(storage.uri, HERE) for warning in result.warnings],
            extra={**result.artifact.model_dump(mode="json"), SUMMARY: result.summary.replace(storage.uri, HERE)},
        )
        if lock:
            lock.check()
        manifest = write_manifest(storage, manifest)
        _delete_working_dirs(storage)
        return Stage(spec.name, place, storage, manifest)

    def record(self, stage: Stage) -> Stage:
        """Add the stage to the run, and report it."""
        manifest = stage.manifest
        self.run.stages[stage.name] = stage
        how = "unchanged, skipped" if stage.reused else f"done in {_cost(manifest)}"
        self.progress.say(f"[{stage.name}] {how}: {stage.summary}")
        for warning in stage.warnings:
            self.progress.say(f"[{stage.name}] warning: {warning}")
        self.metrics.log(
            stage.name, "stage_skipped" if stage.reused else "stage_done", folder=stage.folder,
            wall_seconds=manifest.wall_seconds, device_seconds=manifest.device_seconds,
            peak_memory_bytes=manifest.peak_memory_bytes, rows=manifest.row_counts,
        )  # fmt: skip
        return stage


def check_run_writable(
    storage: Storage, what: str | None = None, else_: str = "copy the run to a folder that you can write to"
) -> None:
    """Refuse a run's folder in which nothing could be stored, before its lock is taken, and in dry runs.

    Args:
        what: names the folder in messages; None: its URI.
        else_: what would do instead of making it writable.

    Raises:
        StorageError: it cannot be written to; the message says why and what to do.
    """
    check_writable(storage, what or f"the run {storage.uri}", else_, folders=(LOCKS,), files=(METRICS,))


@contextlib.contextmanager
def open_runner(
    run: Run, progress: Progress, listener: Listener | None = None, wait_for_living_s: float = 5
) -> Iterator[StageRunner]:
    """Yield a runner that is the run's only writer during the block.

    Args:
        listener: called with every event of the run's log.
        wait_for_living_s: how long to wait for a process on this machine that is writing the run (seconds).
    """
    storage = run.storage
    check_run_writable(storage)
    # A lost node may have left its lock behind: wait until it is stale. For a process on this machine, it is known
    # whether it is alive; if so, it may be a job that is just being stopped.
    lock = RunLock(
        storage, wait_s=max(75, wait_for_living_s), wait_for_living_s=wait_for_living_s, on_wait=progress.say
    )
    with lock, MetricsLog(storage, listener=listener) as metrics:
        if storage.is_local:
            delete_unfinished_files(storage.filesystem, storage.path, shared=("locks",))
        runner = StageRunner(run, progress, metrics, lock)
        try:
            yield runner
        except BaseException as error:
            if runner.started:
                mark_started(error)
            raise


def _delete_working_dirs(storage: Storage) -> None:
    for folder in _WORKING_DIRS:
        storage.delete_dir(folder)


def _cost(manifest: StageManifest) -> str:
    """Format the cost: `26.9 s`, or `26.9 s (53.8 worker-seconds, peak memory 0.61 GB per worker)` with workers."""
    cost = f"{manifest.wall_seconds:.1f} s"
    if manifest.peak_memory_bytes is not None:
        peak = manifest.peak_memory_bytes / 1e9
        cost += f" ({manifest.device_seconds:,.1f} worker-seconds, peak memory {peak:.2f} GB per worker)"
    return cost


def _now() -> str:
    # Of artifacts with one name, a run uses the one finished last: seconds would leave that to chance.
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")
