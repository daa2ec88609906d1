"""Summarises finished trials: a tidy table, curves, costs, and the smallest budget that is good enough."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.evaluations import results_before_and_after
from s2l_ray.artifacts.models import TargetArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.selection_work import SCORING_TARGET, scores_with_target, whole_work
from s2l_ray.config.schema import S2LConfig
from s2l_ray.evaluation.metrics import get_metric, list_metrics
from s2l_ray.sweeps.records import TrialResult, objective_of
from s2l_ray.sweeps.trials import FULL, Trial

_SELECTING = ("tokens", "proxy", "trajectories", "clusters")
"""Stages whose cost belongs to the selection, besides passes for individual selectors and a target used as
reference."""

_DOUBLE, _INT, _TEXT = pa.float64(), pa.int64(), pa.string()


def result_schema() -> pa.Schema:
    """The schema of the table: one row per trial and held-out set (source null), and one for each of the set's sources,
    with a column for each metric.

    `loss` is the mean over the row's examples; `budget_unit` is `examples` or `share`.
    """
    before = [
        ("phase", _TEXT), ("trial", _TEXT), ("selector", _TEXT), ("budget", _DOUBLE), ("budget_unit", _TEXT),
        ("num_examples", _INT), ("share", _DOUBLE), ("seed", _INT), ("parameters", _TEXT), ("heldout_set", _TEXT),
        ("source", _TEXT),
    ]  # fmt: skip
    after = [
        ("loss_before", _DOUBLE), ("steps", _INT), ("tokens", _INT), ("flops", _DOUBLE), ("wall_seconds", _DOUBLE),
        ("device_seconds", _DOUBLE), ("folder", _TEXT), ("evaluation", _TEXT), ("answers", _TEXT),
    ]  # fmt: skip
    return pa.schema([*before, *((metric.column, _DOUBLE) for metric in list_metrics()), *after])


def result_table(finished: dict[str, list[TrialResult]]) -> pa.Table:
    """The table of all trials.

    Args:
        finished: phase → its trials.
    """
    rows = [row for phase, found in finished.items() for one in found for row in _rows(phase, one)]
    return pa.Table.from_pylist(rows, schema=result_schema())


def for_spreadsheets(table: pa.Table) -> pa.Table:
    """The table for a CSV file, such that a spreadsheet takes no text in it for a formula.

    Text that begins like a formula gets an apostrophe in front; the Parquet file has it unchanged.
    """
    for index, column in enumerate(table.schema):
        if pa.types.is_string(column.type):
            safe = pc.replace_substring_regex(table.column(index), "^([=+\\-@\t\r])", r"'\1")
            table = table.set_column(index, column, safe)
    return table


def budget_unit(budget: int | float) -> str:
    """The unit of a budget: 1 example and 1.0, all examples, are different budgets."""
    return "examples" if isinstance(budget, int) else "share"


def _rows(phase: str, one: TrialResult) -> list[dict[str, Any]]:
    manifest, trial = one.stage.manifest, one.trial
    summary = TargetArtifact.of(one.stage).summary
    shared = {
        "phase": phase, "trial": trial.key, "selector": trial.selector, "budget": float(trial.budget),
        "budget_unit": budget_unit(trial.budget),
        "num_examples": one.num_examples, "share": one.share, "seed": trial.seed,
        "parameters": json.dumps(dict(trial.parameters), sort_keys=True), "steps": summary["steps"],
        "tokens": summary["tally"]["tokens"], "flops": summary["flops"], "wall_seconds": manifest.wall_seconds,
        "device_seconds": manifest.device_seconds, "folder": one.stage.folder, "evaluation": one.evaluation.folder,
        "answers": None if one.answers is None else one.answers.folder,
    }  # fmt: skip
    rows = []
    for name, both in results_before_and_after(one.evaluation).items():
        after, before = both["after"], both["before"] or {}
        figures = {metric.column: after.get(metric.name) for metric in list_metrics()}
        rows.append({**shared, "heldout_set": name, "loss_before": before.get("micro"), **figures})
        for source, own in after["per_source"].items():
            then = before.get("per_source", {}).get(source, {}).get("loss")
            means = {column: value for column, value in own.items() if column != "num_examples"}
            rows.append({**shared, "heldout_set": name, "source": source, "loss_before": then, **means})
    return rows


@dataclass(frozen=True)
class Point:
    """One budget of one selector, summarised over the seeds."""

    selector: str
    budget: int | float
    share: float
    values: tuple[float, ...]
    """The metric that decides, one value per seed."""
    flops: float
    """FLOPs of training one target (mean)."""
    parameters: tuple[tuple[str, Any], ...] = ()

    @property
    def subset(self) -> tuple[str, str]:
        """Selector and budget, the latter as text to tell a count from a share (1 == 1.0 in Python)."""
        return self.selector, repr(self.budget)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


def points(config: S2LConfig, finished: list[TrialResult]) -> list[Point]:
    """Points of the trials without further parameters, by selector and budget; the full data is `full` at 1.0."""
    found = _points(config, [one for one in finished if not one.trial.parameters])
    return sorted(found, key=lambda p: (p.selector != FULL, p.selector, p.share))


def tuned_points(config: S2LConfig, finished: list[TrialResult]) -> list[Point]:
    """Points of the trials with further parameters, the best first."""
    found = _points(config, [one for one in finished if one.trial.parameters])
    return sorted(found, key=lambda p: p.mean, reverse=get_metric(config.sweep.metric).more_is_better)


def _points(config: S2LConfig, finished: list[TrialResult]) -> list[Point]:
    grouped: dict[Trial, list[TrialResult]] = {}
    for one in finished:
        grouped.setdefault(replace(one.trial, seed=0), []).append(one)
    return [
        Point(
            trial.selector, trial.budget, members[0].share,
            tuple(objective_of(config, m.evaluation, m.answers) for m in members),
            statistics.fmean(TargetArtifact.of(m.stage).summary["flops"] for m in members), trial.parameters,
        )
        for trial, members in grouped.items()
    ]  # fmt: skip


def full_point(found: list[Point]) -> Point | None:
    return next((p for p in found if p.selector == FULL), None)


def shortfall(point: Point, full: Point, metric: str) -> float:
    """How much worse a point is than the full data, relative to the latter; negative if it is better."""
    worse = full.mean - point.mean if get_metric(metric).more_is_better else point.mean - full.mean
    return worse / abs(full.mean) if full.mean else 0.0


def smallest_good_enough(found: list[Point], selector: str, metric: str, within: float) -> Point | None:
    """The point with the smallest budget that is at most `within` worse than the full data, if any."""
    full = full_point(found)
    if full is None:
        return None
    good = [p for p in found if p.selector == selector and shortfall(p, full, metric) <= within]
    return min(good, key=lambda p: p.share) if good else None


def bisect(num_budgets: int, guess: int, is_good: Callable[[int], bool | None]) -> int | None:
    """Find the smallest good budget → its index; None if none is good, or if `is_good` could not tell.

    A correct guess is confirmed by two calls of `is_good`, for itself and for its neighbour; a wrong one costs as many
    as bisection.
    """
    low, high, at, looks = -1, num_budgets, guess, 0  # budgets up to low are too small, from high on they are good
    while high - low > 1:
        good = is_good(at)
        if good is None:
            return None
        low, high = (low, at) if good else (at, high)
        beside, looks = at - 1 if good else at + 1, looks + 1
        at = beside if looks == 1 and low < beside < high else (low + high) // 2
    return high if high < num_budgets else None


def rank_correlation(a: list[float], b: list[float]) -> float | None:
    """Spearman's rank correlation, with mean ranks for ties; None for fewer than three points or constant values."""
    if len(a) < 3:
        return None
    ranks = [_mean_ranks(np.asarray(x)) for x in (a, b)]
    if any(np.ptp(r) == 0 for r in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[codes]


@dataclass(frozen=True)
class Cost:
    flops: float
    device_seconds: float

    def plain(self, price_per_hour: float | None) -> dict[str, float]:
        money = {} if price_per_hour is None else {"money": self.device_seconds / 3600 * price_per_hour}
        return {"flops": self.flops, "device_seconds": self.device_seconds, **money}


def selection_cost(run: Run) -> Cost:
    """The cost of the proxy, scoring and clustering, and of the target if it is the reference. Tokenising and
    clustering count only by their time, because their FLOPs are negligible."""
    names = [*_SELECTING, *(name for name in run.stages if name.startswith("signals/"))]
    names += [SCORING_TARGET] if scores_with_target(run) else []
    seconds = sum(run.stages[name].manifest.device_seconds for name in names if name in run.stages)
    return Cost(whole_work(run).flops, seconds)


def break_even(selecting: Cost, full_flops: float, num_targets: int) -> float | None:
    """Share of the data below which selecting and training on the subset costs less than training on all of it.

    Costs are in FLOPs, for the same number of epochs, with one selection used by `num_targets` targets. None: never.
    """
    share = 1 - selecting.flops / (num_targets * full_flops)
    return share if share > 0 else None
