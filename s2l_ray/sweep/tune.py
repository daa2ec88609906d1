"""Ray Tune's part: trials side by side, as many as fit, each a fine-tuning on Ray Train workers of its own.

A trial is a small actor without resources that starts Ray Train workers. Tune does not see those, so the number of
trials at once is reckoned here: more would wait for each other's workers for ever.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from s2l_ray.artifacts import Run, Stage
from s2l_ray.cluster.placement import Placement
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.sweep import RangeConfig
from s2l_ray.pipeline import Pipeline
from s2l_ray.run_folder import MetricsLog, Progress, Storage
from s2l_ray.sweep.records import objective_of, write_record
from s2l_ray.sweep.trials import Trial

STEP, OBJECTIVE = "step", "objective"


@dataclass(frozen=True)
class Shared:
    """What all trials have in common."""

    base: S2LConfig
    storage: Storage
    """The run's folder."""
    placements: dict[str, Placement]
    embedded: bool
    phase: str
    """`target`, or `predicted` where the proxy's model stands in."""


@dataclass
class Outcome:
    """How Tune's trials ended."""

    failed: dict[str, str] = field(default_factory=dict)
    """Trial key → what went wrong."""
    stopped: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Trial key → last report, of trials that the scheduler ended early."""


def run_trial(asked: dict[str, Any], shared: Shared) -> None:
    """In Tune's actor. A trial that cannot be done is reported and the sweep goes on; only lost actors start again."""
    from ray import tune

    trial = Trial.of(asked.get("trial", asked))
    try:
        stage = _whole_way(trial, shared)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        tune.report({"trial_key": trial.key, "error": first})
        return
    steps = stage.manifest.extra["summary"]["steps"]
    tune.report({STEP: steps, OBJECTIVE: objective_of(shared.base, stage), "trial_key": trial.key})


def _whole_way(trial: Trial, shared: Shared) -> Stage:
    """The target stage of one configuration; what others have made on the way is found, not made again."""
    from ray.tune.integration.ray_train import TuneReportCallback

    from s2l_ray.cluster.session import quiet_ray_data
    from s2l_ray.stages import run_stages
    from s2l_ray.stages.target import shard_target

    quiet_ray_data()
    config = trial.config(shared.base)
    run = Run(config, shared.storage)
    with MetricsLog(shared.storage, f"sweep/logs/{shared.phase}-{trial.key}.jsonl") as log:
        pipeline = Pipeline(run, Progress(io.StringIO(), interactive=False), log, shared=True)
        pipeline.placements = shared.placements
        pipeline.sharding = shard_target(config, shared.placements["target"], shared.embedded)
        pipeline.train_callbacks = [TuneReportCallback()]
        run_stages(pipeline, placed=True)
    [stage] = run.targets.values()
    write_record(shared, trial, run, stage)
    return stage


def concurrency(placement: Placement, cluster: dict[str, float], cores: int | None, asked: int | None) -> int:
    """Trials at once: as many as have all their workers at the same time, with one CPU left for reading.

    `cores`: of this machine, where Ray is embedded and counts more CPUs than there are.
    """
    cpus = min(cluster.get("CPU", 0) - 1, cores if cores is not None else float("inf"))
    fit = cpus // (placement.num_workers * placement.cpus_per_worker)
    if placement.gpus_per_worker:
        fit = min(fit, cluster.get("GPU", 0) // (placement.num_workers * placement.gpus_per_worker))
    fit = max(1, int(fit))
    return fit if asked is None else min(asked, fit)


def run_side_by_side(
    shared: Shared, trials: list[Trial], at_once: int, on_done: Callable[[str, dict[str, Any]], None]
) -> Outcome:
    """These trials, in their order."""
    from ray import tune

    space = {"trial": tune.grid_search([t.plain() for t in trials])}
    return _fit(shared, space, at_once, 1, None, on_done)


def search(
    shared: Shared, done: list[tuple[Trial, float]], num_samples: int, at_once: int,
    on_done: Callable[[str, dict[str, Any]], None],
) -> Outcome:  # fmt: skip
    """Trials drawn at random or proposed by Optuna, which is told what is `done` already."""
    sweep, mode = shared.base.sweep, mode_of(shared.base)
    space = _space(shared.base)
    if sweep.search == "random":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        # Other draws than those that are done.
        algorithm: Any = BasicVariantGenerator(random_state=shared.base.seed + len(done))
        return _fit(shared, space, at_once, num_samples, algorithm, on_done)
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    points = [t.plain() for t, _ in done] or None
    algorithm = OptunaSearch(
        space, metric=OBJECTIVE, mode=mode, seed=shared.base.seed + len(done), points_to_evaluate=points,
        evaluated_rewards=[value for _, value in done] or None,
    )  # fmt: skip
    return _fit(shared, {}, at_once, num_samples, ConcurrencyLimiter(algorithm, at_once), on_done)


def mode_of(config: S2LConfig) -> str:
    return "max" if config.sweep.metric == "exact_match" else "min"


def _space(config: S2LConfig) -> dict[str, Any]:
    from ray import tune

    sweep = config.sweep
    return {
        "selector": tune.choice(sweep.selectors),
        "budget": tune.choice(sweep.budgets),
        "seed": tune.choice(list(range(sweep.num_seeds))),
        "parameters": {path: _domain(values) for path, values in sweep.parameters.items()},
    }


def _domain(values: list[Any] | RangeConfig) -> Any:
    from ray import tune

    if isinstance(values, list):
        return tune.choice(values)
    if values.integer:
        low, high = int(values.min), int(values.max) + 1
        return tune.lograndint(low, high) if values.log else tune.randint(low, high)
    return tune.loguniform(values.min, values.max) if values.log else tune.uniform(values.min, values.max)


def _fit(
    shared: Shared, space: dict[str, Any], at_once: int, num_samples: int, algorithm: Any,
    on_done: Callable[[str, dict[str, Any]], None],
) -> Outcome:  # fmt: skip
    from ray import tune

    base = shared.base
    scheduler = None
    if base.sweep.asha is not None:
        from ray.tune.schedulers import ASHAScheduler

        # Not Tune's own count of reports: it begins anew when a trial is resumed.
        scheduler = ASHAScheduler(
            time_attr=STEP, metric=OBJECTIVE, mode=mode_of(base), max_t=10**9,
            grace_period=base.sweep.asha.grace_steps, reduction_factor=base.sweep.asha.reduction_factor,
        )  # fmt: skip
    outcome = Outcome()
    with_own_folder = shared.storage.sub("sweep", "ray_tune")
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, shared=shared), {"CPU": 0.001}),
        param_space=space,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=None if algorithm is not None and base.sweep.search == "optuna" else at_once,
            num_samples=num_samples, search_alg=algorithm, scheduler=scheduler,
        ),
        run_config=tune.RunConfig(
            storage_path=with_own_folder.path, storage_filesystem=with_own_folder.filesystem, verbose=0,
            failure_config=tune.FailureConfig(max_failures=base.resources.max_failures),
            callbacks=[_watcher(outcome, on_done)],
        ),
    )  # fmt: skip
    for result in tuner.fit():
        if result.error is not None:
            outcome.failed[_key_of(result.config or {})] = str(result.error).strip().splitlines()[-1]
    with_own_folder.delete_dir()  # what a trial leaves is in the run; Tune's own notes are of no more use
    return outcome


def _watcher(outcome: Outcome, on_done: Callable[[str, dict[str, Any]], None]) -> Any:
    """Tune's callback, in the driver."""
    from ray import tune

    class Watcher(tune.Callback):
        # Tune pickles its callbacks beside its own state, which nobody reads; this one holds open files and locks.
        def __getstate__(self) -> dict[str, Any]:
            return {}

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.watch(_key_of(trial.config), dict(trial.last_result or {}))

    def watch(key: str, last: dict[str, Any]) -> None:
        if "error" in last:
            outcome.failed[key] = last["error"]
        elif "trial_key" not in last:  # its last report is not that of its end
            outcome.stopped[key] = last
        on_done(key, last)

    watcher = Watcher()
    watcher.watch = watch
    return watcher


def _key_of(config: dict[str, Any]) -> str:
    return Trial.of(config.get("trial", config)).key
