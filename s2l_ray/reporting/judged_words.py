"""Summarises in sentences what the answers to test questions say about the main subset."""

from __future__ import annotations

from s2l_ray.reporting.facts_tasks import Judged, TaskDifference
from s2l_ray.reporting.numbers import task_signed
from s2l_ray.reporting.sentences import listed, told_apart

_MAX_TASKS = 3
"""Maximum number of tasks named individually; for more tasks, only the mean is given."""
_MAX_LINES = 2


def judged_lines(judged: Judged | None, main: str | None) -> list[str]:
    """A sentence for each baseline of the main subset, or of the first model that has one, naming every metric."""
    if judged is None:
        return []
    label = main if any(d.model == main for d in judged.differences) else None
    label = label or next((d.model for d in judged.differences), None)
    lines = []
    for baseline in dict.fromkeys(d.baseline for d in judged.differences if d.model == label):
        found = [d for d in judged.differences if (d.model, d.baseline) == (label, baseline)]
        named = [d for d in found if d.task]
        mean = [d for d in found if not d.task]
        if mean and len({d.task for d in named}) > _MAX_TASKS:
            named = mean + [d for d in named if d.metric != "correct"]
        if named:
            lines.append(_sentence(judged, named))
    return lines[:_MAX_LINES]


def _sentence(judged: Judged, told: list[TaskDifference]) -> str:
    """`By its answers to test questions, S2L 20 % is better than the full data on “GSM8K” (…)`."""
    names = {m.label: m.name for m in judged.models}
    by_word: dict[str, list[str]] = {}
    for word, task in dict.fromkeys((d.verdict, d.task) for d in told):
        by_word.setdefault(word, []).append(_told(judged, [d for d in told if (d.verdict, d.task) == (word, task)]))
    first = told[0]
    against = f"the {names[first.baseline]}" if first.baseline == "full" else names[first.baseline]
    against = "the model before fine-tuning" if first.baseline == "base" else against
    said = told_apart({word: listed(tasks) for word, tasks in by_word.items()}, against)
    return f"By its answers to test questions, {names[first.model]} {said}."


def _told(judged: Judged, of: list[TaskDifference]) -> str:
    """`on “GSM8K” (accuracy +4.1 points, 95 % interval +1.0 to +7.2)`: one task, every metric."""
    titles = {task.name: task.title for task in judged.tasks}
    where = f"on “{titles[of[0].task]}”" if of[0].task else f"averaged over {len(judged.averaged)} tasks"
    return f"{where} ({'; '.join(_measured(judged, d) for d in of)})"


def _measured(judged: Judged, d: TaskDifference) -> str:
    metric = next(m for m in judged.metrics if m.key == d.metric)
    told, low, high = task_signed(d.estimate.value, metric.unit), d.estimate.low, d.estimate.high
    if low is None or high is None:
        return f"{metric.label} {told}, {d.num_questions} questions are too few"
    ends = (task_signed(bound, metric.unit).removesuffix(_POINTS) for bound in (low, high))
    return f"{metric.label} {told}, {judged.level * 100:.4g}\u00a0% interval {' to '.join(ends)}"


_POINTS = "\u00a0points"
