"""Results of trials as a sweep reads them, without a run."""

from __future__ import annotations

from typing import Any

from s2l_ray.artifacts.manifest import StageManifest
from s2l_ray.artifacts.models import TokensArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.records import TrialResult
from s2l_ray.sweeps.trials import FULL, Trial
from tests.support.sweep_config import config


def evaluated(macro: float, exact_match: float = 0.0) -> dict[str, Any]:
    sources = {name: {"num_examples": 5, "loss": macro + more, "exact_match": 0.0}
               for name, more in (("a", -0.1), ("b", 0.1))}  # fmt: skip
    return {"num_examples": 10, "micro": macro + 0.01, "macro": macro, "per_token": macro + 0.02,
            "exact_match": exact_match, "per_source": sources}  # fmt: skip


def finished(trial: Trial, share: float, macro: float, flops: float = 1e9, **evaluation: float) -> TrialResult:
    """As `find_finished` would read it."""
    sets: dict[str, Any] = {"test": {"before": evaluated(6.0), "after": evaluated(macro, **evaluation)},
            "other": {"before": None, "after": evaluated(macro + 1)}}  # fmt: skip
    extra: dict[str, Any] = {
        "subset": "s2l-0.1",
        "memory": {},
        "summary": {"steps": 20, "flops": flops, "tally": {"tokens": 640}},
    }
    target = a_stage("target", trial, extra)
    before = {name: both["before"] for name, both in sets.items() if both["before"]}
    results = {name: both["after"] for name, both in sets.items()}
    extra = {"model": "s2l-0.1", "step": 20, "results": results, "before": before}
    return TrialResult(trial, target, a_stage("heldout_evaluation", trial, extra), round(share * 1000), share)


def a_stage(kind: str, trial: Trial, extra: dict[str, Any]) -> Stage:
    folder = f"{kind}/{trial.key}"
    manifest = StageManifest(stage=kind, key=trial.key, wall_seconds=3.0, device_seconds=6.0, extra=extra)
    return Stage(kind, folder, Storage.open("/nowhere").sub(folder), manifest)


def curve() -> list[TrialResult]:
    """Full data at 4.00; s2l is as good from 30 % on, random nowhere."""
    made = [finished(Trial(FULL, 1.0, n), 1.0, 4.0 + d, 4e9) for n, d in enumerate((-0.02, 0.02))]
    for selector, losses in (("s2l", {0.5: 4.02, 0.3: 4.03, 0.1: 4.2}), ("random", {0.5: 4.1, 0.3: 4.2, 0.1: 4.4})):
        for budget, loss in losses.items():
            made += [finished(Trial(selector, budget, n), budget, loss + d, budget * 4e9)
                     for n, d in enumerate((-0.01, 0.01))]  # fmt: skip
    return made


TOKENS = TokensArtifact(
    parts=[], num_examples=9, num_sequences=9, num_quarantined=0, num_tokens=4_000, num_response_tokens=1_000,
    sum_squared_lengths=60_000, max_length=90, style="plain",
)  # fmt: skip


def a_run() -> Run:
    made = Run(config(), Storage.open("/nowhere"))
    seconds_of = {"corpus": 100.0, "tokens": 1.0, "proxy": 20.0, "trajectories": 2.0, "clusters": 3.0}
    for name, seconds in seconds_of.items():
        flops = {"training": 6e8, "scoring": 4e8}
        extra: dict[str, Any] = {"snapshots": [], "summary": {"train_tokens": 9_000}, "flops": flops}
        if name == "tokens":
            extra = TOKENS.model_dump()
        manifest = StageManifest(stage=name, key=name, device_seconds=seconds, extra=extra)
        made.stages[name] = Stage(name, name, made.storage.sub(name), manifest)
    return made
