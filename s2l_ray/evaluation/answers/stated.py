"""Extracts the mathematics from a completion or a program's output, without the surrounding prose."""

from __future__ import annotations

import re

from s2l_ray.evaluation.answers import latex
from s2l_ray.evaluation.answers.extract import Found
from s2l_ray.evaluation.answers.rules import stated_number, text_of

_PROSE = re.compile(r"(?<![\w.'\"(])(?!(?:oo|pi|inf)\b)[A-Za-z]{2,}(?:[.,]? |:|$)|[A-Za-z]{2,}:|[$°]")
_STATES = re.compile(r"\b(?:is|are|was|were|equals|be)\b|:")
_TUPLE = re.compile(r"[(\[]\s*[-+\\]?[\w√.][^()\[\]\n]{0,100},[^()\[\]\n]{0,100}[)\]](?=[\s.*$]*$)")


def mathematics(found: Found, gold: str) -> str:
    """The answer in LaTeX notation, or in Python's if a program printed it."""
    if found.how == "output":
        return _printed(found.text, gold)
    if found.how == "unmarked":
        return _last_mathematics(found.text)
    text = found.text
    if found.how == "marker":
        text = latex.math_of_clause(latex.subscripted(text))
    return latex.without_words(latex.tidy(text))


def _printed(text: str, gold: str) -> str:
    """The last line, or all lines if brackets extend over them or each contains one of several answers."""
    lines = text.split("\n")
    brackets = latex.bracketed(gold)
    count = len(latex.split(gold if brackets is None else brackets[1]))
    if len(lines) == count > 1 and (brackets is None or not any(re.search(r"[(\[{,]", line) for line in lines)):
        return ", ".join(lines)
    line = lines.pop()
    while lines and sum(map(line.count, ")]}")) > sum(map(line.count, "([{")):
        line = f"{lines.pop()} {line}"
    if "\\" not in line and _PROSE.search(line):
        line = _STATES.split(line)[-1] if "{" not in line else line[line.index("{") :]
        return latex.without_words(latex.tidy(line))
    return latex.tidy(line) if "\\" in line else line


def _last_mathematics(text: str) -> str:
    """The answer in a text without box or marker: the tuple or formula with which it ends, otherwise the last
    number."""
    text = text[-5000:]
    formulas = list(latex.SEGMENT.finditer(text))
    if formulas and not re.search(r"[0-9]", text[formulas[-1].end() :]):
        content = next(group for group in formulas[-1].groups() if group)
        return latex.tidy(content.rpartition("=")[2])
    listed = _TUPLE.search(text)
    if listed:
        return latex.tidy(listed.group())
    run = _last_run(text)
    if re.search(r"[√π^*(]|\bpi\b", run):
        return latex.tidy(run.rpartition("=")[2])
    number = stated_number(Found("unmarked", text))
    return text_of(number) if number else ""


def _last_run(text: str) -> str:
    """The last word with a digit in it, and everything that operators join to it: `3 + 2√5`."""
    words = text[-500:].split()
    while words and not re.search(r"[0-9π]", words[-1]):
        words.pop()
    run = words[-1:]
    while len(words) > 2 and re.fullmatch(r"[-+*/=]", words[-2]):
        operator = words[-2]
        del words[-2:]
        run = [words[-1], operator, *run]
    return " ".join(run).strip(".,;:$")
