"""`s2l sweep`: builds upstream stages once, runs trials in parallel, then writes the results. Finished work is never
repeated."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.csv

from s2l_ray.artifacts.file_record import RESULTS_RECORD, FileRecord
from s2l_ray.artifacts.outputs import list_outputs
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.runner import open_runner
from s2l_ray.artifacts.selection_work import SCORING_TARGET
from s2l_ray.config.load import load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import describe
from s2l_ray.evaluation.metrics import registered_metrics
from s2l_ray.execution.ray_metrics import RayMetrics
from s2l_ray.observability.progress import Progress
from s2l_ray.selection.registry import registered_here
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.evaluation.tasks import AskedTask
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.context import SweepContext, Upstream
from s2l_ray.sweeps.objective import asking, read_asked
from s2l_ray.sweeps.records import TrialResult, all_finished, all_stopped, find_finished, objective_of
from s2l_ray.sweeps.report import PREDICTED, TARGET, make_report
from s2l_ray.sweeps.resolve import resolve
from s2l_ray.sweeps.results import (
    Point,
    bisect,
    for_spreadsheets,
    full_point,
    points,
    result_table,
    shortfall,
    smallest_good_enough,
)
from s2l_ray.sweeps.scoring import ScoringTarget, scores_with_target, train_scoring_target
from s2l_ray.sweeps.trials import FULL, Trial, could_propose, full_trials, grid, num_possible, selecting
from s2l_ray.sweeps.tune import ENDED, OnDone, Outcome, concurrency, draw, propose, run_side_by_side
from s2l_ray.text.display import one_line
from s2l_ray.text.formats import format_duration
from s2l_ray.workflow.preflight import preflight

Present = Callable[[Run, pa.Table, dict[str, Any]], tuple[dict[str, bytes], list[str]]]


@dataclass
class SweepResult:
    """Result of a sweep."""

    run: Run
    report: dict[str, Any]
    """Content of `sweep/report.json`."""
    lines: list[str]
    """The results as lines of text."""
    failed: dict[str, str] = field(default_factory=dict)
    """Failed trials and their errors."""


def sweep(
    config: S2LConfig | str,
    overrides: Sequence[str] = (),
    *,
    find_smallest: bool = False,
    within: float | None = None,
    progress: Progress | None = None,
    present: Present | None = None,
) -> SweepResult:
    """Fine-tune a target for each budget, selector, seed and setting, and write `sweep/` into the run's folder.

    Args:
        config: a recipe, a YAML file, a run's folder (to continue it), or the typed tree.
        find_smallest: predict the curve with the proxy's model, then confirm with the target at the budgets that
            matter, by bisection, for each selector.
        within: overrides `sweep.within`.
        present: run, table of results and report → pictures by file name, and the curves as lines; None: no pictures,
            and means without intervals.

    Raises:
        ConfigError, PlacementError, …: before any trial starts.
    """
    from s2l_ray.execution.session import ray_session
    from s2l_ray.stages.corpus.stage import check_corpus_files
    from s2l_ray.stages.layout import lay_out
    from s2l_ray.workflow.stages import run_up_to_clusters

    resolved = resolve(config, overrides, within, find_smallest)
    wanted = asking(resolved)  # the questions that decide the sweep, if any
    preflight(wanted)
    progress = progress or Progress()
    choosing = selecting(resolved)
    for note in check_corpus_files(resolved, choosing):
        progress.say(f"[sweep] {note}")
    run = Run(resolved, Storage.open(resolved.run_uri))
    # With its dashboard, which Ray Train asks for the placement groups that a stopped trial left behind.
    with (
        open_runner(run, progress, RayMetrics(resolved.name)) as stage_runner,
        ray_session(resolved.resources, dashboard=True),
    ):
        run.begin(resolved)
        context = RunContext(resolved, stage_runner, lay_out(wanted, progress.say, storage=run.storage))
        run_up_to_clusters(
            context, resolved.sweep.budgets, "sweep.budgets", resolved.sweep.selectors, selecting=choosing
        )
        run.commit()
        scoring = train_scoring_target(context) if scores_with_target(resolved) else None
        runner = _Runner(context, read_asked(resolved, run.storage, progress.say), scoring)
        if resolved.sweep.predict or find_smallest:
            runner.run(PREDICTED, grid(predicting(resolved)))
        if find_smallest:
            _find_smallest(runner, resolved)
        elif resolved.sweep.search == "grid":
            runner.run(TARGET, grid(resolved))
        elif resolved.sweep.search == "random":
            runner.run(TARGET, [*full_trials(resolved), *draw(resolved)])
        else:
            runner.run(TARGET, full_trials(resolved))
            runner.search()
        return _conclude(context, runner, present)


def predicting(config: S2LConfig) -> S2LConfig:
    """The same sweep with the proxy's model as the target, trained for as long as the section `target` says."""
    assert config.target is not None
    tree = config.model_dump(mode="json")
    how_long = {name: tree["target"][name] for name in ("length", "epochs", "max_steps", "max_tokens")}
    tree["target"] = tree["proxy"] | how_long
    tree["sweep"] |= {"parameters": {}, "search": "grid", "num_samples": None, "asha": None}
    return load_config(tree)


class _Runner:
    """Runs batches of trials of one phase and remembers what is finished."""

    def __init__(self, context: RunContext, asked: tuple[AskedTask, ...], scoring: ScoringTarget | None = None) -> None:
        self.context, self.config, self.asked, self.scoring = context, context.config, asked, scoring
        config = context.config
        self.base = {TARGET: config, PREDICTED: predicting(config)}
        self.finished: dict[str, list[TrialResult]] = {}
        self.failed: dict[str, str] = {}
        """Description of the trial → its error."""
        self.stopped: dict[Trial, dict[str, Any]] = {}

    @property
    def upstream(self) -> Upstream:
        stage = self.context.run.stage
        return Upstream(stage("trajectories").content, stage(SCORING_TARGET).content if self.scoring else None)

    def run(self, phase: str, trials: list[Trial]) -> None:
        """Run those of the trials that have not ended yet."""
        stopped = self._stopped(phase)
        missing = [t for t in trials if self._find(phase, t) is None and t not in stopped]
        told = f"{len(trials)} trials"
        if len(missing) < len(trials):
            told += f", {len(trials) - len(missing)} of them already done"
        if not missing:
            self.context.progress.say(f"[sweep] {phase}: {told}")
        else:
            at_once, logs = self._at_once(), self.context.run.storage.uri_of("sweep/logs")
            self.context.progress.say(f"[sweep] {phase}: {told}; {at_once} at once; their progress is logged in {logs}")
            self.context.runner.mark_started()
            outcome = run_side_by_side(self._shared(phase), missing, at_once, self._reporter(phase, len(missing)))
            self._note(phase, outcome)
        self.stopped |= {t: last for t, last in self._stopped(phase).items() if t in trials}
        found = [one for t in trials if (one := self._find(phase, t)) is not None]
        known = {one.trial for one in self.finished.setdefault(phase, [])}
        self.finished[phase] += [one for one in found if one.trial not in known]

    def search(self) -> None:
        """Run trials that Optuna proposes, until `sweep.num_samples` different ones have ended, in this process or
        before."""
        wanted = min(self.config.sweep.num_samples or 0, num_possible(self.config))
        ended, say = self._ended(), self.context.progress.say
        say(f"[sweep] optuna: {wanted} trials, {len(ended)} of them already done; {self._at_once()} at once")
        while (left := int(wanted - len(ended))) > 0:
            self.context.runner.mark_started()
            outcome = propose(self._shared(TARGET), ended, left, self._at_once(), self._reporter(TARGET, left))
            self._note(TARGET, outcome)
            before, ended = len(ended), self._ended()
            if outcome.failed:
                break
            if len(ended) == before:  # proposals may repeat earlier ones
                say(f"[sweep] optuna proposes nothing new after {before} trials")
                break
        self.stopped |= self._stopped(TARGET)
        self.finished[TARGET] = self._all_finished()

    def _ended(self) -> list[tuple[Trial, float]]:
        """The trials of this search that have ended, including those stopped early, with the values of the metric."""
        found = self._all_finished()
        ended = {one.trial: objective_of(self.config, one.evaluation, one.answers) for one in found}
        ended |= {t: last["objective"] for t, last in self._stopped(TARGET).items() if t not in ended}
        return [(trial, value) for trial, value in ended.items() if could_propose(self.config, trial)]

    def _all_finished(self) -> list[TrialResult]:
        context = self.context
        return all_finished(self.config, context.run.storage, self.upstream, TARGET, context.progress.say)

    def _find(self, phase: str, trial: Trial) -> TrialResult | None:
        storage, say = self.context.run.storage, self.context.progress.say
        return find_finished(self.base[phase], storage, trial, self.upstream, phase, say)

    def _stopped(self, phase: str) -> dict[Trial, dict[str, Any]]:
        """Trials that the scheduler stopped early, with their last reports; empty for a sweep without a scheduler."""
        if self.base[phase].sweep.asha is None:
            return {}
        storage, say = self.context.run.storage, self.context.progress.say
        return all_stopped(self.base[phase], storage, self.upstream, phase, say)

    def _note(self, phase: str, outcome: Outcome) -> None:
        self.failed |= {f"{phase}: {trial.describe()}": why for trial, why in outcome.failed.items()}

    def _shared(self, phase: str) -> SweepContext:
        from s2l_ray.execution.session import is_embedded

        run, embedded = self.context.run, is_embedded(self.config.resources)
        layout = self.context.layout
        precisions = dict(layout.precisions)
        if phase == PREDICTED:
            precisions["target"] = precisions["proxy"]  # because the model is the proxy's
        return SweepContext(
            self.base[phase], run.storage, layout.placements, embedded, phase, self.upstream, precisions,
            registered_here(), registered_metrics(), self.asked, self.scoring,
        )  # fmt: skip

    def _at_once(self) -> int:
        """The number of trials that fit at once into the resources that others leave free; waits until at least one
        fits."""
        from s2l_ray.execution.capacity import Node, fit, total
        from s2l_ray.execution.capacity_wait import free_resources, wait_for_free
        from s2l_ray.execution.placement import local_cores, node_resources
        from s2l_ray.execution.session import is_embedded

        resources, asked = self.config.resources, self.config.sweep.max_concurrent
        placements, say = self.context.layout.placements, self.context.progress.say
        placement, then = placements["target"], placements["evaluation"] if self.asked else None
        if resources.may_grow:  # the cluster grows as far as it is asked to
            return asked or concurrency(placement, node_resources(), None, then)
        if is_embedded(resources):
            # An embedded Ray counts more CPUs than there are; usable are the cores, and one more for reading.
            most = local_cores() + 1
            free: list[Node] = [{**node, "CPU": min(node.get("CPU", 0), most)} for node in node_resources()]
        else:
            free = free_resources()
            if not fit(free, placement.demand).num_replicas:
                free = wait_for_free(placement, "sweep", say, resources.capacity_wait_s)
        at_once = concurrency(placement, free, asked, then)
        if asked is not None and at_once < asked:
            has = ", ".join(f"{total(free, n):g} {n}" for n in ("CPU", "GPU") if total(free, n))
            say(f"[sweep] sweep.max_concurrent={asked} is too many: {placement.describe()} each; available: {has}")
        return at_once

    def _reporter(self, phase: str, num_trials: int) -> OnDone:
        count, started = 0, time.monotonic()

        def on_done(trial: Trial, last: dict[str, Any]) -> None:
            nonlocal count
            count += 1
            value, step = last.get("objective"), last.get("step")
            if "error" in last:
                value, how = None, f"failed, {last['error']}"
            else:
                early = "" if ENDED in last else " (stopped early)"
                how = f"{self.config.sweep.metric} {value:.4f} after {step:,} steps{early}"
            left = (time.monotonic() - started) / count * (num_trials - count)
            when = f"; about {format_duration(left)} left" if count < num_trials else ""
            self.context.progress.say(f"[sweep] {phase} {count}/{num_trials}  {trial.describe()}: {how}{when}")
            self.context.metrics.log("sweep", "trial", phase=phase, trial=trial.key, step=step, objective=value)

        return on_done


def _find_smallest(runner: _Runner, config: S2LConfig) -> None:
    """Confirm with the target, for each selector: train it on the full data, and on the budgets around the predicted
    one until two neighbours differ.

    The curve is assumed to improve with the budget; if seeds vary more than budgets differ, the answer is a guess.
    """
    metric, within, seeds = config.sweep.metric, config.sweep.within, range(config.sweep.num_seeds)
    predicted = points(runner.base[PREDICTED], runner.finished[PREDICTED])
    runner.run(TARGET, [Trial(FULL, 1.0, n) for n in seeds])
    for selector in config.sweep.selectors:
        curve = [p for p in predicted if p.selector == selector]  # sorted by share
        guess = smallest_good_enough(predicted, selector, metric, within)

        def is_good(at: int, curve: list[Point] = curve) -> bool | None:
            runner.run(TARGET, [Trial(curve[at].selector, curve[at].budget, n) for n in seeds])
            found = points(config, runner.finished[TARGET])
            yardstick = full_point(found)
            match = [p for p in found if p.subset == curve[at].subset]
            if yardstick is None or not match:
                return None  # trials failed, which is reported at the end
            return shortfall(match[0], yardstick, metric) <= within

        bisect(len(curve), len(curve) - 1 if guess is None else curve.index(guess), is_good)


def _conclude(context: RunContext, runner: _Runner, present: Present | None) -> SweepResult:
    """Write the table, the pictures and the report."""
    from s2l_ray.sweeps.text import report_lines

    run, config = context.run, context.config
    out = run.storage.sub("sweep").recording()
    out.delete(RESULTS_RECORD)  # its files are about to be overwritten
    table = result_table(runner.finished)
    out.write_table("results.parquet", table)
    buffer = io.BytesIO()
    pa.csv.write_csv(for_spreadsheets(table), buffer)
    out.write_bytes("results.csv", buffer.getvalue())
    stopped = [trial.describe() for trial in runner.stopped]
    report = make_report(run, config, runner.finished, runner.failed, stopped)
    out.write_json("report.json", report)
    files, curves = _presented(run, table, report, present, out)
    written = ("results.parquet", "results.csv", "report.json", *files)
    made_of = {"sweep": config.sweep.stored(), "trajectories": runner.upstream.trajectories}
    FileRecord(made_of, list_outputs(out, only=written)).write(out, RESULTS_RECORD)
    for leftover in ("sweep/ray_tune", "stage_locks"):  # left behind by killed trials
        run.storage.delete_dir(leftover)
    run.find_others_work()
    lines = report_lines(report, out.uri, files, runner.failed, curves)
    return SweepResult(run, report, lines, runner.failed)


def _presented(
    run: Run, table: pa.Table, report: dict[str, Any], present: Present | None, out: Storage
) -> tuple[list[str], list[str]]:
    """Draw the pictures → (files written, the curves as lines). The sweep is complete by then, so no failure here may
    end it."""
    if present is None:
        return [], []
    try:
        pictures, lines = present(run, table, report)
    except Exception as error:
        return [], [f"no curves with intervals and no pictures: {one_line(describe(error))}"]
    for name, content in pictures.items():
        out.write_bytes(name, content)
    return list(pictures), lines
