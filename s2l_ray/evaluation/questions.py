"""Reads test questions and gives them content-based ids, so that batches and comparisons do not depend on row order."""

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
    """16 bytes: a hash of task, question and gold answer, and for repeated questions of the repetition's number."""
    task: str
    text: str
    gold: str
    groups: dict[str, str] = field(default_factory=dict)
    """Column → value, of the columns that the report splits by."""
    findings: str | None = None
    """The text to summarise, if the file has such a column, for the first-sentence baseline."""


def question_id(task: str, text: str, gold: str, occurrence: int = 0) -> bytes:
    """BLAKE2b-128 of the question's content. Duplicates count as often as they occur, so each has its own id."""
    canonical = json.dumps([task, text, gold, occurrence] if occurrence else [task, text, gold], ensure_ascii=False)
    return hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=ID_BYTES).digest()


def read_questions(task: Task, lines: Iterable[str | bytes], where: str) -> list[Question]:
    """Read the questions of a file, in its order.

    Args:
        lines: one JSON object each; empty lines are skipped.
        where: the file's name, for messages.

    Raises:
        EvaluationError: a line is not an object or lacks a column, the rule cannot parse a gold answer, or there is no
        question.
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
            f"used, so the results would be those of a different set: {'; '.join(listed(faults))}. Fix them, or use a "
            f"rule other than {task.rule}"
        )
    if not questions:
        raise EvaluationError(f"task {task.name}: {where} has no questions; give a file with one JSON object per line")
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
    """Fill a template with the row's texts and numbers.

    Raises:
        ValueError: a column is missing, or holds something else.
    """
    for name in fields_of(template):
        if name not in row:
            raise ValueError(f"there is no column {name!r} (there are {', '.join(map(repr, list(row)[:20]))})")
        if not isinstance(row[name], str | int | float) or isinstance(row[name], bool):
            raise ValueError(f"column {name!r} holds {shown(row[name])}, not text or a number")
    return "".join(
        literal + ("" if name is None else str(row[name])) for literal, name, _, _ in string.Formatter().parse(template)
    )


def first_by_id(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """At most `limit` questions, the first by id, whatever the files' order."""
    ordered = sorted(questions, key=lambda question: question.id)
    return ordered if limit is None else ordered[:limit]


def parts(questions: Sequence[Question], questions_per_part: int) -> list[list[Question]]:
    """Ranges of ids of about this size: units of work that depend only on the questions."""
    ordered = first_by_id(questions, None)
    count = max(1, -(-len(ordered) // questions_per_part))
    bounds = [len(ordered) * i // count for i in range(count + 1)]
    return [ordered[a:b] for a, b in itertools.pairwise(bounds)]
