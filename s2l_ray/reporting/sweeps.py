"""Budgets and settings of a sweep, from its table, with intervals from the trials' own evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from s2l_ray.artifacts.file_record import RESULTS_RECORD, read_record
from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.manifest import read_manifest
from s2l_ray.artifacts.outputs import verify_outputs
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.evaluation.metrics import Metric, get_metric, list_metrics
from s2l_ray.reporting.answers_sweep import is_by_answers, number_of
from s2l_ray.reporting.costs import choosing_by_selector
from s2l_ray.reporting.evaluations import HeldOutSet, Key, read_sets
from s2l_ray.reporting.facts import TunedPoint
from s2l_ray.reporting.facts_worth import BudgetPoint, Budgets, MetricFacts, SourcePoint
from s2l_ray.reporting.intervals import Estimate, estimate, means_over_seeds, resampled_means
from s2l_ray.storage.retry import DamagedFile, MissingFile
from s2l_ray.text.display import printable

Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[str, Any]

MAX_SOURCES = 12
RESULTS, REPORT = "sweep/results.parquet", "sweep/report.json"


def sweep_metric(report: dict[str, Any]) -> MetricFacts:
    """The metric that decided a sweep, as in its report; it need not be registered here."""
    return MetricFacts(**(report.get("judged_by") or get_metric(report["metric"]).facts()))


def read_sweep(run: Run) -> tuple[list[Row], dict[str, Any]] | None:
    """Read a finished sweep → (rows of its table, its report); None if there was none.

    Raises:
        DamagedFile: one of the results is not what was written.
    """
    if not (run.storage.exists(RESULTS) and run.storage.exists(REPORT)):
        return None
    folder = run.storage.sub("sweep")
    record = read_record(folder, RESULTS_RECORD)
    read = [] if record is None else [file for file in record.files if f"sweep/{file.name}" in (RESULTS, REPORT)]
    if problems := verify_outputs(folder, read):
        raise DamagedFile(
            f"{problems[0].what} The same `s2l sweep` again rewrites the sweep's results, without training again what "
            "is complete"
        )
    return run.storage.read_table(RESULTS).to_pylist(), run.storage.read_json(REPORT)


def budgets_of(run: Run, rows: list[Row], report: dict[str, Any]) -> Budgets | None:
    """The curves; None if only one subset was tried, or if answers to test questions decided, which have their own."""
    metric = sweep_metric(report)
    if is_by_answers(metric):
        return None
    plain = [r for r in rows if r["source"] is None and r["parameters"] == "{}"]
    points: list[BudgetPoint] = []
    for phase in dict.fromkeys(r["phase"] for r in plain):
        points += _phase_points(run, phase, [r for r in plain if r["phase"] == phase], metric)
    if len({(p.selector, p.share) for p in points}) < 2:
        return None
    deciding = run.config.sweep.heldout_set or plain[0]["heldout_set"]
    sources, num_sources = _source_points(run, rows, deciding)
    smallest = {printable(s): None if best is None else float(best["share"]) for s, best in report["smallest"].items()}
    prediction = report.get("prediction") or {}
    return Budgets(
        metric, float(report["within"]), points, smallest, printable(deciding), sources, num_sources,
        float(report["cost"]["selection"]["flops"]), prediction.get("rank_correlation"),
        choosing=choosing_by_selector(run, {p.selector for p in points}), num_failed=len(report.get("failed") or {}),
    )  # fmt: skip


def _phase_points(run: Run, phase: str, rows: list[Row], metric: MetricFacts) -> list[BudgetPoint]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_label(row), []).append(row)
    known = next((one for one in list_metrics() if one.column == metric.key), None)  # a user's may not be registered
    sets = {} if known is None else _aligned(run, rows)
    points: list[BudgetPoint] = []
    relatives: dict[str, list[tuple[float, Array | None]]] = {}
    for name in dict.fromkeys(r["heldout_set"] for r in rows):
        mine = {label: [r for r in group if r["heldout_set"] == name] for label, group in groups.items()}
        mine = {label: group for label, group in mine.items() if group}
        values = {label: float(np.mean([r[metric.key] for r in group])) for label, group in mine.items()}
        resampled = _resampled(sets.get(name), known, mine)
        num = len(sets[name].ids) if name in sets else 0
        full = next((label for label, group in mine.items() if group[0]["selector"] == FULL), None)
        for label, group in mine.items():
            samples = resampled.get(label)
            relative = None
            if full is not None and values[full]:
                ratio = values[label] / values[full] * 100
                both = None if samples is None else samples / resampled[full] * 100
                relative = _estimate(ratio, both, num)
                relatives.setdefault(label, []).append((ratio, both))
            told = _estimate(values[label], samples, num)
            beside = _random_of(group[0])
            against = None
            if beside in mine and beside != label:
                both = None if samples is None else samples - resampled[beside]
                against = _estimate(values[label] - values[beside], both, num)
            points.append(_point(phase, group, name, told, relative, against))
    num_sets = len({r["heldout_set"] for r in rows})
    if num_sets > 1:
        for label, found in relatives.items():
            if len(found) == num_sets:
                told = _mean_estimate(found)
                points.append(_point(phase, groups[label], "", told, told, None))
    return points


def _point(
    phase: str, group: list[Row], name: str, told: Estimate, relative: Estimate | None, against: Estimate | None
) -> BudgetPoint:
    row = group[0]
    return BudgetPoint(
        phase, printable(row["selector"]), printable(name), row["num_examples"], row["share"],
        len({r["seed"] for r in group}), told, relative, against, float(np.mean([r["flops"] or 0.0 for r in group])),
    )  # fmt: skip


def _source_points(run: Run, rows: list[Row], deciding: str) -> tuple[list[SourcePoint], int]:
    """The target's held-out losses by source, for at most MAX_SOURCES sources by name; and the number of sources."""
    mine = [r for r in rows if r["source"] is not None and r["phase"] == "target" and r["parameters"] == "{}"]
    mine = [r for r in mine if r["heldout_set"] == deciding]
    names = sorted({r["source"] for r in mine})
    groups: dict[str, list[Row]] = {}
    for row in mine:
        groups.setdefault(_label(row), []).append(row)
    made = _aligned(run, mine).get(deciding) if len(names) > 1 else None
    points = []
    for name in names[:MAX_SOURCES] if len(names) > 1 else []:
        of = {label: [r for r in group if r["source"] == name] for label, group in groups.items()}
        of = {label: group for label, group in of.items() if group}
        samples, num = ({}, 0) if made is None else _source_samples(made, printable(name), of)
        for label, group in of.items():
            told = _estimate(float(np.mean([r["loss"] for r in group])), samples.get(label), num)
            points.append(SourcePoint(printable(name), printable(group[0]["selector"]), group[0]["share"], told))
    return points, len(names)


def _source_samples(made: HeldOutSet, name: str, groups: dict[str, list[Row]]) -> tuple[dict[str, Array], int]:
    keys, columns = _columns(groups)
    rows = np.array(made.sources) == name
    sums = made.sums(get_metric("micro"), keys)[rows]
    out = means_over_seeds(resampled_means(sums, made.counts[rows], seed=int(rows.sum())), columns)
    return {label: out[:, i] for i, label in enumerate(groups)}, int(rows.sum())


def _columns(groups: dict[str, list[Row]]) -> tuple[list[Key], list[list[int]]]:
    keys = [Key(label, row["seed"]) for label, group in groups.items() for row in group]
    return keys, [[keys.index(Key(label, row["seed"])) for row in group] for label, group in groups.items()]


def _random_of(row: Row) -> str:
    return _label(row | {"selector": "random"})


def _estimate(value: float, resampled: Array | None, num: int) -> Estimate:
    return Estimate(value) if resampled is None else estimate(value, resampled, num)


def _mean_estimate(found: Sequence[tuple[float, Array | None]]) -> Estimate:
    """The mean over several sets, which are resampled independently of each other."""
    value = float(np.mean([v for v, _ in found]))
    samples = [s for _, s in found if s is not None]
    if len(samples) < len(found):
        return Estimate(value)
    low, high = np.percentile(np.mean(samples, axis=0), [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def _label(row: Row) -> str:
    return f"{row['selector']} {row['budget']!r} {row['budget_unit']}"


def _aligned(run: Run, rows: list[Row]) -> dict[str, HeldOutSet]:
    """Held-out set → scores of all trials by example; empty if a trial's files are gone."""
    stages: dict[Key, Stage] = {}
    for row in rows:
        where = row.get("evaluation")  # missing in sweeps of earlier versions
        manifest = read_manifest(run.storage.sub(where)) if where else None
        if manifest is None or where is None:
            return {}
        stages[Key(_label(row), row["seed"])] = Stage(manifest.stage, where, run.storage.sub(where), manifest)
    try:
        return {made.name: made for made in read_sets(stages)}
    except MissingFile:
        return {}


def _resampled(made: HeldOutSet | None, metric: Metric | None, groups: dict[str, list[Row]]) -> dict[str, Array]:
    """Label → (R,) bootstrap values over seeds and examples, with the same resamples for all labels; {} without
    scores."""
    if made is None or metric is None:
        return {}
    keys, columns = _columns(groups)
    out = means_over_seeds(made.resampled(metric, keys, seed=len(made.ids)), columns)
    return {label: out[:, i] for i, label in enumerate(groups)}


def tuned_of(rows: list[Row], metric: MetricFacts) -> list[TunedPoint]:
    """Trials with one further setting, averaged over seeds, by the setting's value."""
    groups: dict[tuple[str, str, str, float, str], list[float]] = {}
    for row in rows:
        settings = json.loads(row["parameters"])
        if row["source"] is None and row["phase"] == "target" and len(settings) == 1:
            [(name, value)] = settings.items()
            key = (name, json.dumps(value), row["selector"], row["share"], row["heldout_set"])
            groups.setdefault(key, []).append(float(row[metric.key]))
    return [
        TunedPoint(printable(n), printable(v), printable(s), share, h, float(np.mean(values)), values)
        for (n, v, s, share, h), values in sorted(groups.items(), key=lambda group: _by_value(*group[0]))
    ]


def _by_value(name: str, value: str, selector: str, share: float, heldout_set: str) -> tuple[Any, ...]:
    """Sort key of a setting's value: numbers by size, other values by their text."""
    return name, number_of(value), value, selector, share, heldout_set
