"""Test files → questions with ids of their content: batches, parts and comparisons do not depend on the row order."""

from __future__ import annotations

import hashlib
import itertools
import json
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from s2l_ray.config.custom_task import fields_of
from s2l_ray.errors import listed, shown
from s2l_ray.evaluation.answers.grading import UnreadableGold, check_gold
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.tasks import SUMMARY, Task

ID_BYTES = 16
MAX_QUESTIONS = 10_000_000


@dataclass(frozen=True)
class Question:
    id: bytes
    """16 bytes: a hash of task, question and gold; of the second question of the same content, of its count too."""
    task: str
    text: str
    gold: str
    groups: dict[str, str] = field(default_factory=dict)
    """Column → value, of the columns that the report splits by."""
    findings: str | None = None
    """What a summary is made of, where the file has such a column: for the first-sentence yardstick."""


def question_id(task: str, text: str, gold: str, occurrence: int = 0) -> bytes:
    """BLAKE2b-128 of what makes a question. Duplicates count as often as the set has them, so each has its own id."""
    canonical = json.dumps([task, text, gold, occurrence] if occurrence else [task, text, gold], ensure_ascii=False)
    return hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).digest()


def read_questions(task: Task, lines: Iterable[str | bytes], where: str) -> list[Question]:
    """The questions of a file, in its order.

    Args:
        lines: one JSON object each; empty lines are skipped.
        where: the file's name, for messages.

    Raises:
        EvaluationError: a line is not an object, or lacks a column; the rule cannot read a gold; there is no question.
    """
    questions: list[Question] = []
    seen: dict[bytes, int] = {}
    faults: list[str] = []
    for number, row in _rows(lines, where):
        try:
            question = _question(task, row, seen)
            if task.rule != SUMMARY:
                check_gold(task.rule, question.gold, question.text)  # type: ignore[arg-type]
        except UnreadableGold as error:
            faults.append(f"line {number} ({question.id.hex()}): {error}")
        except ValueError as error:
            faults.append(f"line {number}: {error}")
        else:
            questions.append(question)
    if faults:
        raise EvaluationError(
            f"task {task.name}: {len(faults):,} of {len(faults) + len(questions):,} questions in {where} cannot be "
            f"used, so the figures would be those of another set: {'; '.join(listed(faults))}. Fix them, or choose "
            f"another rule than {task.rule}"
        )
    if not questions:
        raise EvaluationError(f"task {task.name}: {where} holds no question; give a file with one JSON object a line")
    return questions


def _rows(lines: Iterable[str | bytes], where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
            row = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"{where}, line {number} is not JSON: {error}; fix it, or remove the line") from None
        if not isinstance(row, dict):
            raise EvaluationError(f"{where}, line {number} holds {shown(row)}, not an object; write {{...}}")
        yield number, row


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _question(task: Task, row: Mapping[str, Any], seen: dict[bytes, int]) -> Question:
    text, gold = fill(task.question, row), fill(task.gold, row)
    first = question_id(task.name, text, gold)
    occurrence = seen.get(first, 0)
    seen[first] = occurrence + 1
    groups = {column: fill("{" + column + "}", row) for column in task.group_by if row.get(column) is not None}
    findings = row.get("findings")
    return Question(
        question_id(task.name, text, gold, occurrence),
        task.name,
        text,
        gold,
        groups,
        findings if isinstance(findings, str) else None,
    )


def fill(template: str, row: Mapping[str, Any]) -> str:
    """A template with the row's texts and numbers in it.

    Raises:
        ValueError: a column is missing, or holds something else.
    """
    for name in fields_of(template):
        if name not in row:
            raise ValueError(f"it has no column {name!r} (it has {', '.join(map(repr, list(row)[:20]))})")
        if not isinstance(row[name], str | int | float) or isinstance(row[name], bool):
            raise ValueError(f"its column {name!r} holds {shown(row[name])}, not text or a number")
    return "".join(
        literal + ("" if name is None else str(row[name])) for literal, name, _, _ in string.Formatter().parse(template)
    )


def first_by_id(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """The questions sorted by id, at most `limit`: the same ones whatever the files' order."""
    ordered = sorted(questions, key=lambda question: question.id)
    return ordered if limit is None else ordered[:limit]


def parts(questions: Sequence[Question], questions_per_part: int) -> list[list[Question]]:
    """Ranges of ids of about this size: units of work that depend on the questions alone."""
    ordered = first_by_id(questions, None)
    count = max(1, -(-len(ordered) // questions_per_part))
    bounds = [len(ordered) * i // count for i in range(count + 1)]
    return [ordered[a:b] for a, b in itertools.pairwise(bounds)]
