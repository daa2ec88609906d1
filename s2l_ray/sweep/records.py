"""What finished trials leave: which target stage is theirs. A sweep that runs again reads it and repeats nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2l_ray.artifacts import Run, Stage
from s2l_ray.config.schema import S2LConfig
from s2l_ray.run_folder import Storage, fingerprint, read_manifest
from s2l_ray.sweep.trials import FULL, Trial

if TYPE_CHECKING:
    from s2l_ray.sweep.tune import Shared

_NOT_RESULTS = {"name", "run_dir", "sweep", "resources", "loggers", "estimates"}


@dataclass(frozen=True)
class Finished:
    trial: Trial
    stage: Stage
    num_examples: int
    """Of the subset."""
    share: float
    """Of all examples."""


def _name(base: S2LConfig, trial: Trial, trajectories: str, phase: str) -> str:
    """Everything that the result depends on; `trajectories`: their content."""
    tree = trial.config(base).model_dump(mode="json", exclude=_NOT_RESULTS)
    return f"sweep/trials/{phase}-{fingerprint([tree, trajectories])[:16]}.json"


def write_record(shared: Shared, trial: Trial, run: Run, stage: Stage) -> None:
    """Called when the trial's target is complete."""
    trajectories = run.stage("trajectories").manifest
    everything = trajectories.row_counts["trajectories"]
    chosen = everything if trial.selector == FULL else next(iter(run.subsets.values())).manifest.row_counts["examples"]
    record = {"trial": trial.plain(), "folder": stage.folder, "num_examples": chosen, "share": chosen / everything}
    name = _name(shared.base, trial, trajectories.content_fingerprint, shared.phase)
    shared.storage.write_json(name, record)


def find_finished(base: S2LConfig, storage: Storage, trial: Trial, trajectories: str, phase: str) -> Finished | None:
    """The trial's result; None if it has not finished or its files are gone."""
    name = _name(base, trial, trajectories, phase)
    return _read(storage, name, trial) if storage.exists(name) else None


def all_finished(base: S2LConfig, storage: Storage, trajectories: str, phase: str) -> list[Finished]:
    """Every finished trial of this sweep's base configuration, whoever proposed it."""
    found = []
    for entry in storage.list("sweep/trials"):
        if entry.name.rsplit("/", 1)[-1].startswith(f"{phase}-"):
            trial = Trial.of(storage.read_json(entry.name)["trial"])
            if entry.name == _name(base, trial, trajectories, phase):
                one = _read(storage, entry.name, trial)
                found += [one] if one else []
    return found


def _read(storage: Storage, name: str, trial: Trial) -> Finished | None:
    record: dict[str, Any] = storage.read_json(name)
    folder = storage.sub(record["folder"])
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    stage = Stage(manifest.stage, record["folder"], folder, manifest, reused=True)
    return Finished(trial, stage, record["num_examples"], record["share"])


def deciding_set(base: S2LConfig, stage: Stage) -> str:
    """Name of the held-out set by which trials are judged."""
    names = list(stage.manifest.extra["evaluation"])
    return base.sweep.heldout_set or names[0]


def objective_of(base: S2LConfig, stage: Stage) -> float:
    """The figure by which trials are judged."""
    return float(stage.manifest.extra["evaluation"][deciding_set(base, stage)]["after"][base.sweep.metric])
