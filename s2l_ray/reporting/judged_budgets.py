"""Quality of answers against budget, relative to the full data, by task and averaged, for every selector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.models import TargetArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.evaluation import seeds
from s2l_ray.evaluation.metrics import ANSWER_FIGURES
from s2l_ray.reporting.facts_worth import BudgetPoint, Budgets, MetricFacts
from s2l_ray.reporting.intervals import MIN_EXAMPLES, Estimate
from s2l_ray.reporting.judged_pairs import Side, way_of
from s2l_ray.text.display import printable
from s2l_ray.workflow.answers import Answers, statistic_of

Array = np.ndarray[Any, np.dtype[Any]]
Sides = Mapping[str, Mapping[str, Answers]]

_METRICS = ("correct", "rougeL")
_MAX_DRAWS = 40_000_000
"""Maximum number of summaries drawn for the curves of one set; above 4,000 summaries, there are fewer resamples."""
_ALL = ""
"""Name of the mean over the tasks."""


def budgets_of_answers(run: Run, sides: Sides, side: Side) -> list[Budgets]:
    """Curves of targets on subsets, by accuracy and by ROUGE-L; none if fewer than two were evaluated."""
    found = []
    for metric in _METRICS:
        labels = [label for label in sides if label in run.targets and (label == FULL or _is_plain(run, label))]
        tasks = list(
            dict.fromkeys(task for label in labels for task, one in sides[label].items() if metric in one.values)
        )
        points = _points(run, sides, labels, tasks, metric, side)
        if len({(p.selector, p.share) for p in points if p.selector != FULL}) > 1:
            found.append(_budgets(run, points, tasks, metric, side.level))
    return found


def _budgets(run: Run, points: list[BudgetPoint], tasks: Sequence[str], metric: str, level: float) -> Budgets:
    within, deciding = run.config.sweep.within, _ALL if any(not p.heldout_set for p in points) else tasks[0]
    decisive = [p for p in points if p.heldout_set == deciding and p.selector != FULL]
    smallest: dict[str, float | None] = {}
    if all(p.relative is not None for p in decisive):
        for selector in dict.fromkeys(p.selector for p in decisive):
            good = [p.share for p in decisive if p.selector == selector and p.relative is not None
                    and p.relative.value >= 100 * (1 - within)]  # fmt: skip
            smallest[selector] = min(good, default=None)
    label, is_share = ANSWER_FIGURES[metric]
    facts = MetricFacts(metric, label, "% of questions" if is_share else "0 to 100", True, is_share)
    return Budgets(facts, within, points, smallest, deciding, [], 0, 0.0, None, level, "questions")


def _points(
    run: Run, sides: Sides, labels: Sequence[str], tasks: Sequence[str], metric: str, side: Side
) -> list[BudgetPoint]:
    points: list[BudgetPoint] = []
    relatives: dict[str, list[tuple[float, Array | None, int]]] = {}
    for task in tasks:
        found = {label: sides[label][task] for label in labels if metric in _values(sides[label].get(task))}
        ids = sorted(set.intersection(*(set(one.ids) for one in found.values()))) if found else []
        if not ids:
            continue
        values = {label: one.of(metric, ids, one.seeds) for label, one in found.items()}
        resamples = side.resamples if metric == "correct" else max(200, min(side.resamples, _MAX_DRAWS // len(ids)))
        rng = side.generator(task, metric, "budgets")
        drawn = seeds.resampled_each(values, rng, resamples, statistic_of(metric))
        means = {label: _mean(one, metric) for label, one in values.items()}
        enough = len(ids) >= MIN_EXAMPLES
        for label in found:
            relative = None
            if _is_comparable(found, label, FULL) and means[FULL]:
                samples = drawn[label] / drawn[FULL] * 100 if enough and (drawn[FULL] > 0).all() else None
                ratio = means[label] / means[FULL] * 100
                relative = _estimate(ratio, samples, side.level)
                relatives.setdefault(label, []).append((ratio, samples, len(found[label].seeds)))
            beside = _random_of(run, label)
            against = None
            if _is_comparable(found, label, beside) and beside != label:
                apart = drawn[label] - drawn[beside] if enough else None
                against = _estimate(means[label] - means[beside], apart, side.level)
            told = _estimate(means[label], drawn[label] if enough else None, side.level)
            points.append(_point(run, label, task, len(found[label].seeds), told, relative, against))
    for label, of in relatives.items() if len(tasks) > 1 else ():
        if len(of) == len(tasks):
            samples = [one for _, one, _ in of if one is not None]
            both = np.mean(samples, axis=0) if len(samples) == len(of) else None
            told = _estimate(float(np.mean([ratio for ratio, _, _ in of])), both, side.level)
            points.append(_point(run, label, _ALL, min(num for _, _, num in of), told, told, None))
    return points


def _is_comparable(found: Mapping[str, Answers], label: str, other: str) -> bool:
    return other in found and way_of(found[label]) == way_of(found[other])


def _is_plain(run: Run, label: str) -> bool:
    """Whether a subset is a point on its selector's curve; one selected in another way (stratified) is not."""
    if label not in run.subsets:
        return False
    marks = run.subsets[label].manifest.extra
    return label == f"{marks['selector']}-{marks['budget']!r}"


def _values(one: Answers | None) -> Mapping[str, Array]:
    return {} if one is None else one.values


def _mean(values: Array, metric: str) -> float:
    figures = seeds.figures_of(values, statistic_of(metric))(seeds.columns_of(values).sum(axis=1))
    return float(figures.mean())


def _random_of(run: Run, label: str) -> str:
    return f"random-{run.subsets[label].manifest.extra['budget']!r}" if label in run.subsets else ""


def _estimate(value: float, drawn: Array | None, level: float) -> Estimate:
    if drawn is None:
        return Estimate(value)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(value, float(low), float(high))


def _point(
    run: Run, label: str, task: str, num_seeds: int, told: Estimate, relative: Estimate | None,
    against: Estimate | None,
) -> BudgetPoint:  # fmt: skip
    total = run.stage("trajectories").manifest.row_counts["trajectories"]
    target = run.targets[label]
    selector = FULL if label == FULL else str(run.subsets[label].manifest.extra["selector"])
    count = target.manifest.row_counts["examples"]
    return BudgetPoint(
        "target", printable(selector), task, count, count / max(1, total), num_seeds, told, relative, against,
        float(TargetArtifact.of(target).summary["flops"]),
    )  # fmt: skip
