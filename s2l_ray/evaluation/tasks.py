"""The tasks that a target can be judged by: six maths sets, clinical summaries, and whatever the user describes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from s2l_ray.config.custom_task import CustomTaskConfig
from s2l_ray.errors import shown
from s2l_ray.evaluation.errors import EvaluationError

SUMMARY = "summary"
"""The rule of tasks whose answers are texts, measured by BLEU, ROUGE and BERTScore."""

VERBATIM = "verbatim"
"""The rule of tasks whose completion is the answer, letter by letter."""
QUICKSTART = "quickstart"
"""The built-in corpus's own test: its responses are what is asked for."""


@dataclass(frozen=True)
class Task:
    """How questions are read and answers compared, and what the published table of datasets says of a set."""

    name: str
    rule: str
    question: str = "{question}"
    """Template over the columns."""
    gold: str = "{answer}"
    group_by: tuple[str, ...] = ()
    """Columns by whose values the report splits its figures."""
    max_new_tokens: int = 512
    title: str = ""
    size: int | None = None
    """Questions in the published set."""
    level: str = ""
    """What the questions ask for, in the words of the published table."""
    domain: str = ""
    """in or out: whether MathInstruct has training examples of the set's own."""
    source: str = ""
    form: str | None = None
    """How its questions are answered, whatever the evaluation's form is; None: as the evaluation says."""
    metric: str | None = None
    """A function of the user's, `package.module:function`."""

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
    """The task of this name.

    Raises:
        EvaluationError: there is none, or the user's own has the name of a built-in one.
    """
    if name in custom and name in BUILT_IN:
        raise EvaluationError(
            f"evaluation.custom.{name} has the name of a built-in task, so its figures would be taken for that one's; "
            "rename it"
        )
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name not in custom:
        known = ", ".join([*BUILT_IN, *custom])
        raise EvaluationError(f"{shown(name)} is not a task; known are {known}, and what evaluation.custom describes")
    own = custom[name]
    return Task(
        name, own.rule, own.question, own.gold, tuple(own.group_by), own.max_new_tokens, title=name, form=own.form,
        metric=own.metric,
    )  # fmt: skip


def tasks_of(names: Iterable[str], custom: Mapping[str, CustomTaskConfig]) -> list[Task]:
    """The tasks of these names, `custom` for all of the user's own.

    Raises:
        EvaluationError: a name is unknown, or given twice.
    """
    expanded: list[str] = []
    for name in names:
        if name == "custom" and not custom:
            raise EvaluationError(
                "tasks name `custom`, and evaluation.custom describes none; describe one, or leave it out"
            )
        expanded += custom if name == "custom" else [name]
    repeated = {name for name in expanded if expanded.count(name) > 1}
    if repeated:
        raise EvaluationError(f"tasks list {', '.join(sorted(repeated))} twice, which would count once; remove one")
    return [task_of(name, custom) for name in expanded]
