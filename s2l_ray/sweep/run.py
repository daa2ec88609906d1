"""`s2l sweep`: upstream once, trials side by side, then table, curve and answer. What is finished is never repeated."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.csv

from s2l_ray.artifacts import Run, load_run
from s2l_ray.config.load import ConfigError, load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.pipeline import Pipeline, open_pipeline
from s2l_ray.preflight import preflight
from s2l_ray.run_folder import Progress, Storage
from s2l_ray.sweep.records import Finished, all_finished, deciding_set, find_finished, objective_of
from s2l_ray.sweep.report import PREDICTED, TARGET, curves_of, make_report
from s2l_ray.sweep.results import (
    full_point,
    points,
    result_table,
    selection_cost,
    shortfall,
    smallest_good_enough,
)
from s2l_ray.sweep.trials import FULL, Trial, check_trials, full_trials, grid


@dataclass
class SweepResult:
    run: Run
    report: dict[str, Any]
    """As in `sweep/report.json`."""
    lines: list[str]
    """For people."""
    failed: dict[str, str] = field(default_factory=dict)
    """Trial → what went wrong."""


def sweep(
    config: S2LConfig | str,
    overrides: Sequence[str] = (),
    *,
    find_smallest: bool = False,
    within: float | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Try budgets, selectors, seeds and settings; fine-tune a target for each; write `sweep/` into the run's folder.

    Args:
        config: a recipe, a YAML file, a run's folder (goes on with it), or the typed tree.
        find_smallest: predict the curve with the proxy's model, then confirm with the target at the budgets that
            matter, by bisection.
        within: overrides `sweep.within`.

    Raises:
        ConfigError, PlacementError, …: before any trial starts.
    """
    from s2l_ray.cluster.session import ray_session
    from s2l_ray.stages import place_stages, run_up_to_trajectories

    resolved = _resolve(config, overrides, within)
    preflight(resolved)
    progress = progress or Progress()
    run = Run(resolved, Storage.open(resolved.run_uri))
    # With its dashboard: Ray Train asks it which placement groups a stopped trial has left.
    with (
        open_pipeline(run, progress, write_config=True) as pipeline,
        ray_session(resolved.resources, dashboard=True),
    ):
        place_stages(pipeline, resolved)
        run_up_to_trajectories(pipeline, resolved)
        runner = _Runner(pipeline, resolved)
        if resolved.sweep.predict or find_smallest:
            runner.run(PREDICTED, grid(predicting(resolved)))
        if find_smallest:
            _bisect(runner, resolved)
        elif resolved.sweep.search == "grid":
            runner.run(TARGET, grid(resolved))
        else:
            runner.run(TARGET, full_trials(resolved))
            runner.search()
        return _conclude(pipeline, runner, resolved)


def _resolve(config: S2LConfig | str, overrides: Sequence[str], within: float | None) -> S2LConfig:
    if within is not None:
        overrides = [*overrides, f"sweep.within={within}"]
    if isinstance(config, S2LConfig):
        resolved = config
    elif "/" in config and Storage.open(config).exists("config.yaml"):
        resolved = load_config(load_run(config).config.model_dump(mode="json"), overrides)
    else:
        resolved = load_config(config, overrides)
    if resolved.target is None:
        raise ConfigError("a sweep fine-tunes targets and there is none: add target.model=…, or a section `target`")
    nothing_held_out = not (resolved.heldout.share or resolved.heldout.files or resolved.corpus.quickstart)
    if nothing_held_out:
        raise ConfigError(
            "a sweep compares held-out losses and nothing is held out: set heldout.share=0.05, or heldout.files"
        )
    if resolved.sweep.asha is not None and resolved.target.evaluate_every_steps is None:
        raise ConfigError(
            "sweep.asha stops trials by their held-out loss on the way, which is never measured: set "
            "target.evaluate_every_steps"
        )
    if resolved.sweep.search == "grid":
        check_trials(resolved, grid(resolved))
    return resolved


def predicting(config: S2LConfig) -> S2LConfig:
    """The same sweep with the proxy's model as the target, trained as long as the section `target` says."""
    assert config.target is not None
    tree = config.model_dump(mode="json")
    target = {**config.proxy.model_dump(mode="json"), "length": config.target.length}
    tree["target"] = target
    tree["sweep"] |= {"parameters": {}, "search": "grid", "num_samples": None, "asha": None}
    return load_config(tree)


class _Runner:
    """Runs batches of trials of one phase and remembers what is finished."""

    def __init__(self, pipeline: Pipeline, config: S2LConfig) -> None:
        self.pipeline, self.config = pipeline, config
        self.base = {TARGET: config, PREDICTED: predicting(config)}
        self.finished: dict[str, list[Finished]] = {}
        self.failed: dict[str, str] = {}
        self.stopped: dict[str, dict[str, Any]] = {}

    @property
    def _trajectories(self) -> str:
        return self.pipeline.run.stage("trajectories").manifest.content_fingerprint

    def run(self, phase: str, trials: list[Trial]) -> list[Finished]:
        """Those that are not finished yet; → all of these that are finished then."""
        from s2l_ray.sweep.tune import run_side_by_side

        missing = [t for t in trials if self._find(phase, t) is None]
        at_once, say = self._at_once(), self.pipeline.progress.say
        told = f", {len(trials) - len(missing)} of them finished before" if len(missing) < len(trials) else ""
        say(f"[sweep] {phase}: {len(trials)} trials{told}; {at_once} at once")
        if missing:
            outcome = run_side_by_side(self._shared(phase), missing, at_once, self._reporter(phase, missing))
            self.failed |= {f"{phase}: {_said(missing, key)}": why for key, why in outcome.failed.items()}
            self.stopped |= outcome.stopped
        found = [one for t in trials if (one := self._find(phase, t)) is not None]
        known = {one.trial.key for one in self.finished.setdefault(phase, [])}
        self.finished[phase] += [one for one in found if one.trial.key not in known]
        return found

    def search(self) -> None:
        """`sweep.num_samples` trials drawn or proposed, those of before included."""
        from s2l_ray.sweep.tune import search

        storage = self.pipeline.run.storage
        before = [
            one for one in all_finished(self.config, storage, self._trajectories, TARGET) if one.trial.selector != FULL
        ]
        left = (self.config.sweep.num_samples or 0) - len(before)
        self.pipeline.progress.say(f"[sweep] {self.config.sweep.search}: {max(0, left)} trials, {len(before)} before")
        if left > 0:
            done = [(one.trial, objective_of(self.config, one.stage)) for one in before]
            outcome = search(self._shared(TARGET), done, left, self._at_once(), self._reporter(TARGET, []))
            self.failed |= {f"{TARGET}: {key}": why for key, why in outcome.failed.items()}
            self.stopped |= outcome.stopped
        self.finished[TARGET] = all_finished(self.config, storage, self._trajectories, TARGET)

    def _find(self, phase: str, trial: Trial) -> Finished | None:
        return find_finished(self.base[phase], self.pipeline.run.storage, trial, self._trajectories, phase)

    def _shared(self, phase: str) -> Any:
        from s2l_ray.stages import is_embedded
        from s2l_ray.sweep.tune import Shared

        run = self.pipeline.run
        return Shared(self.base[phase], run.storage, self.pipeline.placements, is_embedded(run.config), phase)

    def _at_once(self) -> int:
        import ray

        from s2l_ray.cluster.placement import local_cores
        from s2l_ray.stages import is_embedded
        from s2l_ray.sweep.tune import concurrency

        cores = local_cores() if is_embedded(self.config) else None
        placement, asked = self.pipeline.placements["target"], self.config.sweep.max_concurrent
        if asked is not None and self.config.resources.may_grow:
            return asked  # the cluster grows to it
        at_once = concurrency(placement, ray.cluster_resources(), cores, asked)
        if asked is not None and at_once < asked:
            self.pipeline.progress.say(
                f"[sweep] sweep.max_concurrent={asked} is more than fit ({placement.describe()} each)"
            )
        return at_once

    def _reporter(self, phase: str, trials: list[Trial]) -> Callable[[str, dict[str, Any]], None]:
        count = 0

        def on_done(key: str, last: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            value, step = last.get("objective"), last.get("step")
            how = "" if value is None else f": {self.config.sweep.metric} {value:.4f} after {step:,} steps"
            early = "" if "trial_key" in last else " (stopped early)"
            if "error" in last:
                early = f": failed, {last['error']}"
            of = f"/{len(trials)}" if trials else ""
            self.pipeline.progress.say(f"[sweep] {phase} {count}{of}  {_said(trials, key)}{how}{early}")
            self.pipeline.metrics.log("sweep", "trial", phase=phase, trial=key, step=step, objective=value)

        return on_done


def _said(trials: list[Trial], key: str) -> str:
    return next((t.describe() for t in trials if t.key == key), key)


def _bisect(runner: _Runner, config: S2LConfig) -> None:
    """Confirm with the target at the full data and at the budgets around the predicted one until two neighbours differ.

    The curve is taken to fall with the budget; where seeds scatter more than budgets differ, the answer is a guess.
    """
    metric, within, selector = config.sweep.metric, config.sweep.within, config.sweep.selectors[0]
    predicted = points(runner.base[PREDICTED], runner.finished[PREDICTED])
    budgets = [p.budget for p in predicted if p.selector == selector]  # sorted by share
    guess = smallest_good_enough(predicted, selector, metric, within)
    seeds = range(config.sweep.num_seeds)
    full = [Trial(FULL, 1.0, n) for n in seeds]
    runner.run(TARGET, full)
    low, high = -1, len(budgets)  # too small up to low, good enough from high on
    at = budgets.index(guess.budget) if guess is not None else len(budgets) - 1
    while high - low > 1:
        runner.run(TARGET, [Trial(selector, budgets[at], n) for n in seeds])
        found = points(config, runner.finished[TARGET])
        yardstick = full_point(found)
        mine = [p for p in found if p.selector == selector and p.budget == budgets[at]]
        if yardstick is None or not mine:
            return  # trials failed; said at the end
        good = shortfall(mine[0], yardstick, metric) <= within
        low, high = (low, at) if good else (at, high)
        # Next to the guess first: a good prediction is confirmed with two budgets.
        at = at - 1 if good and at - 1 > low else at + 1 if not good and at + 1 < high else (low + high) // 2


def _conclude(pipeline: Pipeline, runner: _Runner, config: S2LConfig) -> SweepResult:
    """Table, pictures, report."""
    from s2l_ray.sweep.plots import draw_all
    from s2l_ray.sweep.text import report_lines

    out = pipeline.run.storage.sub("sweep")
    table = result_table(runner.finished)
    out.write_table("results.parquet", table)
    buffer = io.BytesIO()
    pa.csv.write_csv(table, buffer)
    out.write_bytes("results.csv", buffer.getvalue())
    curves = curves_of(config, runner.finished)
    report = make_report(pipeline.run, config, runner.finished, runner.failed, sorted(runner.stopped))
    out.write_json("report.json", report)
    files: list[str] = []
    if any(len(found) > 1 for found in curves.values()):
        deciding = deciding_set(config, next(iter(runner.finished.values()))[0].stage)
        title = f"{config.name} ({deciding})"
        files = draw_all(out, title, config.sweep.metric, curves, selection_cost(pipeline.run), table, deciding)
    lines = report_lines(report, out.uri, files, runner.failed)
    return SweepResult(pipeline.run, report, lines, runner.failed)
