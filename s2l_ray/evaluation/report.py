"""Computes metrics with their uncertainty from verdicts, as plain data and as a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from s2l_ray.evaluation import statistics, summaries
from s2l_ray.evaluation.statistics import Estimate
from s2l_ray.text.order import by_numbers

Figures = dict[str, dict[str, Any]]


def plain(estimate: Estimate) -> dict[str, Any]:
    return estimate._asdict()


def accuracy_report(rows: Mapping[str, Sequence[Any]], columns: Sequence[str], level: float) -> dict[str, Any]:
    """The report on a task with verdicts.

    Args:
        rows: columns of the answers: correct, correct_published, first, reason, outcome, fell_back, exact, ngram,
            template, groups.
    """
    right = np.array(rows["correct"], dtype=bool)
    contaminated = np.array(rows["contaminated"], dtype=bool)
    figures: Figures = {"correct": plain(statistics.accuracy(right, level))}
    for name in ("correct_published", "first"):
        if all(value is not None for value in rows[name]):
            figures[name] = plain(statistics.accuracy(np.array(rows[name], dtype=bool), level))
    if contaminated.any() and not contaminated.all():
        figures["correct_clean"] = plain(statistics.accuracy(right[~contaminated], level))
        figures["correct_contaminated"] = plain(statistics.accuracy(right[contaminated], level))
    shares = statistics.shares_of(rows["reason"], rows["outcome"], rows["fell_back"], rows["contaminated"])
    return {
        "figures": figures,
        "groups": _groups(rows["groups"], columns, lambda mine: statistics.accuracy(right[mine], level)),
        "shares": {**asdict(shares), "template": float(np.mean(np.array(rows["template"], dtype=float)))},
        "reasons": statistics.shares(rows["reason"], sorted(set(rows["reason"]))),
    }


def _groups(
    groups: Sequence[Mapping[str, str]], columns: Sequence[str], figure: Callable[[np.ndarray], Estimate]
) -> list[dict[str, Any]]:
    """A metric for each value of each column; questions without the column belong to none of its groups."""
    out = []
    for column in columns:
        values = np.array([group.get(column) for group in groups], dtype=object)
        for name in sorted({str(value) for value in values if value is not None}, key=by_numbers):
            estimate = figure(values == name)
            small = estimate.num_questions < statistics.SMALL_GROUP
            out.append({"column": column, "name": name, **plain(estimate), "is_small": small})
    return out


def summary_report(
    measured: summaries.Measured,
    rows: Mapping[str, Sequence[Any]],
    task: str,
    seed: int,
    resamples: int,
    level: float,
    bert_score: summaries.BertScore | None = None,
) -> dict[str, Any]:
    """The report on a task with summaries: their metrics and those of trivial summaries, both split by normality."""

    def figures(of: summaries.Measured) -> Figures:
        made = summaries.figures(of, seed, task, resamples, level)
        return {name: plain(estimate) for name, estimate in made.items()}

    splits = {
        name: figures(measured.of(mine))
        for name, mine in summaries.split_by_normality(rows["gold"]).items()
        if name != "all" and mine.any()
    }
    contaminated = np.array(rows["contaminated"], dtype=bool)
    if contaminated.any() and not contaminated.all():
        splits |= {"clean": figures(measured.of(~contaminated)), "contaminated": figures(measured.of(contaminated))}
    yardsticks = {
        name: figures(summaries.measure(texts, rows["gold"], bert_score))
        for name, texts in summaries.yardsticks(rows["findings"]).items()
    }
    return {
        "figures": figures(measured),
        "splits": splits,
        "yardsticks": yardsticks,
        "groups": [],
        "shares": {
            "truncated": float(np.mean(np.array(rows["truncated"], dtype=float))),
            "no_answer": measured.num_empty / len(rows["gold"]),
            "contaminated": float(contaminated.mean()),
            "template": float(np.mean(np.array(rows["template"], dtype=float))),
        },
        "reasons": {},
    }


def own_figures(
    values: Mapping[str, Any], num_questions: int, task: str, seed: int, resamples: int, level: float
) -> tuple[Figures, dict[str, np.ndarray]]:
    """The results of a user's metric, and those that it returned per question.

    Raises:
        ValueError: a result is neither a number nor one number per question; the message says which.
    """
    figures: Figures = {}
    per_question: dict[str, np.ndarray] = {}
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"it returned {type(values).__name__}, not a mapping of names to numbers")
    for name, value in values.items():
        try:
            numbers = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{name!r} is neither a number nor a list of them") from None
        if not np.isfinite(numbers).all() or numbers.shape not in ((), (num_questions,)):
            raise ValueError(
                f"{name!r} has shape {numbers.shape} or holds a value that is not finite; return one finite number, or "
                f"one for each of {num_questions:,} questions"
            )
        if numbers.shape == ():
            figures[str(name)] = {"value": float(numbers), "low": None, "high": None, "num_questions": num_questions}
            continue
        per_question[str(name)] = numbers
        rng = statistics.generator(seed, task, "own", str(name))
        figures[str(name)] = plain(statistics.mean(numbers, rng, resamples, level))
    return figures, per_question


def report_markdown(report: Mapping[str, Any]) -> str:
    """The Markdown page for one task and model."""
    lines = [f"# {report['task']['title']}: {report['model']}", ""]
    lines += ["| figure | value | interval | questions |", "|---|---|---|---|"]
    lines += [_row(name, figure, unit_of(name, report["unit"])) for name, figure in report["figures"].items()]
    for title, figures in {**report.get("yardsticks", {}), **report.get("splits", {})}.items():
        lines += [_row(f"{title}: {name}", figure, report["unit"]) for name, figure in figures.items()]
    if report["groups"]:
        lines += ["", "| group | value | interval | questions |", "|---|---|---|---|"]
        for group in report["groups"]:
            mark = " (few questions)" if group["is_small"] else ""
            lines.append(_row(f"{group['column']} = {_cell(group['name'])}{mark}", group, report["unit"]))
    lines += ["", "| of all questions | share |", "|---|---|"]
    for name, share in report["shares"].items():
        for outcome, part in share.items() if isinstance(share, dict) else [("", share)]:
            lines.append(f"| {name.replace('_', ' ')}{f': {outcome}' if outcome else ''} | {part:.1%} |")
    lines += ["", *(f"- {_cell(note)}" for note in report["notes"]), ""]
    return "\n".join(lines)


def _row(name: str, figure: Mapping[str, Any], unit: str) -> str:
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    shown = [number_in(unit, value), "" if low is None else f"{number_in(unit, low)} to {number_in(unit, high)}"]
    return f"| {name} | {shown[0]} | {shown[1]} | {figure['num_questions']:,} |"


def unit_of(name: str, unit: str) -> str:
    """The unit of a metric in a report with the given unit; for a user's metric it is unknown, hence `plain`."""
    return "plain" if name.startswith("own/") else unit


def number_in(unit: str, value: float) -> str:
    """Format a number: a share as a percentage, and a number that is in percent or plain as it is."""
    return f"{value:.1%}" if unit == "share" else f"{value:.2f}"


def _cell(text: str) -> str:
    """Escape foreign text for a line of Markdown."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<").replace("`", "\\`")
