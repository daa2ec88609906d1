"""Judges a model's answer to a question; the verdicts are in the form in which they are stored."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from s2l_ray.errors import DataError
from s2l_ray.evaluation.answers import (
    expressions,
    latex,
    mathematics,
    measures,
    numbers,
    numerals,
    options,
    published,
    rules,
)
from s2l_ray.evaluation.answers.extract import Found, How, find_in_completion, find_in_output, last_sentence
from s2l_ray.evaluation.answers.mathematics import Compare
from s2l_ray.evaluation.answers.numbers import Number
from s2l_ray.evaluation.answers.rules import Judged
from s2l_ray.evaluation.answers.symbolic import Result

RULES_VERSION = 6
"""Increase this with every change that alters a verdict: stored scores of an older version are then recomputed."""

Rule = Literal[
    "number", "rounded_number", "one_of_several", "numglue", "mathematics", "math", "choice", "words", "exact",
    "verbatim",
]  # fmt: skip
RULES: tuple[str, ...] = get_args(Rule)
Reason = Literal["right", "wrong_value", "no_answer", "truncated", "program_failed", "unreadable", "timeout"]
Form = Literal["cot", "output"]
"""A chain of thought, or what a program printed."""

_CODE = re.compile(r"[A-Za-z_]\(\s*['\"]")
"""A function call in Python, which is never evaluated: no number in it is the answer."""
_REASONS: dict[str, Reason] = {
    "right": "right",
    "wrong": "wrong_value",
    "unreadable": "unreadable",
    "none": "no_answer",
    "timeout": "timeout",
}


@dataclass(frozen=True)
class Grade:
    correct: bool
    """The verdict by this project's rules, which is the headline figure."""
    correct_published: bool | None
    """The verdict by the published harness's rule, bugs included; None for tasks that it does not have."""
    how: How
    """Where the answer was found."""
    extracted: str
    reason: Reason
    first: bool | None = None
    """Whether the first of several numbers is the gold answer, if the rule accepts several."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


class UnreadableGold(DataError):
    """The rule cannot parse a gold answer."""


def grade(
    rule: Rule,
    gold: str,
    text: str,
    compare: Compare,
    *,
    form: Form = "cot",
    question: str = "",
    task: str = "",
    truncated: bool = False,
) -> Grade:
    """The verdicts on one completion.

    Args:
        text: the completion, or what its program printed.
        compare: called if only a computer algebra system can decide (rule `math`).
        question: searched for the options it lists.
        task: the task's name in the published harness, for its verdict.
        truncated: whether the completion was cut off at the token limit.

    Raises:
        UnreadableGold: the rule cannot parse the gold answer.
    """
    if rule == "verbatim":
        return _verbatim(gold, text, truncated)
    several = rule == "one_of_several" or (rule == "mathematics" and re.search(r"[\[ ]", gold.strip()) is not None)
    found = find_in_output(text) if form == "output" else find_in_completion(text, several)
    judged = judge(rule, found, gold, question, compare)
    reason = _REASONS[judged.outcome]
    if truncated and reason != "right":
        reason = "truncated"
    by_harness = published.is_right(task, text, gold, form) if task in published.TASKS else None
    return Grade(judged.outcome == "right", by_harness, found.how, judged.extracted[:500], reason, judged.first)


def grade_program(
    rule: Rule, gold: str, result: Result | None, compare: Compare, *, question: str = "", task: str = ""
) -> Grade:
    """The verdicts on a program, judged by its result.

    Args:
        result: outcome `ok` and what was printed, or another outcome; None if the completion contained no program.
    """
    if result is None or result.outcome != "ok":
        first = False if rule == "one_of_several" else None
        return Grade(False, False if task in published.TASKS else None, "none", "", "program_failed", first)
    return grade(rule, gold, result.stdout, compare, form="output", question=question, task=task)


def falls_back(grade_of_program: Grade) -> bool:
    """Whether a hybrid evaluation falls back to a chain of thought: the program failed or printed no answer."""
    return grade_of_program.how == "none" or grade_of_program.reason == "program_failed"


def program_answers(result: Result | None) -> bool:
    """Whether the program gave an answer, decided without gold answer or rule, on which generation must not depend."""
    return result is not None and result.outcome == "ok" and find_in_output(result.stdout).how != "none"


def judge(rule: Rule, found: Found, gold: str, question: str, compare: Compare) -> Judged:
    """The verdict on an answer in the first reading of its numbers that is right, otherwise in the most likely one."""
    if found.how in ("box", "marker") and _CODE.search(found.text):
        return Judged("unreadable", found.text)
    verdicts = []
    for text in _readings(rule, found, gold, question):
        verdicts.append(_judge(rule, Found(found.how, text), gold, question, compare))
        if verdicts[-1].outcome in ("right", "timeout"):  # another reading would time out too
            return verdicts[-1]
    return verdicts[0]


def _readings(rule: Rule, found: Found, gold: str, question: str) -> Iterable[str]:
    has_words = (rule == "numglue" and not re.search(r"[0-9]", gold)) or (rule == "math" and latex.words_of(gold))
    if has_words or rule in ("choice", "words", "exact"):
        return (found.text,)
    asked: numerals.Asked = "one of several" if rule == "one_of_several" else "one"
    if rule == "math" or (rule == "mathematics" and re.search(r"[\[ ]", gold)):
        asked = "all"
    texts = [found.text]
    if asked == "one" or rule == "math":
        texts = measures.forms(last_sentence(found.text) if found.how == "unmarked" else found.text.rpartition("\n")[2])
        texts = texts if len(texts) > 1 else [found.text]
    context, is_output = f"{question}\n{gold}", found.how == "output"
    return [reading for text in texts for reading in numerals.readings(text, context, is_output, asked)]


def _judge(rule: Rule, found: Found, gold: str, question: str, compare: Compare) -> Judged:
    if rule == "math":
        return mathematics.judge(found, gold, compare)
    if rule == "choice":
        return options.choice(found, gold, question)
    if rule == "words":
        return options.word(found, gold)
    if rule == "exact":
        return _exact(found, gold)
    if rule == "numglue" and _is_option(gold, question):
        return options.choice(found, gold, question)
    if rule == "numglue" and re.search(r"[A-Za-z]", gold):
        return options.word(found, gold)
    if rule == "mathematics":
        return _mathematics(found, gold, question)
    number = _number(gold)
    if rule == "one_of_several":
        return rules.one_of_several(found, number, rules.rounded, question)
    return rules.one_number(found, number, rules.exact if rule == "number" else rules.rounded)


def _verbatim(gold: str, text: str, truncated: bool) -> Grade:
    """Compare the whole completion, which the model must have ended itself: greedy decoding reproduces it exactly if
    every response token is the model's first choice."""
    right = text == gold and not truncated
    reason: Reason = "right" if right else "truncated" if truncated else "wrong_value" if text else "no_answer"
    return Grade(right, None, "unmarked" if text else "none", text[:500], reason)


def _exact(found: Found, gold: str) -> Judged:
    """The same text, ignoring spaces."""
    if found.how == "none":
        return Judged("none")
    text = " ".join(found.text.split())
    return Judged("right" if text == " ".join(gold.split()) else "wrong", text)


def _is_option(gold: str, question: str) -> bool:
    return re.fullmatch(r"[A-H]", gold.strip()) is not None


def _mathematics(found: Found, gold: str, question: str) -> Judged:
    if gold.startswith("["):
        return rules.number_set(found, [_number(part.strip()) for part in gold.strip("[] ").split(",")])
    if re.search(r"[A-Za-z]", gold):
        return rules.term(found, gold)
    if " " in gold.strip():
        return rules.number_sequence(found, [_number(part) for part in gold.split()])
    return options.option_or_number(found, _number(gold), question, rules.exact)


def _number(gold: str) -> Number:
    number = numbers.whole(numbers.plain(numerals.in_digits(gold)))
    if number is None:
        raise UnreadableGold(f"{gold[:80]!r} is not a number")
    return number


def check_gold(rule: Rule, gold: str, question: str = "") -> None:
    """Raises UnreadableGold if the rule cannot compare anything with a gold answer."""
    if not gold.strip():
        raise UnreadableGold("the gold is empty")
    if rule == "choice" and re.fullmatch(r"[A-Ha-h]", gold.strip()) is None:
        raise UnreadableGold(f"{gold[:80]!r} is not the letter of an option")
    if rule == "math" and (latex.words_of(gold) is None and not latex.tidy(gold)):
        raise UnreadableGold(f"{gold[:80]!r} contains only layout commands")
    if rule == "mathematics" and re.search(r"[A-Za-z]", gold) and not gold.startswith("["):
        try:
            expressions.parse(gold, printed=True)
        except expressions.Unreadable as error:
            raise UnreadableGold(f"{gold[:80]!r}: {error}") from error
    elif rule in ("number", "rounded_number", "one_of_several", "numglue", "mathematics"):
        judge(rule, Found("box", "0"), gold, question, lambda *_: "unreadable")
