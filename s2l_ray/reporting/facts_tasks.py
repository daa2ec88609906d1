"""Facts of a report about models' answers to test questions."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_ray.reporting.facts_worth import Budgets
from s2l_ray.reporting.intervals import Estimate


@dataclass(frozen=True)
class TaskMetric:
    key: str
    """`correct`, `bleu`, `rougeL`, …; `own/…` for a user's own metric."""
    label: str
    unit: str
    """`share` (a fraction), `percent`, or `plain`."""
    is_compared: bool
    """Whether higher is better and models are compared by it."""


@dataclass(frozen=True)
class TaskFacts:
    name: str
    title: str
    metric: str
    """The headline metric."""
    num_questions: int
    """Number of questions that were asked."""
    form: str
    """`cot`, `pot` or `hybrid`."""
    engine: str
    """Engine, precision and device."""


@dataclass(frozen=True)
class JudgedModel:
    label: str
    """A target by what it was trained on, `base`, or `model-…`."""
    name: str
    """Name for readers."""
    selector: str
    """Name of the selector; empty for a model that was not trained here."""
    num_seeds: int


@dataclass(frozen=True)
class TaskScore:
    task: str
    """Name of the task; empty for the mean over the tasks with verdicts."""
    metric: str
    model: str
    """The model's label; for a trivial summary, `constant` or `first_sentence`."""
    num_questions: int
    estimate: Estimate
    num_seeds: int
    deviation: float | None
    """Standard deviation over the seeds; None for a single seed."""
    part: str = ""
    """Subset of the questions: `clean`, `contaminated`, `normal` or `abnormal`; empty: all questions."""


@dataclass(frozen=True)
class TaskDifference:
    task: str
    """Name of the task; empty for the mean over the tasks."""
    metric: str
    model: str
    baseline: str
    num_questions: int
    estimate: Estimate
    """The model's result minus the baseline's."""
    p_value: float | None
    """p-value with Holm's correction over the tasks of this pair; None for summaries with one seed, and for means."""
    detectable: float | None
    """The difference that this many questions detect in four of five such comparisons."""
    num_seeds: int
    verdict: str
    """One of the verdicts in `intervals`."""


@dataclass(frozen=True)
class GroupScore:
    task: str
    column: str
    value: str
    model: str
    num_questions: int
    estimate: Estimate
    is_small: bool
    """Whether there are so few questions that the interval says almost nothing."""


@dataclass(frozen=True)
class AnswerShares:
    """Shares of all questions of a task."""

    task: str
    model: str
    truncated: float
    no_answer: float
    unreadable: float
    timeout: float
    program_failed: dict[str, float]
    """Shares by program outcome."""
    fell_back: float
    contaminated: float
    template: float
    """Share of questions whose only difference from a text in the corpus is in their numbers."""
    num_not_asked: int


@dataclass(frozen=True)
class Judged:
    level: float
    """Confidence level of all intervals."""
    metrics: list[TaskMetric]
    tasks: list[TaskFacts]
    models: list[JudgedModel]
    scores: list[TaskScore]
    differences: list[TaskDifference]
    groups: list[GroupScore]
    smaller_groups: dict[str, int]
    """`task column` → how many of its values are not listed."""
    shares: list[AnswerShares]
    averaged: list[str]
    """Tasks whose mean is given."""
    budgets: list[Budgets]
    """Quality against budget, by metric."""
    num_seeds: int
    """Number of seeds; the smallest over the models."""
    notes: list[str]
    """What is not compared, and why."""
