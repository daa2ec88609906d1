"""Runs trials in parallel with Ray Tune, as many as fit, each fine-tuning on its own Ray Train workers.

A trial is a small actor without resources that starts Ray Train workers. Tune does not see those, so the number of
trials at once is computed here: any more would wait for each other's workers indefinitely.
"""

from __future__ import annotations

import io
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from s2l_ray.artifacts.models import TargetArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.runner import StageRunner
from s2l_ray.artifacts.selection_work import SCORING_TARGET
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.sweep import RangeConfig
from s2l_ray.errors import describe
from s2l_ray.evaluation.metrics import get_metric, register_metric
from s2l_ray.execution.capacity import Node, fit
from s2l_ray.execution.failures import is_final
from s2l_ray.execution.orphaned_placement_groups import remove_orphaned_placement_groups
from s2l_ray.execution.placement import Placement
from s2l_ray.execution.precision import Precision
from s2l_ray.observability.metrics_log import MetricsLog
from s2l_ray.observability.progress import Progress
from s2l_ray.sweeps.context import SweepContext
from s2l_ray.sweeps.objective import answers_of
from s2l_ray.sweeps.records import objective_of, write_record, write_stopped
from s2l_ray.sweeps.scoring import scoring_context
from s2l_ray.sweeps.trials import FULL, Trial, num_possible

T = TypeVar("T")

STEP, OBJECTIVE = "step", "objective"
ENDED = "ended"
"""Key that only a trial's own last report has."""

_NEXT_TO_NOTHING = {"memory": 1}
"""Resources of a trial's own actor, since Tune requires some. Even a thousandth of a CPU could be taken from the only
one left for reading: a task that needs all of it would wait indefinitely, and all trials for that task."""
_LOOK_FOR_LEFTOVERS_S = 5.0
_log = logging.getLogger(__name__)

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # only the old kind of output can be silenced
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # nobody would read them: a trial's results are in the run's folder
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # with Tune's handler, Ctrl-C would look like a finished sweep
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they come with tracebacks; a restarted trial is reported in one line
}

OnDone = Callable[[Trial, dict[str, Any]], None]
"""Called with every trial that has ended, and its last report."""


@dataclass
class Outcome:
    """How the trials ended."""

    failed: dict[Trial, str] = field(default_factory=dict)
    """Failed trials and their errors."""
    stopped: dict[Trial, dict[str, Any]] = field(default_factory=dict)
    """Trials that the scheduler stopped early, and their last reports."""


def run_trial(asked: dict[str, Any], shared: SweepContext) -> None:
    """Run a trial in Tune's actor. A failed trial is reported, and the sweep continues; Tune restarts lost actors."""
    from ray import tune

    trial = _trial_of(asked)

    def note(error: Exception, failures: int) -> None:
        with _log_of(trial, shared) as log:
            log.log("sweep", "trial_tried_again", failures=failures, error=describe(error))

    try:
        target, evaluation, answers = try_until_final(
            lambda: _whole_way(trial, shared), shared.base.resources.max_failures, note
        )
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        worst = math.inf if mode_of(shared.base) == "min" else -math.inf  # schedulers and searchers require a number
        tune.report({OBJECTIVE: worst, ENDED: True, "error": first})
        return
    steps = TargetArtifact.of(target).summary["steps"]
    tune.report({STEP: steps, OBJECTIVE: objective_of(shared.base, evaluation, answers), ENDED: True})


def try_until_final(
    make: Callable[[], T], max_failures: int, note: Callable[[Exception, int], None], pause_s: float = 5.0
) -> T:
    """Call `make()`, again after errors that may not recur (storage does not respond, a node was lost), at most
    `max_failures` more times (-1: no limit). Complete stages are found, and a training resumes from its checkpoint.

    Args:
        note: called with every error that is followed by another attempt, and the number of failures so far.
    """
    failures = 0
    while True:
        try:
            return make()
        except Exception as error:
            failures += 1
            if is_final(error) or 0 <= max_failures < failures:
                raise
            note(error, failures)
        time.sleep(pause_s)


def _log_of(trial: Trial, shared: SweepContext) -> MetricsLog:
    return MetricsLog(shared.storage, f"sweep/logs/{shared.phase}-{trial.key}.jsonl")


def _whole_way(trial: Trial, shared: SweepContext) -> tuple[Stage, Stage, Stage | None]:
    """Build a trial's target, its evaluation and its answers; stages that other trials have built are reused."""
    from s2l_ray.execution.session import quiet_ray_data
    from s2l_ray.selection import register
    from s2l_ray.stages.context import RunContext
    from s2l_ray.stages.layout import Layout, shard_target
    from s2l_ray.workflow.stages import run_up_to_clusters, subset_stages, target_stage

    quiet_ray_data()
    for selector in shared.selectors:
        register(selector)
    for metric in shared.metrics:
        register_metric(metric)
    config = trial.config(shared.base)
    run = Run(config, shared.storage)
    with _log_of(trial, shared) as log:
        runner = StageRunner(run, Progress(io.StringIO(), interactive=False), log, shared=True)
        precisions = _precisions(config, shared)
        sharding = shard_target(config, shared.placements["target"], shared.embedded, precisions["target"])
        layout = Layout(
            config.resources, shared.embedded, dict(shared.placements), sharding, precisions, crowded=True
        )  # fmt: skip
        context = RunContext(config, runner, layout, ObjectivesToTune())
        budgets = [] if trial.selector == FULL else [trial.budget]
        reference = None if shared.scoring is None else scoring_context(context, shared.scoring)
        run_up_to_clusters(context, budgets, "sweep.budgets", [] if trial.selector == FULL else None, reference)
        if trial.selector != FULL:
            subset_stages(context)
            run.stages.pop(SCORING_TARGET, None)  # that one scores; the trial's own target is trained on its subset
        for name in config.target_subsets():
            target_stage(context, name)
        answers = answers_of(context, shared.asked)
    [target] = run.targets.values()
    evaluation = run.heldout_evaluation(target)
    assert evaluation is not None  # sweeps without held-out examples are refused
    objective_of(shared.base, evaluation, answers)  # if a user's metric fails, the trial must not be recorded
    write_record(shared, trial, run, target, evaluation, answers)
    return target, evaluation, answers


def _precisions(config: S2LConfig, shared: SweepContext) -> dict[str, Precision]:
    """Section → the precision of its model; a trial may set its own."""
    asked = {model.section: model.precision for model in (config.proxy, config.target) if model is not None}
    return {name: shared.precisions[name] if own == "auto" else own for name, own in asked.items()}


class ObjectivesToTune:
    """Forwards evaluations to Ray Tune (`execution.training_watcher.Watcher`)."""

    def take(self, metrics: dict[str, Any]) -> None:
        from ray import tune

        tune.report(metrics)

    def of_ray_train(self) -> Any:
        from ray.tune.integration.ray_train import TuneReportCallback

        class Callback(TuneReportCallback):
            def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
                if OBJECTIVE in metrics[0]:  # schedulers cannot handle reports with only a checkpoint
                    super().after_report(run_context, metrics, checkpoint)

        return Callback()


def concurrency(placement: Placement, free: Sequence[Node], asked: int | None, then: Placement | None = None) -> int:
    """The number of trials that can have all their workers at the same time.

    Args:
        then: placement of the workers that a trial needs after its training.
    """
    fitting = max(1, min(fit(free, one.demand).num_replicas for one in (placement, then) if one is not None))
    return fitting if asked is None else min(asked, fitting)


def run_side_by_side(shared: SweepContext, trials: list[Trial], at_once: int, on_done: OnDone) -> Outcome:
    """Run these trials, in this order, `at_once` at a time."""
    from ray import tune

    space = {"trial": tune.grid_search([t.plain() for t in trials])}
    return _fit(shared, space, at_once, 1, None, on_done)


def draw(config: S2LConfig) -> list[Trial]:
    """Draw `sweep.num_samples` different trials, or as many as exist; a larger number starts with the same ones."""
    space, random = _space(config), np.random.default_rng(config.seed)
    parameters = space.pop("parameters", {})
    wanted = min(config.sweep.num_samples or 0, num_possible(config))
    drawn: dict[Trial, None] = {}
    while len(drawn) < wanted:
        one = {name: domain.sample(random_state=random) for name, domain in space.items()}
        one["parameters"] = {path: domain.sample(random_state=random) for path, domain in parameters.items()}
        drawn[Trial.of(one)] = None
    return list(drawn)


def propose(
    shared: SweepContext, done: list[tuple[Trial, float]], num_samples: int, at_once: int, on_done: OnDone
) -> Outcome:
    """Run trials that Optuna proposes, given the results in `done`."""
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch
    from ray.tune.utils import flatten_dict

    plain = [t.plain() | {"budget": repr(t.budget)} for t, _ in done]
    points = [{k: v for k, v in flatten_dict(p).items() if v != {}} for p in plain]
    algorithm = OptunaSearch(
        OptunaSearch.convert_search_space(_space(shared.base)), metric=OBJECTIVE, mode=mode_of(shared.base),
        seed=shared.base.seed + len(done),  # so that its first guesses differ from those already done
        points_to_evaluate=points or None, evaluated_rewards=[value for _, value in done] or None,
    )  # fmt: skip
    return _fit(shared, {}, at_once, num_samples, ConcurrencyLimiter(algorithm, at_once), on_done)


def mode_of(config: S2LConfig) -> str:
    return "max" if get_metric(config.sweep.metric).more_is_better else "min"


def _space(config: S2LConfig) -> dict[str, Any]:
    from ray import tune

    sweep = config.sweep
    return {
        "selector": tune.choice(sweep.selectors),
        "budget": tune.choice([repr(budget) for budget in sweep.budgets]),
        "seed": tune.choice(list(range(sweep.num_seeds))),
        **({"parameters": {path: _domain(v) for path, v in sweep.parameters.items()}} if sweep.parameters else {}),
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
    shared: SweepContext, space: dict[str, Any], at_once: int, num_samples: int, algorithm: Any, on_done: OnDone
) -> Outcome:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses the logs that are not kept
    from ray import tune

    base = shared.base
    outcome = Outcome()
    with_own_folder = shared.storage.sub("sweep", "ray_tune")
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, shared=shared), _NEXT_TO_NOTHING),
        param_space=space,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_once if algorithm is None else None,
            num_samples=num_samples, search_alg=algorithm, scheduler=_scheduler(base),
            # Most of a small trial's processor time is its process's start. ASHA stops trials in the middle of their
            # training, with which their process has to end.
            reuse_actors=base.sweep.asha is None,
        ),
        run_config=tune.RunConfig(
            storage_path=with_own_folder.path, storage_filesystem=with_own_folder.filesystem, verbose=0,
            failure_config=tune.FailureConfig(max_failures=base.resources.max_failures),
            callbacks=[_watcher(shared, outcome, on_done)],
        ),
    )  # fmt: skip
    for result in tuner.fit():
        if result.error is not None:
            outcome.failed[_trial_of(result.config or {})] = str(result.error).strip().splitlines()[-1]
    remove_orphaned_placement_groups()
    with_own_folder.delete_dir()  # what a trial leaves is in the run; Tune's own notes are of no more use
    return outcome


def _scheduler(base: S2LConfig) -> Any:
    if base.sweep.asha is None:
        return None
    from ray.tune.schedulers import ASHAScheduler

    # Not Tune's own count of reports: it begins anew when a trial is resumed.
    return ASHAScheduler(
        time_attr=STEP, metric=OBJECTIVE, mode=mode_of(base), max_t=10**9,
        grace_period=base.sweep.asha.grace_steps, reduction_factor=base.sweep.asha.reduction_factor,
    )  # fmt: skip


def _watcher(shared: SweepContext, outcome: Outcome, on_done: OnDone) -> Any:
    """The callback that Tune calls in the driver."""
    from ray import tune

    last_look = time.monotonic()

    class Watcher(tune.Callback):
        # Tune pickles its callbacks with its own state, which nobody reads; this one holds open files and locks.
        def __getstate__(self) -> dict[str, Any]:
            return {}

        def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
            nonlocal last_look
            if time.monotonic() - last_look > _LOOK_FOR_LEFTOVERS_S:  # later trials would wait for them
                remove_orphaned_placement_groups()
                last_look = time.monotonic()

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            told = "the process of the trial %s was lost; it is restarted and resumes"
            _log.warning(told, _trial_of(trial.config).describe())

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.watch(_trial_of(trial.config), dict(trial.last_result or {}))

    def watch(trial: Trial, last: dict[str, Any]) -> None:
        if "error" in last:
            outcome.failed[trial] = last["error"]
        elif ENDED not in last:
            last = {k: last[k] for k in (STEP, OBJECTIVE) if k in last}
            outcome.stopped[trial] = last
            write_stopped(shared, trial, last)
        on_done(trial, last)

    watcher = Watcher()
    watcher.watch = watch
    return watcher


def _trial_of(config: dict[str, Any]) -> Trial:
    return Trial.of(config.get("trial", config))
