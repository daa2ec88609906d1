"""Tasks for evaluating targets: six maths sets, clinical summaries, the built-in corpus's test, and users' own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from s2l_ray.config.custom_task import CustomTaskConfig
from s2l_ray.errors import shown
from s2l_ray.evaluation.errors import EvaluationError

SUMMARY = "summary"
"""The rule for tasks whose answers are texts, measured with BLEU, ROUGE and BERTScore."""

VERBATIM = "verbatim"
"""The rule for tasks in which the whole completion is the answer, letter by letter."""
QUICKSTART = "quickstart"
"""The task with the built-in corpus's own test set, whose responses are the gold answers."""


@dataclass(frozen=True)
class Task:
    """How questions are read and answers compared, and the facts about a set in the published table of datasets."""

    name: str
    rule: str
    question: str = "{question}"
    """Template over the columns."""
    gold: str = "{answer}"
    group_by: tuple[str, ...] = ()
    """Columns by whose values the report breaks down results."""
    max_new_tokens: int = 512
    title: str = ""
    size: int | None = None
    """Number of questions in the published set."""
    level: str = ""
    """What the questions are about, in the words of the published table."""
    domain: str = ""
    """in or out: whether MathInstruct contains training examples from this set."""
    source: str = ""
    form: str | None = None
    """How its questions are answered, whatever the evaluation's form is; None: as the evaluation says."""
    metric: str | None = None
    """The user's own metric, `package.module:function`."""

    @property
    def has_programs(self) -> bool:
        """Whether the task can be answered by a program's output."""
        return self.rule not in (SUMMARY, VERBATIM)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


# Sizes, levels and domains: MAmmoTH (https://arxiv.org/abs/2309.05653), the table of evaluation sets.
BUILT_IN: dict[str, Task] = {
    task.name: task
    for task in (
        Task("gsm8k", "number", title="GSM8K", size=1319, level="early algebra", domain="in",
             source="https://arxiv.org/abs/2110.14168"),
        Task("math", "math", group_by=("topic", "level"), max_new_tokens=1024, title="MATH", size=5000, domain="in",
             level="early, intermediate and other algebra, probability, number theory, calculus, geometry",
             source="https://arxiv.org/abs/2103.03874"),
        Task("numglue", "numglue", group_by=("type",), title="NumGLUE", size=1042, level="early algebra", domain="in",
             source="https://arxiv.org/abs/2204.05660"),
        Task("svamp", "number", title="SVAMP", size=1000, level="early algebra", domain="out",
             source="https://arxiv.org/abs/2103.07191"),
        Task("mathematics", "mathematics", title="Mathematics", size=1000, domain="out",
             level="early and intermediate algebra, number theory, calculus", source="https://arxiv.org/abs/1904.01557"),
        Task("simuleq", "one_of_several", title="SimulEq", size=514, level="intermediate algebra", domain="out",
             source="https://aclanthology.org/N16-1136"),
        Task("clinical", SUMMARY,
             question="Summarise the findings into an impression.\n\nFindings: {findings}\n\nImpression:",
             gold="{impression}", group_by=("source",), max_new_tokens=192, title="Clinical summaries",
             level="radiology reports", source="https://aclanthology.org/2021.bionlp-1.8"),
        Task(QUICKSTART, VERBATIM, question="{instruction}", gold="{output}", group_by=("source", "skill"),
             max_new_tokens=32, title="Quickstart", size=1350, domain="in", level="letters, numbers and dates"),
    )
}  # fmt: skip
MATHS = ("gsm8k", "math", "numglue", "svamp", "mathematics", "simuleq")
"""The six sets whose average is reported."""


def task_of(name: str, custom: Mapping[str, CustomTaskConfig]) -> Task:
    """The task with this name.

    Raises:
        EvaluationError: it does not exist, or the user's own task has the name of a built-in one.
    """
    if name in custom and name in BUILT_IN:
        raise EvaluationError(
            f"evaluation.custom.{name} has the name of a built-in task, so its results would be mistaken for that "
            "task's; rename it"
        )
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name not in custom:
        known = ", ".join([*BUILT_IN, *custom])
        raise EvaluationError(f"{shown(name)} is not a task; use {known}, or a name in evaluation.custom")
    own = custom[name]
    return Task(
        name, own.rule, own.question, own.gold, tuple(own.group_by), own.max_new_tokens, title=name, form=own.form,
        metric=own.metric,
    )  # fmt: skip


def tasks_of(names: Iterable[str], custom: Mapping[str, CustomTaskConfig]) -> list[Task]:
    """The tasks with these names; `custom` stands for all of the user's own.

    Raises:
        EvaluationError: a name is unknown, or given twice.
    """
    expanded: list[str] = []
    for name in names:
        if name == "custom" and not custom:
            raise EvaluationError(
                "evaluation.tasks includes `custom`, but evaluation.custom is empty; add a task there, or remove it"
            )
        expanded += custom if name == "custom" else [name]
    repeated = {name for name in expanded if expanded.count(name) > 1}
    if repeated:
        raise EvaluationError(f"tasks list {', '.join(sorted(repeated))} twice, but they would count once; remove one")
    return [task_of(name, custom) for name in expanded]
