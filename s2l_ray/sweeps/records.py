"""What finished trials leave: which target stage is theirs. A sweep that runs again reads it and repeats nothing.

Records have digests. One that is damaged is deleted, which is said, and its trial counts as not done: where the target
is still there, it is found and not trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2l_ray.artifacts.file_record import FileRecord, read_record
from s2l_ray.artifacts.manifest import EarlierLayout, read_manifest
from s2l_ray.artifacts.models import TargetArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.load import ConfigError
from s2l_ray.config.schema import S2LConfig
from s2l_ray.evaluation.metrics import MetricError
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.trials import FULL, Trial

if TYPE_CHECKING:
    from s2l_ray.sweeps.context import SweepContext

_FINISHED, _STOPPED = "trials", "stopped"
Say = Callable[[str], None]
_NOT_RESULTS = {"name", "run_dir", "sweep", "resources", "loggers", "estimates", "evaluation", "gradients"}


@dataclass(frozen=True)
class TrialResult:
    trial: Trial
    stage: Stage
    num_examples: int
    """Of the subset."""
    share: float
    """Of all examples."""


def _name(base: S2LConfig, trial: Trial, trajectories: str, phase: str, folder: str = _FINISHED) -> str:
    """Everything that the result depends on; `trajectories`: the content of the base configuration's."""
    tree = trial.config(base).stored(exclude=_NOT_RESULTS)
    return f"sweep/{folder}/{phase}-{fingerprint([tree, trajectories])[:16]}.json"


def write_record(shared: SweepContext, trial: Trial, run: Run, stage: Stage) -> None:
    """Called when the trial's target is complete."""
    everything = run.stage("trajectories").manifest.row_counts["trajectories"]
    chosen = everything if trial.selector == FULL else next(iter(run.subsets.values())).manifest.row_counts["examples"]
    record = {"trial": trial.plain(), "folder": stage.folder, "num_examples": chosen, "share": chosen / everything}
    FileRecord(record).write(shared.storage, _name(shared.base, trial, shared.trajectories, shared.phase))


def find_finished(
    base: S2LConfig, storage: Storage, trial: Trial, trajectories: str, phase: str, say: Say
) -> TrialResult | None:
    """The trial's result; None if it has not finished or its files are gone."""
    name = _name(base, trial, trajectories, phase)
    record = _content(storage, name, say) if storage.exists(name) else None
    return None if record is None else _finished(storage, record, trial)


def all_finished(base: S2LConfig, storage: Storage, trajectories: str, phase: str, say: Say) -> list[TrialResult]:
    """Every finished trial of this sweep's base configuration, whoever proposed it."""
    found = []
    for entry in storage.list(f"sweep/{_FINISHED}"):
        if not entry.name.rpartition("/")[2].startswith(f"{phase}-"):
            continue
        if (record := _content(storage, entry.name, say)) is None:
            continue
        trial = Trial.of(record["trial"])
        if _is_of(entry.name, base, trial, trajectories, phase, _FINISHED):
            one = _finished(storage, record, trial)
            found += [one] if one else []
    return found


def _content(storage: Storage, name: str, say: Say) -> dict[str, Any] | None:
    """What the record says; None, and the record is gone, if it is damaged."""
    record = read_record(storage, name)
    if record is not None:
        return record.of
    if storage.exists(name):
        say(
            f"[sweep] {storage.uri}/{name} is damaged, or an earlier s2l_ray wrote it: it is deleted, and what it said "
            "of its trial is found out again (a target that is complete is not trained again)"
        )
        storage.delete(name)
    return None


def _is_of(name: str, base: S2LConfig, trial: Trial, trajectories: str, phase: str, folder: str) -> bool:
    try:
        return name == _name(base, trial, trajectories, phase, folder)
    except ConfigError:  # of another configuration: with this one the trial contradicts itself
        return False


def write_stopped(shared: SweepContext, trial: Trial, last: dict[str, Any]) -> None:
    """Called when the scheduler has ended the trial early, after the report `last`."""
    name = _name(shared.base, trial, shared.trajectories, shared.phase, _STOPPED)
    FileRecord({"trial": trial.plain(), "by": _scheduler(shared.base), "last": last}).write(shared.storage, name)


def all_stopped(
    base: S2LConfig, storage: Storage, trajectories: str, phase: str, say: Say
) -> dict[Trial, dict[str, Any]]:
    """Trials that this sweep's scheduler ended early, with their last reports; other rules would have to see anew."""
    found = {}
    for entry in storage.list(f"sweep/{_STOPPED}"):
        if (record := _content(storage, entry.name, say)) is None:
            continue
        trial = Trial.of(record["trial"])
        if record["by"] == _scheduler(base) and _is_of(entry.name, base, trial, trajectories, phase, _STOPPED):
            found[trial] = record["last"]
    return found


def _scheduler(base: S2LConfig) -> dict[str, Any] | None:
    return None if base.sweep.asha is None else base.sweep.asha.model_dump(mode="json")


def _finished(storage: Storage, record: dict[str, Any], trial: Trial) -> TrialResult | None:
    folder = storage.sub(record["folder"])
    try:
        manifest = read_manifest(folder)
    except EarlierLayout:  # trained again
        return None
    if manifest is None:
        return None
    stage = Stage(manifest.stage, record["folder"], folder, manifest, reused=True)
    return TrialResult(trial, stage, record["num_examples"], record["share"])


def objective_set(base: S2LConfig, stage: Stage) -> str:
    """Name of the held-out set by which trials are judged."""
    names = list(TargetArtifact.of(stage).evaluation)
    return base.sweep.heldout_set or names[0]


def objective_of(base: S2LConfig, stage: Stage) -> float:
    """The figure by which trials are judged.

    Raises:
        MetricError: the target was evaluated before its metric was registered.
    """
    after = TargetArtifact.of(stage).evaluation[objective_set(base, stage)]["after"]
    if base.sweep.metric not in after:
        raise MetricError(
            f"{stage.folder} was evaluated before the metric {base.sweep.metric} was registered, so its trial cannot "
            f"be judged by it; delete {stage.storage.uri} and sweep again, which fine-tunes it again, or choose "
            "another sweep.metric"
        )
    return float(after[base.sweep.metric])
