"""Records of finished trials, with their target and evaluation, so that a resumed sweep repeats nothing.

Records have digests. A damaged one is deleted, with a message, and its trial counts as not done; if the target still
exists, it is found and not trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2l_ray.artifacts.evaluations import results_after
from s2l_ray.artifacts.file_record import FileRecord, read_record
from s2l_ray.artifacts.manifest import EarlierLayout, read_manifest
from s2l_ray.artifacts.models import HeldOutEvaluationArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.load import ConfigError
from s2l_ray.config.schema import S2LConfig
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.objective import asking, is_by_answers, value_of
from s2l_ray.sweeps.trials import FULL, Trial

if TYPE_CHECKING:
    from s2l_ray.sweeps.context import SweepContext, Upstream

_FINISHED, _STOPPED = "trials", "stopped"
Say = Callable[[str], None]
_NOT_RESULTS = {"name", "run_dir", "sweep", "resources", "loggers", "estimates", "evaluation", "gradients"}


@dataclass(frozen=True)
class TrialResult:
    trial: Trial
    stage: Stage
    """The fine-tuned target."""
    evaluation: Stage
    """The target's evaluation on the held-out sets."""
    num_examples: int
    """Number of examples in the subset."""
    share: float
    """The subset's share of all examples."""
    answers: Stage | None = None
    """Verdicts on the target's answers to test questions, if those decide."""


def _name(base: S2LConfig, trial: Trial, upstream: Upstream, phase: str, folder: str = _FINISHED) -> str:
    """The record's file name, a fingerprint of everything that the result depends on."""
    excluded = _NOT_RESULTS - {"evaluation"} if is_by_answers(base) else _NOT_RESULTS
    of: list[Any] = [asking(trial.config(base)).stored(exclude=excluded), upstream.trajectories]
    if trial.scores_with_target(base):
        of.append(upstream.target)
    return f"sweep/{folder}/{phase}-{fingerprint(of)[:16]}.json"


def write_record(
    shared: SweepContext, trial: Trial, run: Run, stage: Stage, evaluation: Stage, answers: Stage | None = None
) -> None:
    """Record a trial whose target is complete and evaluated."""
    everything = run.stage("trajectories").manifest.row_counts["trajectories"]
    chosen = everything if trial.selector == FULL else next(iter(run.subsets.values())).manifest.row_counts["examples"]
    record = {
        "trial": trial.plain(), "folder": stage.folder, "evaluation": evaluation.folder, "num_examples": chosen,
        "share": chosen / everything, **({} if answers is None else {"answers": answers.folder}),
    }  # fmt: skip
    FileRecord(record).write(shared.storage, _name(shared.base, trial, shared.upstream, shared.phase))


def find_finished(
    base: S2LConfig, storage: Storage, trial: Trial, upstream: Upstream, phase: str, say: Say
) -> TrialResult | None:
    """The trial's result; None if it has not finished or its files are gone."""
    name = _name(base, trial, upstream, phase)
    record = _content(storage, name, say) if storage.exists(name) else None
    return None if record is None else _finished(base, storage, record, trial)


def all_finished(base: S2LConfig, storage: Storage, upstream: Upstream, phase: str, say: Say) -> list[TrialResult]:
    """Every finished trial of this sweep's base configuration, however it was proposed."""
    found = []
    for entry in storage.list(f"sweep/{_FINISHED}"):
        if not entry.name.rpartition("/")[2].startswith(f"{phase}-"):
            continue
        if (record := _content(storage, entry.name, say)) is None:
            continue
        trial = Trial.of(record["trial"])
        if _is_of(entry.name, base, trial, upstream, phase, _FINISHED):
            one = _finished(base, storage, record, trial)
            found += [one] if one else []
    return found


def _content(storage: Storage, name: str, say: Say) -> dict[str, Any] | None:
    """The content of a record; a damaged record is deleted, with None as the result."""
    record = read_record(storage, name)
    if record is not None:
        return record.of
    if storage.exists(name):
        say(
            f"[sweep] {storage.uri_of(name)} is damaged or was written by an earlier s2l_ray: it is deleted and its "
            "trial is evaluated again (a complete target is not retrained)"
        )
        storage.delete(name)
    return None


def _is_of(name: str, base: S2LConfig, trial: Trial, upstream: Upstream, phase: str, folder: str) -> bool:
    try:
        return name == _name(base, trial, upstream, phase, folder)
    except ConfigError:  # a trial of another configuration, which is contradictory with this one
        return False


def write_stopped(shared: SweepContext, trial: Trial, last: dict[str, Any]) -> None:
    """Record a trial that the scheduler stopped early, with its last report."""
    name = _name(shared.base, trial, shared.upstream, shared.phase, _STOPPED)
    FileRecord({"trial": trial.plain(), "by": _scheduler(shared.base), "last": last}).write(shared.storage, name)


def all_stopped(
    base: S2LConfig, storage: Storage, upstream: Upstream, phase: str, say: Say
) -> dict[Trial, dict[str, Any]]:
    """Trials that this sweep's scheduler stopped early, with their last reports; a scheduler with other settings has to
    decide anew."""
    found = {}
    for entry in storage.list(f"sweep/{_STOPPED}"):
        if (record := _content(storage, entry.name, say)) is None:
            continue
        trial = Trial.of(record["trial"])
        if record["by"] == _scheduler(base) and _is_of(entry.name, base, trial, upstream, phase, _STOPPED):
            found[trial] = record["last"]
    return found


def _scheduler(base: S2LConfig) -> dict[str, Any] | None:
    return None if base.sweep.asha is None else base.sweep.asha.model_dump(mode="json")


def _finished(base: S2LConfig, storage: Storage, record: dict[str, Any], trial: Trial) -> TrialResult | None:
    """The result of a recorded trial; None if one of its stages is gone or from an earlier version, so that the trial
    is repeated."""
    target, evaluation, answers = (_stage(storage, record.get(kind)) for kind in ("folder", "evaluation", "answers"))
    if target is None or evaluation is None or evaluation.manifest.inputs.get("target") != target.content:
        return None
    if is_by_answers(base) and (answers is None or answers.manifest.inputs.get("model") != target.content):
        return None
    return TrialResult(trial, target, evaluation, record["num_examples"], record["share"], answers)


def _stage(storage: Storage, folder: str | None) -> Stage | None:
    if folder is None:
        return None
    try:
        manifest = read_manifest(storage.sub(folder))
    except EarlierLayout:
        return None
    return None if manifest is None else Stage(manifest.stage, folder, storage.sub(folder), manifest, reused=True)


def objective_set(base: S2LConfig, evaluation: Stage) -> str:
    """The name of the held-out set by which trials are judged."""
    return base.sweep.heldout_set or next(iter(HeldOutEvaluationArtifact.of(evaluation).results))


def objective_of(base: S2LConfig, evaluation: Stage, answers: Stage | None = None) -> float:
    """The value of the metric by which trials are judged.

    Args:
        evaluation: the target's evaluation on the held-out sets.
        answers: the verdicts on its answers to test questions, if those decide.
    """
    if answers is not None:
        return value_of(base, answers)
    return results_after(evaluation)[objective_set(base, evaluation)][base.sweep.metric]
