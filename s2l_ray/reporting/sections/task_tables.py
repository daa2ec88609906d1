"""Tables of answers to test questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2l_ray.reporting.facts_tasks import GroupScore, Judged, TaskDifference, TaskMetric
from s2l_ray.reporting.intervals import Estimate
from s2l_ray.reporting.numbers import task_distance, task_figure, task_signed
from s2l_ray.reporting.parts import Table

YARDSTICKS = {"constant": "constant summary", "first_sentence": "first sentence"}
"""Trivial summaries, by their names in reports."""
_FORMS = {"cot": "chain of thought", "pot": "program", "hybrid": "program, else chain of thought"}


def titles_of(judged: Judged) -> dict[str, str]:
    """Task → title."""
    return {task.name: task.title for task in judged.tasks}


def level_of(judged: Judged) -> str:
    """`95 %`"""
    return f"{judged.level * 100:.4g}\u00a0%"


def _interval(told: Estimate, unit: str) -> str:
    if told.low is None or told.high is None:
        return ""
    return f"{task_figure(told.low, unit)} to {task_figure(told.high, unit)}"


def scores_table(judged: Judged, metric: TaskMetric) -> Table:
    """Models and tasks by one metric, with related metrics: the published rule, ROUGE-1 and -2."""
    names = {m.label: m.name for m in judged.models} | YARDSTICKS
    titles, forms = titles_of(judged), {t.name: _FORMS[t.form] for t in judged.tasks}
    beside = [m for m in judged.metrics if not m.is_compared and _belongs(m, metric)]
    several = any(s.num_seeds > 1 for s in judged.scores)
    found = {(s.metric, s.task, s.model): s for s in judged.scores if not s.part}
    rows = []
    for s in (s for s in found.values() if s.metric == metric.key):
        more = [found.get((m.key, s.task, s.model)) for m in beside]
        rows.append([
            titles.get(s.task, "mean"), names[s.model], forms.get(s.task, ""), f"{s.num_questions:,}",
            task_figure(s.estimate.value, metric.unit), _interval(s.estimate, metric.unit),
            *([f"{s.num_seeds}", "" if s.deviation is None else f"± {task_distance(s.deviation, metric.unit)}"]
              if several else []),
            *("" if one is None else task_figure(one.estimate.value, m.unit) for one, m in
              zip(more, beside, strict=True)),
        ])  # fmt: skip
    headings = ["task", "model", "asked for", "questions", metric.label, f"{level_of(judged)} interval"]
    headings += [*(["seeds", "standard deviation over seeds"] if several else []), *(m.label for m in beside)]
    return Table(headings, rows, 3)


def _belongs(metric: TaskMetric, to: TaskMetric) -> bool:
    if metric.key.startswith("own/"):
        return to.key in ("correct", "rougeL")
    return (to.key == "correct") == (metric.unit == "share") and to.key in ("correct", "rougeL")


def differences_table(found: Sequence[TaskDifference], judged: Judged, metrics: Mapping[str, TaskMetric]) -> Table:
    names, titles = {m.label: m.name for m in judged.models}, titles_of(judged)
    rows = []
    for d in found:
        unit, told = metrics[d.metric].unit, d.estimate
        between = "too few questions" if told.low is None or told.high is None else (
            f"{task_signed(told.low, unit)} to {task_signed(told.high, unit)}")  # fmt: skip
        rows.append([
            titles.get(d.task, "mean"), names[d.model], names[d.baseline], metrics[d.metric].label,
            f"{d.num_questions:,}", task_signed(told.value, unit), between,
            "" if d.p_value is None else f"{d.p_value:.2g}", d.verdict,
        ])  # fmt: skip
    headings = ["task", "model", "against", "figure", "questions", "difference", f"{level_of(judged)} interval",
                "p (Holm)", "verdict"]  # fmt: skip
    return Table(headings, rows, 4)


def overlap_table(judged: Judged, metrics: Mapping[str, TaskMetric]) -> Table:
    """Results on questions that are in the corpus and on the others."""
    names, titles = {m.label: m.name for m in judged.models}, titles_of(judged)
    called = {"clean": "not in the corpus", "contaminated": "in the corpus"}
    rows = [
        [titles[s.task], names[s.model], metrics[s.metric].label, called[s.part], f"{s.num_questions:,}",
         task_figure(s.estimate.value, metrics[s.metric].unit), _interval(s.estimate, metrics[s.metric].unit)]
        for s in judged.scores if s.part in called
    ]  # fmt: skip
    return Table(["task", "model", "figure", "questions that are", "questions", "value",
                  f"{level_of(judged)} interval"], rows, 4)  # fmt: skip


def groups_table(of: Sequence[GroupScore], judged: Judged) -> Table:
    names = {m.label: m.name for m in judged.models}
    rows = [
        [g.value, names[g.model], f"{g.num_questions:,}{' (few)' if g.is_small else ''}",
         task_figure(g.estimate.value, "share"), _interval(g.estimate, "share")] for g in of
    ]  # fmt: skip
    column = of[0].column if of else ""
    return Table([column, "model", "questions", "accuracy", f"{level_of(judged)} interval"], rows, 2)


def shares_table(judged: Judged) -> Table:
    """Shares of all questions; empty columns are left out."""
    names, titles = {m.label: m.name for m in judged.models}, titles_of(judged)
    outcomes = sorted({name for s in judged.shares for name in s.program_failed})
    headings = ["task", "model", "truncated", "no answer", "unreadable", "too slow to compare",
                *(f"program: {name.replace('_', ' ')}" for name in outcomes), "fell back to a chain of thought",
                "in the corpus", "in the corpus except for numbers", "not asked"]  # fmt: skip
    rows = []
    for s in judged.shares:
        values = [s.truncated, s.no_answer, s.unreadable, s.timeout, *(s.program_failed.get(n, 0.0) for n in outcomes),
                  s.fell_back, s.contaminated, s.template]  # fmt: skip
        rows.append(
            [titles[s.task], names[s.model], *(task_figure(v, "share") for v in values), f"{s.num_not_asked:,}"]
        )
    kept = [i for i in range(len(headings)) if i < 6 or any(row[i] not in ("0", "0.0\u00a0%") for row in rows)]
    return Table([headings[i] for i in kept], [[row[i] for i in kept] for row in rows], 2)
