"""Results of models' answers to test questions: metrics with intervals, paired differences, groups and shares."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.config.evaluation import BASE, ConfidenceConfig
from s2l_ray.evaluation import seeds, statistics
from s2l_ray.evaluation.metrics import ANSWER_FIGURES, figure_of_answers
from s2l_ray.evaluation.tasks import MATHS
from s2l_ray.reporting.costs import choosing_by_selector
from s2l_ray.reporting.facts_tasks import (
    AnswerShares,
    GroupScore,
    Judged,
    JudgedModel,
    TaskFacts,
    TaskMetric,
    TaskScore,
)
from s2l_ray.reporting.facts_worth import Budgets
from s2l_ray.reporting.intervals import Estimate
from s2l_ray.reporting.judged_budgets import budgets_of_answers
from s2l_ray.reporting.judged_pairs import Side, differences_of, estimate_of
from s2l_ray.text.display import printable
from s2l_ray.text.order import by_numbers
from s2l_ray.workflow.answers import COMPARED, Answers, read_answers, statistic_of

MAX_MODELS, MAX_TASKS = 10, 12
_MAX_GROUPS = 12
"""Maximum number of groups shown per column, the largest first."""
_HEADLINES = ("correct", "rougeL", "bleu")


def gather_judged(run: Run, main: str | None, names: Mapping[str, str]) -> Judged | None:
    """The results; None if no model was evaluated on test questions.

    Args:
        main: the report's main subset.
        names: label → name for readers.

    Raises:
        DamagedFile, MissingFile: an artifact is not what was written.
    """
    every = read_answers(run)
    if not every:
        return None
    models, tasks, notes = _kept(run, every, main)
    known = {(one.task, one.model): one for one in every}
    answers = {key: known[key] for key in itertools.product(tasks, models) if key in known}
    by_model = _by_model(answers.values())
    sides = {model: by_model[model] for model in models}
    side = _side(run, _averaged(sides))
    scores = [score for one in answers.values() for score in _scores(one, side)]
    scores += [score for model, mine in sides.items() for score in _average(model, mine, side)]
    scores += _yardsticks(answers.values())
    baselines = {model: _baselines(run, model, models) for model in models}
    differences, refused = differences_of(sides, baselines, side)
    groups, smaller = _groups(answers.values())
    measured = {name for one in answers.values() for name in one.values}
    metrics = [name for name in [*ANSWER_FIGURES, *sorted(measured - ANSWER_FIGURES.keys())] if name in measured]
    return Judged(
        side.level, [_metric(name) for name in metrics],
        [_task(next(one for one in answers.values() if one.task == task)) for task in tasks],
        [_model(run, model, names, list(sides[model].values())) for model in models],
        scores, differences, groups, smaller, [_shares(one) for one in answers.values()], side.averaged,
        budgets_of_answers(run, _by_model(one for one in every if one.task in tasks), side),
        _num_seeds(run, answers.values()), [*notes, *refused],
    )  # fmt: skip


def budgets_by_answers(run: Run, report: Mapping[str, Any]) -> Budgets | None:
    """The curve of a sweep whose trials were judged by answers to a task, with intervals; None for a metric that has no
    curve.

    Args:
        report: the sweep's report.
    """
    figure = figure_of_answers(report["metric"])
    swept = load_run(run.storage)  # including its trials' artifacts
    asked = [one for one in read_answers(swept) if figure is not None and one.task == figure[0]]
    for budgets in budgets_of_answers(swept, _by_model(asked), _side(swept, [])):
        if figure is not None and budgets.metric.key == figure[1]:
            whole = float(report["cost"]["selection"]["flops"])
            choosing = choosing_by_selector(swept, {p.selector for p in budgets.points})
            return replace(budgets, selection_flops=whole, choosing=choosing)
    return None


def _side(run: Run, averaged: list[str]) -> Side:
    confidence = run.config.evaluation.confidence if run.config.evaluation else ConfidenceConfig()
    return Side(run.config.seed, confidence.resamples, confidence.level, averaged)


def _by_model(every: Iterable[Answers]) -> dict[str, dict[str, Answers]]:
    """Model → task → answers."""
    found: dict[str, dict[str, Answers]] = {}
    for one in every:
        found.setdefault(one.model, {})[one.task] = one
    return found


def _num_seeds(run: Run, every: Iterable[Answers]) -> int:
    """The smallest number of seeds among the models trained here."""
    return min((len(one.seeds) for one in every if one.model in run.targets), default=1)


def _kept(run: Run, every: Sequence[Answers], main: str | None) -> tuple[list[str], list[str], list[str]]:
    """Choose what to show → (models, tasks, notes on what is left out). The model before training, the full data, the
    main subset and subsets of its budget come first."""
    labels = list(dict.fromkeys(one.model for one in every))
    budget = run.subsets[main].manifest.extra.get("budget") if main in run.subsets and main else None
    same = [n for n in labels if n in run.subsets and run.subsets[n].manifest.extra.get("budget") == budget]
    order = [n for n in [BASE, FULL, *([main] if main else []), *same, *run.targets] if n in labels]
    models = list(dict.fromkeys(order + labels))
    tasks = list(dict.fromkeys(one.task for one in every))
    tasks = [task for task in MATHS if task in tasks] + [task for task in tasks if task not in MATHS]
    asked, some = {(one.model, one.task) for one in every}, tasks[:MAX_TASKS]
    kept = [model for model in models if any((model, task) in asked for task in some)][:MAX_MODELS]
    some = [task for task in some if any((model, task) in asked for model in kept)]
    notes = [
        f"{len(shown)} of {len(found)} {what} are shown; evaluation/report.md in the run’s folder has the others"
        for what, shown, found in (("models", kept, models), ("tasks", some, tasks)) if len(shown) < len(found)
    ]  # fmt: skip
    return kept, some, notes


def _averaged(sides: Mapping[str, Mapping[str, Answers]]) -> list[str]:
    """Tasks with verdicts that all models have answered; only the six maths sets if all of these are among them."""
    judged = [[task for task, one in mine.items() if one.is_judged] for mine in sides.values()]
    common = [task for task in judged[0] if all(task in tasks for tasks in judged)]
    common = list(MATHS) if set(MATHS) <= set(common) else common
    return common if len(common) > 1 else []


def _metric(name: str) -> TaskMetric:
    if name not in ANSWER_FIGURES:  # a user's own metric
        return TaskMetric(printable(name), printable(name.partition("/")[2]), "plain", False)
    label, is_share = ANSWER_FIGURES[name]
    return TaskMetric(name, label, "share" if is_share else "percent", name in COMPARED)


def _task(one: Answers) -> TaskFacts:
    title = printable(str(one.report["task"]["title"] or one.task))
    metric = next((name for name in _HEADLINES if name in one.values), "correct")
    return TaskFacts(one.task, title, metric, len(one.ids), one.made.form, printable(one.way))


def _model(run: Run, label: str, names: Mapping[str, str], mine: Sequence[Answers]) -> JudgedModel:
    name = {BASE: "not fine-tuned", FULL: "full data"}.get(label) or names.get(label, label)
    subset = run.subsets.get(label)
    selector = FULL if label == FULL else label if subset is None else str(subset.manifest.extra["selector"])
    return JudgedModel(label, printable(name), printable(selector), min(len(one.seeds) for one in mine))


def _scores(one: Answers, side: Side) -> list[TaskScore]:
    found = []
    for metric in one.values:
        found.append(_score(one, metric, "", side))
        for part in one.parts if metric in COMPARED else ():
            found.append(_score(one, metric, part, side))
    return found


def _score(one: Answers, metric: str, part: str, side: Side) -> TaskScore:
    values = one.values[metric] if not part else one.values[metric][:, one.parts[part]]
    num, rng = values.shape[1], side.generator(one.model, one.task, metric, part)
    told: Any
    if len(values) > 1:
        told = seeds.average_over_seeds({"": values}, rng, side.resamples, side.level, statistic_of(metric))
        estimate, deviation = estimate_of(told.mean, told.low, told.high, num), told.deviation
    else:
        if metric in ("correct", "correct_published", "first"):
            told = statistics.accuracy(values[0] > 0, side.level)
            estimate = Estimate(told.value, told.low, told.high)  # Wilson's, not too narrow for few questions
        else:
            columns, statistic = seeds.columns_of(values)[0], seeds.figures_of(values, statistic_of(metric))
            told = statistics.bootstrap(columns, statistic, rng, side.resamples, side.level)
            estimate = estimate_of(told.value, told.low, told.high, num)
        deviation = None
    return TaskScore(one.task, printable(metric), one.model, num, estimate, len(values), deviation, part)


def _average(model: str, mine: Mapping[str, Answers], side: Side) -> list[TaskScore]:
    if not side.averaged:
        return []
    common = side.seeds([mine[task] for task in side.averaged])
    values = {task: mine[task].of("correct", mine[task].ids, common) for task in side.averaged}
    num, rng = sum(one.shape[1] for one in values.values()), side.generator(model, "averages")
    if len(common) > 1:
        told = seeds.average_over_seeds(values, rng, side.resamples, side.level)
        estimate, deviation = estimate_of(told.mean, told.low, told.high, num), told.deviation
    else:
        right = {task: one[0] > 0 for task, one in values.items()}
        macro = statistics.averages(right, rng, side.resamples, side.level)["macro"]
        estimate, deviation = estimate_of(macro.value, macro.low, macro.high, num), None
    return [TaskScore("", "correct", model, num, estimate, len(common), deviation)]


def _yardsticks(every: Iterable[Answers]) -> list[TaskScore]:
    """Results of trivial summaries, once per set."""
    found: dict[tuple[str, str, str], TaskScore] = {}
    for one in every:
        for name, figures in one.report.get("yardsticks", {}).items():
            for metric, figure in figures.items():
                num = figure["num_questions"]
                told = estimate_of(figure["value"], figure["low"], figure["high"], num)
                score = TaskScore(one.task, metric, name, num, told, 1, None)
                found.setdefault((one.task, name, metric), score)
    return list(found.values())


def _baselines(run: Run, label: str, labels: Sequence[str]) -> list[str]:
    """A model's baselines: the full data and the random subset of the same size; for the full data, the initial
    model."""
    if label not in run.targets:
        return []
    found = [BASE] if label == FULL or FULL not in labels else [FULL]
    subset = run.subsets.get(label)
    if subset is not None and subset.manifest.extra["selector"] != "random":
        found.append(f"random-{subset.manifest.extra['budget']!r}")
    return [one for one in found if one in labels]


def _groups(every: Iterable[Answers]) -> tuple[list[GroupScore], dict[str, int]]:
    """Accuracies for the run's own seeds by group, for the largest groups of each column that the task is split by."""
    found: list[GroupScore] = []
    smaller: dict[str, int] = {}
    for one in every:
        by_column: dict[str, list[dict[str, Any]]] = {}
        for group in one.report["groups"]:
            by_column.setdefault(group["column"], []).append(group)
        for column, groups in by_column.items():
            kept = sorted(groups, key=lambda group: -group["num_questions"])[:_MAX_GROUPS]
            kept.sort(key=lambda group: by_numbers(str(group["name"])))
            if len(groups) > len(kept):
                smaller[f"{one.task} {printable(column)}"] = len(groups) - len(kept)
            found += [
                GroupScore(
                    one.task, printable(column), printable(str(g["name"])), one.model, g["num_questions"],
                    Estimate(g["value"], g["low"], g["high"]), g["is_small"],
                ) for g in kept
            ]  # fmt: skip
    return found, smaller


def _shares(one: Answers) -> AnswerShares:
    """Shares of outcomes for the run's own seed."""
    shares = one.report["shares"]
    failed = {printable(name): float(share) for name, share in shares.get("program_failed", {}).items()}
    plain = {name: float(shares.get(name, 0.0)) for name in _SHARES}
    return AnswerShares(
        task=one.task, model=one.model, program_failed=failed, num_not_asked=int(one.report["num_not_asked"]), **plain
    )


_SHARES = ("truncated", "no_answer", "unreadable", "timeout", "fell_back", "contaminated", "template")
