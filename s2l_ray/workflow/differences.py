"""Compares two evaluated models: which of their differences are significant."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from s2l_ray.artifacts.models import EvaluationArtifact
from s2l_ray.artifacts.results import Evaluation
from s2l_ray.artifacts.run import Run
from s2l_ray.config.evaluation import ConfidenceConfig
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import listed
from s2l_ray.evaluation import statistics
from s2l_ray.evaluation.comparison import Verdicts, compare_models
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.summaries import ROUGE_TYPES, Measured, differences
from s2l_ray.workflow.answers import COMPARED, Answers, compare_seeds, read_answers

_Figures = tuple[list[float], dict[str, float]]
"""A summary's n-gram counts, and its other metrics by name."""


def verdicts_of(evaluation: Evaluation) -> Verdicts:
    """Read the verdicts of a task whose answers are judged right or wrong."""
    table = evaluation.storage.read_table("answers.parquet", ["question_id", "correct"])
    return Verdicts(table["question_id"].to_pylist(), np.array(table["correct"].to_pylist(), dtype=bool))


def compare_evaluations(
    run: Run, config: S2LConfig, models: Sequence[str], across_engines: bool = False
) -> list[dict[str, Any]]:
    """Compare every pair of these models, the earlier one minus the later one.

    Raises:
        EvaluationError: a model was not evaluated, or their text was generated in different ways.
    """
    if not models:
        return []
    confidence = config.evaluation.confidence if config.evaluation else ConfidenceConfig()
    found = run.evaluations
    answers: dict[str, dict[str, Answers]] = {model: {} for model in models}
    check_evaluated(models, {model for model, _ in found})
    for one in read_answers(run, models):
        answers[one.model][one.task] = one
    out = []
    for first, second in itertools.combinations(dict.fromkeys(models), 2):
        both = [_evaluations_of(found, model) for model in (first, second)]
        _refuse_other_engines(first, second, both, across_engines)
        measured = compare_summaries(both[0], both[1], config.seed, confidence)
        judged = [{task: verdicts_of(one) for task, one in side.items() if "correct" in one.figures} for side in both]
        try:
            made = compare_models(judged[0], judged[1], config.seed, confidence.resamples, confidence.level)
        except ValueError as error:
            if not measured:
                raise EvaluationError(
                    f"{first} and {second} cannot be compared: {error}; evaluate both on the same tasks"
                ) from None
            made = {"tasks": {}, "averages": {}}
        over_seeds = _over_seeds(answers[first], answers[second], config.seed, confidence)
        out.append({"first": first, "second": second, **made, "summaries": measured, "over_seeds": over_seeds})
    return out


def _over_seeds(
    first: Mapping[str, Answers], second: Mapping[str, Answers], seed: int, confidence: ConfidenceConfig
) -> dict[str, Any]:
    """Compare the tasks that both models answered with several training seeds, with the same resamples as the report.

    Returns:
        `tasks`: task → metric → the difference, for `correct` with Holm's correction over the tasks; `average`: the
        difference of `correct` averaged over the tasks, if there are at least two.
    """
    tasks = {task: (one, second[task]) for task, one in first.items() if task in second}

    def compared(which: Mapping[str, tuple[Answers, Answers]], metric: str, *names: str) -> dict[str, Any] | None:
        one, other = next(iter(which.values()))
        rng = statistics.generator(seed, "report", one.model, other.model, *names)
        found = compare_seeds(which, metric, rng, confidence.resamples, confidence.level)
        return None if found is None else {**found.told._asdict(), "num_questions": found.num_questions}

    out: dict[str, dict[str, Any]] = {}
    for task, both in tasks.items():
        for metric in COMPARED:
            if all(metric in one.values for one in both) and (made := compared({task: both}, metric, task, metric)):
                out.setdefault(task, {})[metric] = made
    adjusted = statistics.holm({task: one["correct"]["p_value"] for task, one in out.items() if "correct" in one})
    for task, p_value in adjusted.items():
        out[task]["correct"]["p_holm"] = p_value
    judged = {task: tasks[task] for task in adjusted}
    average = compared(judged, "correct", "averages") if len(judged) > 1 else None
    return {"tasks": out, "average": average}


def check_evaluated(models: Sequence[str], known: Collection[str]) -> None:
    """Raises EvaluationError if one of `models` has not been evaluated."""
    if missing := [model for model in models if model not in known]:
        raise EvaluationError(
            f"{', '.join(listed(missing))} has not been evaluated, so nothing can be compared with it (evaluated: "
            f"{', '.join(sorted(known)) or 'none'}); run `s2l evaluate` for it first"
        )


def _evaluations_of(found: Mapping[tuple[str, str], Evaluation], model: str) -> dict[str, Evaluation]:
    """Task → the model's evaluation."""
    return {task: one for (label, task), one in found.items() if label == model}


def compare_summaries(
    first: Mapping[str, Evaluation], second: Mapping[str, Evaluation], seed: int, confidence: ConfidenceConfig
) -> dict[str, dict[str, Any]]:
    """Task → metric → the difference on the summaries that both were asked for, with its paired bootstrap interval."""
    out: dict[str, dict[str, Any]] = {}
    for task in [task for task in first if task in second and "bleu" in first[task].figures]:
        sides = [_measured(one) for one in (first[task], second[task])]
        common = sorted(sides[0].keys() & sides[1].keys())
        if common:
            both = [_stacked([side[one] for one in common], _names_of(sides, common[0])) for side in sides]
            made = differences(both[0], both[1], seed, task, confidence.resamples, confidence.level)
            out[task] = {name: estimate._asdict() for name, estimate in made.items()}
    return out


def _measured(evaluation: Evaluation) -> dict[bytes, _Figures]:
    """Question → the summary's n-gram counts and other metrics."""
    table = evaluation.answers()
    names = [name for name in (*ROUGE_TYPES, "bertscore") if name in table.column_names]
    rows = table.select(["question_id", "bleu_counts", *names]).to_pylist()
    return {row["question_id"]: (row["bleu_counts"], {name: row[name] for name in names}) for row in rows}


def _names_of(
    sides: Sequence[Mapping[bytes, tuple[list[float], dict[str, float]]]], question: bytes
) -> tuple[str, ...]:
    """Names of the metrics that both models have."""
    return tuple(name for name in sides[0][question][1] if name in sides[1][question][1])


def _stacked(rows: Sequence[_Figures], names: tuple[str, ...]) -> Measured:
    figures = np.array([[one[name] for name in names] for _, one in rows], dtype=np.float64)
    return Measured(np.array([counts for counts, _ in rows], dtype=np.float64), figures, names, 0)


def _refuse_other_engines(
    first: str, second: str, both: Sequence[Mapping[str, Evaluation]], across_engines: bool
) -> None:
    """Refuse to compare text generated by different engines, precisions or devices, which differs whatever the
    models."""
    for task in both[0].keys() & both[1].keys():
        made = [EvaluationArtifact.of(side[task]) for side in both]
        ways = [one.way for one in made]
        forms = [one.form for one in made]
        if forms[0] != forms[1]:
            raise EvaluationError(
                f"{first} and {second} answered {task} in different forms ({forms[0]} and {forms[1]}), so they would "
                "differ because of the form; evaluate both in the same form"
            )
        if ways[0] != ways[1] and not across_engines:
            raise EvaluationError(
                f"{first} answered {task} with {ways[0]}, {second} with {ways[1]}, so part of their difference would "
                "be due to that; generate both in the same way, or add --across-engines"
            )
