"""Differences between models on the same questions, paired by question and, if there are several, by training seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from s2l_ray.evaluation import seeds, statistics
from s2l_ray.reporting.facts_tasks import TaskDifference
from s2l_ray.reporting.intervals import MIN_EXAMPLES, UNDECIDED, Estimate, verdict
from s2l_ray.text.display import printable
from s2l_ray.workflow.answers import COMPARED, Answers, OverSeeds, common_seeds, compare_seeds, statistic_of


@dataclass(frozen=True)
class Side:
    """How results are computed."""

    seed: int
    resamples: int
    level: float
    averaged: list[str]
    """Tasks over which the mean is taken."""

    def generator(self, *names: str) -> np.random.Generator:
        return statistics.generator(self.seed, "report", *names)

    @staticmethod
    def seeds(found: Sequence[Answers]) -> list[int]:
        """Training seeds that all of them have; if they have none in common, the first of each."""
        return common_seeds(found) or found[0].seeds[:1]


def differences_of(
    sides: Mapping[str, Mapping[str, Answers]], baselines: Mapping[str, Sequence[str]], side: Side
) -> tuple[list[TaskDifference], list[str]]:
    """Compare every model with its baselines on the tasks that both have answered → (differences, notes on what was not
    compared and why)."""
    found: list[TaskDifference] = []
    refused: list[str] = []
    for model, of in baselines.items():
        for baseline in of:
            tasks = [task for task in sides[model] if task in sides[baseline]]
            comparable: list[str] = []
            apart: dict[tuple[str, ...], list[str]] = {}
            for task in tasks:
                ways = tuple(way_of(sides[label][task]) for label in (model, baseline))
                (comparable if ways[0] == ways[1] else apart.setdefault(ways, [])).append(task)
            refused += [
                printable(f"{model} and {baseline} are not compared on {', '.join(which)}: {'; '.join(ways)}")
                for ways, which in apart.items()
            ]
            found += _pair(model, baseline, {task: (sides[model][task], sides[baseline][task]) for task in comparable},
                           side)  # fmt: skip
    return found, refused


def way_of(one: Answers) -> str:
    """How the model was prompted and its text generated; other ways give other texts."""
    return f"{one.made.form}, {one.way}"


@dataclass(frozen=True)
class _Compared:
    difference: Estimate
    p_value: float | None
    detectable: float | None
    num_questions: int
    num_seeds: int


def _pair(model: str, baseline: str, tasks: Mapping[str, tuple[Answers, Answers]], side: Side) -> list[TaskDifference]:
    made: dict[tuple[str, str], _Compared] = {}
    for task, both in tasks.items():
        ids = sorted(set(both[0].ids) & set(both[1].ids))
        for metric in COMPARED:
            if ids and all(metric in one.values for one in both):
                made[task, metric] = _compare(model, baseline, task, metric, both, ids, side)
    p_values = {task: one.p_value for (task, metric), one in made.items() if metric == "correct"}
    adjusted = statistics.holm({task: p for task, p in p_values.items() if p is not None})
    found = [
        _difference(task, metric, model, baseline, one, adjusted.get(task) if metric == "correct" else one.p_value,
                    side.level)
        for (task, metric), one in made.items()
    ]  # fmt: skip
    if side.averaged and all((task, "correct") in made for task in side.averaged):
        one = _average(model, baseline, tasks, side)
        found.append(_difference("", "correct", model, baseline, one, None, side.level))
    return found


def _difference(
    task: str, metric: str, model: str, baseline: str, one: _Compared, p_value: float | None, level: float
) -> TaskDifference:
    """The verdict: better or worse only if the interval excludes zero and the test, if any, is significant."""
    words = verdict(one.difference, more_is_better=True)
    if p_value is not None and p_value > 1 - level:
        words = UNDECIDED
    return TaskDifference(
        task, metric, model, baseline, one.num_questions, one.difference, p_value, one.detectable, one.num_seeds, words
    )


def _compare(
    model: str, baseline: str, task: str, metric: str, both: tuple[Answers, Answers], ids: list[bytes], side: Side
) -> _Compared:
    rng = side.generator(model, baseline, task, metric)
    if over_seeds := compare_seeds({task: both}, metric, rng, side.resamples, side.level):
        return _of_seeds(over_seeds)
    values = [one.of(metric, ids, one.seeds[:1]) for one in both]
    if metric == "correct":
        own = statistics.compare(values[0][0] > 0, values[1][0] > 0, rng, side.resamples, side.level)
        detectable = max(own.detectable, 1 / len(ids))
        return _Compared(estimate_of(own.difference, own.low, own.high, len(ids)), own.p_value, detectable, len(ids), 1)
    columns = [seeds.columns_of(one)[0] for one in values]
    figure = seeds.figures_of(values[0], statistic_of(metric))
    paired = statistics.paired_bootstrap(columns[0], columns[1], figure, rng, side.resamples, side.level)
    return _Compared(estimate_of(paired.value, paired.low, paired.high, len(ids)), None, None, len(ids), 1)


def _of_seeds(found: OverSeeds) -> _Compared:
    told, num = found.told, found.num_questions
    return _Compared(estimate_of(told.difference, told.low, told.high, num), told.p_value, None, num, told.num_seeds)


def _average(model: str, baseline: str, tasks: Mapping[str, tuple[Answers, Answers]], side: Side) -> _Compared:
    """The difference of the means over the tasks, all of which both models have answered."""
    mine = {task: tasks[task] for task in side.averaged}
    rng = side.generator(model, baseline, "averages")
    if over_seeds := compare_seeds(mine, "correct", rng, side.resamples, side.level):
        return _of_seeds(over_seeds)
    ids = {task: sorted(set(one.ids) & set(other.ids)) for task, (one, other) in mine.items()}
    num = sum(map(len, ids.values()))
    values = [
        {task: both[i].of("correct", ids[task], both[i].seeds[:1]) for task, both in mine.items()} for i in (0, 1)
    ]
    right = [{task: one[0] > 0 for task, one in of.items()} for of in values]
    macro = statistics.compare_averages(right[0], right[1], rng, side.resamples, side.level)["macro"]
    return _Compared(estimate_of(macro.value, macro.low, macro.high, num), None, None, num, 1)


def estimate_of(value: float, low: float | None, high: float | None, num_questions: int) -> Estimate:
    """An estimate without bounds if there are too few questions."""
    return Estimate(value) if num_questions < MIN_EXAMPLES else Estimate(value, low, high)
