"""The sets of test questions with their known facts: size, level, type of answer, in or out of domain."""

from __future__ import annotations

from s2l_ray.artifacts.run import Run
from s2l_ray.reporting.data_sets import DOMAINS
from s2l_ray.reporting.facts import DataSet
from s2l_ray.reporting.facts_tasks import Judged
from s2l_ray.text.display import printable

_ANSWERS = {
    "number": "a number", "rounded_number": "a number, to the precision given",
    "one_of_several": "one of at most three numbers", "numglue": "a number, an option or a word",
    "mathematics": "a number, an option, a list or a term", "math": "a number or LaTeX", "choice": "an option",
    "words": "words", "exact": "a text", "verbatim": "the response, letter by letter", "summary": "a summary",
}  # fmt: skip
"""Rule → what an answer is."""


def asked_sets(judged: Judged | None, run: Run) -> list[DataSet]:
    """The tasks that models were evaluated on, as their evaluations describe them."""
    if judged is None:
        return []
    described = {task: one.report["task"] for (_, task), one in run.evaluations.items()}
    found = []
    for task in judged.tasks:
        known = described[task.name]
        answer = _ANSWERS.get(known["rule"], printable(str(known["rule"])))
        level, domain = printable(str(known.get("level") or "")), DOMAINS.get(known.get("domain") or "", "")
        found.append(
            DataSet(task.title, "test questions", task.num_questions, None, level, domain, answer, known.get("size"))
        )
    return found
