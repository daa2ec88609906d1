"""Reduces completions and program results to one verdict per question, with what the report needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from s2l_ray.evaluation.answers.grading import Grade, grade, grade_program
from s2l_ray.evaluation.answers.mathematics import Compare
from s2l_ray.evaluation.prompts import Pass
from s2l_ray.evaluation.questions import Question
from s2l_ray.evaluation.tasks import Task

NO_PROGRAM = "no_program"
"""Outcome of a completion without a program."""
READ_GENERATIONS = ["question_id", "pass", "sample", "text", "num_new_tokens", "finish"]
READ_PROGRAMS = ["question_id", "sample", "source", "outcome", "stdout"]
"""Columns on which verdicts depend."""


@dataclass(frozen=True)
class Completion:
    """One completion of a question."""

    kind: Pass
    text: str
    truncated: bool
    num_new_tokens: int


@dataclass(frozen=True)
class Program:
    """The result of the program in a completion."""

    outcome: str
    stdout: str


@dataclass
class Answers:
    """All of a model's completions for one question, by sample."""

    question: Question
    completions: dict[tuple[int, Pass], Completion] = field(default_factory=dict)
    programs: dict[int, Program | None] = field(default_factory=dict)
    """None if the completion contained no program."""

    @property
    def samples(self) -> list[int]:
        return sorted({sample for sample, _ in self.completions})


@dataclass(frozen=True)
class Scored:
    """The verdict on a question."""

    grade: Grade
    form_used: Pass
    text: str
    """The completion that counts."""
    outcome: str | None
    """Outcome of its program; None if no program was asked for."""
    fell_back: bool
    num_new_tokens: int
    """Number of new tokens of all completions."""


def score(task: Task, answers: Answers, compare: Compare) -> Scored:
    """Judge every sample and take the majority answer; in a tie, the one given first."""
    judged = [_score_sample(task, answers, sample, compare) for sample in answers.samples]
    if len(judged) == 1:
        return judged[0]
    votes = Counter(one.grade.extracted for one in judged if one.grade.how != "none")
    if not votes:
        return judged[0]
    winner = max(votes, key=lambda answer: votes[answer])  # of equally many, the first that was counted
    return next(one for one in judged if one.grade.extracted == winner and one.grade.how != "none")


def _score_sample(task: Task, answers: Answers, sample: int, compare: Compare) -> Scored:
    question = answers.question
    pot, cot = (answers.completions.get((sample, kind)) for kind in ("pot", "cot"))
    program = answers.programs.get(sample)
    outcome = None if pot is None else NO_PROGRAM if program is None else program.outcome
    tokens = sum(one.num_new_tokens for one in (pot, cot) if one is not None)
    common: dict[str, Any] = {"question": question.text, "task": task.name}
    if cot is not None:
        verdict = grade(task.rule, question.gold, cot.text, compare, truncated=cot.truncated, **common)  # type: ignore[arg-type]
        return Scored(verdict, "cot", cot.text, outcome, pot is not None, tokens)
    assert pot is not None
    verdict = grade_program(task.rule, question.gold, program, compare, **common)  # type: ignore[arg-type]
    return Scored(verdict, "pot", pot.text, outcome, False, tokens)


def collect(
    questions: Sequence[Question], generations: Sequence[Mapping[str, Any]], programs: Sequence[Mapping[str, Any]]
) -> list[Answers]:
    """Group the artifact's rows into the answers to each question, in the questions' order, without unanswered ones."""
    found = {question.id: Answers(question) for question in questions}
    for row in generations:
        one = Completion(row["pass"], row["text"], row["finish"] == "length", row["num_new_tokens"])
        found[row["question_id"]].completions[row["sample"], row["pass"]] = one
    for row in programs:
        program = None if row["source"] is None else Program(row["outcome"], row["stdout"])
        found[row["question_id"]].programs[row["sample"]] = program
    return [answers for answers in found.values() if answers.completions]
