"""The rule for answers in mathematical notation, as in MATH: words, numbers in a base, assignments, several answers,
tuples and intervals, matrices, and expressions. Our own rules decide if they can parse both sides; otherwise a computer
algebra system is called through `Compare`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

from s2l_ray.errors import DataError
from s2l_ray.evaluation.answers import expressions, latex, notation, numbers, values
from s2l_ray.evaluation.answers.expressions import Unreadable
from s2l_ray.evaluation.answers.extract import Found, last_sentence
from s2l_ray.evaluation.answers.options import LATEX_TEXT, word
from s2l_ray.evaluation.answers.rules import Judged, number_of_clause, text_of
from s2l_ray.evaluation.answers.stated import mathematics

Comparison = Literal["equal", "different", "unreadable", "timeout"]
Compare = Callable[[str, str], Comparison]
"""gold, answer (both LaTeX) → the result of a computer algebra system, within a time limit."""

_BASE = re.compile(r"\(?(-?[0-9A-Za-z]+)\)?\s*_\s*\{?\s*([0-9]{1,2})\s*\}?")
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_THOUSANDS_OF = re.compile(rf"(?<==)\s*{_THOUSANDS.pattern}$")
_INFINITE = re.compile(r"\s*([+-]?)\s*(?:\\infty|oo|inf)\s*")
_COSTLY = re.compile(
    r"\\(?:i*int|sum|prod|lim(?:sup|inf)?)(?![A-Za-z])|[∫∑∏]"
    r"|\^[\s{(]*[0-9]{5}|\^\s*[{(][\s{(]*[0-9]+\s*\}?\s*\^|[0-9]{5}[\s})]*!|!\s*[)}]\s*!|!\s*!\s*!"
)
"""Expressions that still have to be computed are not answers. The library would compute large powers, towers of powers
and factorials until it reaches its time limit."""
_MAX_ANSWER = 2000
_FLOAT_RELATIVE = 1e-9


class Undecided(DataError):
    """Our own rules cannot parse one of the sides."""


class _Refused(DataError):
    """The answer exceeds all limits, so no algebra system is called."""


def judge(found: Found, gold: str, compare: Compare) -> Judged:
    """Whether an answer is the gold, as mathematics."""
    if found.how == "none":
        return Judged("none")
    words = latex.words_of(gold)
    if words is not None:
        return _judge_words(found, words)
    wanted = latex.tidy(gold)
    answer = notation.separated(mathematics(found, wanted))
    if not answer or len(answer) > _MAX_ANSWER:
        return Judged("unreadable", answer[:200])
    rule = _Rule(compare, found.how == "output")
    try:
        right = rule.same(wanted, answer)
    except _Refused:
        return Judged("unreadable", answer)
    except Undecided:
        return _judge_number_in_prose(found, wanted, answer) or _ask(compare, wanted, answer)
    return Judged("right" if right else "wrong", answer)


def _judge_words(found: Found, words: str) -> Judged:
    gold = words.strip().strip("().")
    text = found.text if found.how == "unmarked" else latex.tidy(found.text.rpartition("\n")[2])
    if re.fullmatch(r"[A-Za-z]", gold):
        match = None
        if found.how != "unmarked":
            text = LATEX_TEXT.sub(r" \1 ", found.text.rpartition("\n")[2])
            match = re.match(r"\W*(?:(?:[Oo]ption|[Cc]hoice)\s+)?(?:\(([A-Za-z])\)|([A-Za-z])\b(?!\s*[a-z0-9]))", text)
        if match or found.how not in ("unmarked", "output"):
            answer = (match[1] or match[2]) if match else ""
        else:
            text = last_sentence(text, r"\w")
            named = re.findall(r"\(([A-Z])\)|\b([A-Z])\W*$", text)
            answer = next((a or b for a, b in reversed(named)), "")
        return Judged("right" if answer == gold else "wrong" if answer else "unreadable", answer or text)
    return word(Found(found.how, text), gold)


def _judge_number_in_prose(found: Found, gold: str, answer: str) -> Judged | None:
    """The first number of a clause with words in it, against a gold that is a number."""
    wanted = numbers.whole(numbers.plain(gold))
    if found.how != "marker" or wanted is None or not re.search(r"(?<!\\)\b[A-Za-z]{2,}", answer):
        return None
    number = number_of_clause(found.text)
    if number is None:
        return None
    return Judged("right" if number.value == wanted.value else "wrong", text_of(number))


def _ask(compare: Compare, gold: str, answer: str) -> Judged:
    if any(map(_COSTLY.search, (gold, answer))):
        return Judged("unreadable", answer)
    outcome = compare(gold, answer)
    if outcome in ("unreadable", "timeout"):
        return Judged("timeout" if outcome == "timeout" else "unreadable", answer)
    return Judged("right" if outcome == "equal" else "wrong", answer)


class _Rule:
    def __init__(self, compare: Compare, is_output: bool) -> None:
        self.compare, self.is_output = compare, is_output
        self.relative = _FLOAT_RELATIVE if is_output else 1e-20

    def same(self, gold: str, answer: str) -> bool:
        """Raises Undecided, _Refused."""
        if _spaceless(gold) == _spaceless(answer):
            return True
        if self.is_output:
            answer = notation.as_latex(answer)
        if latex.bracketed(gold):
            answer = re.sub(r"^\s*[A-Z]\s*(?=\(.*\)\s*$)", "", answer)  # P(3, 4)
        answer = _THOUSANDS_OF.sub(lambda match: match.group().replace(",", ""), answer)
        if (":" in gold) != (":" in answer):
            return False  # a ratio or a time is not a number
        based = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
        if any(match and match[1].lstrip("-")[0].isdigit() for match in based):
            return all(based) and _digits(based[0]) == _digits(based[1])
        gold_name, gold_value = notation.named(gold)
        name, value = notation.named(answer)
        if gold_value is not None or value is not None:
            return self._same_named(gold, gold_name, gold_value, answer, name, value)
        return self._same_values(gold, answer)

    def _same_named(
        self, gold: str, gold_name: str | None, gold_value: str | None, answer: str, name: str | None, value: str | None
    ) -> bool:
        if gold_value is not None and value is not None:
            if "," in latex.split(gold)[0] or len(latex.split(answer)) != len(latex.split(gold)):
                return self._several(gold, answer)
            if len(latex.split(gold)) > 1:
                return self._several(gold, answer)
            if not _alike(gold_name, name):
                return self._same_equations(gold, answer)  # the same curve, solved for another variable
            return self._same_values(gold_value, value)
        if gold_value is not None and "=" in answer:
            return self._same_equations(gold, answer)
        if gold_value is not None:
            return self._same_values(gold_value, answer)
        assert value is not None
        if len(latex.split(answer)) > 1:
            return self._several(gold, notation.coordinates(gold, answer))
        return self._same_values(gold, value.split("=")[-1])

    def _same_values(self, gold: str, answer: str) -> bool:
        if "=" in gold or "=" in answer:
            return self._same_equations(gold, answer)
        intervals = notation.interval(gold), notation.interval(answer)
        if all(intervals):
            return self._same_intervals(intervals)
        matrices = latex.matrix(gold), latex.matrix(answer)
        if matrices[0] and self.is_output:
            matrices = matrices[0], matrices[1] or notation.nested_rows(answer)
        if any(matrices):
            if not all(matrices) and re.search(r"\\begin\s*\{[pbB]?(?:matrix|array)", gold if matrices[1] else answer):
                raise Undecided("a product of matrices")
            return all(matrices) and self._same_matrices(*matrices)
        if re.search(r"\\cup(?![A-Za-z])", gold + answer):
            unions = [re.split(r"\\cup(?![A-Za-z])", text) for text in (gold, answer)]
            if len(unions[1]) == 1 and notation.is_inequality(answer):
                unions[1] = latex.split(answer)  # x < -2 or x > 1
            return self._multiset([part.strip() for part in unions[0]], [part.strip() for part in unions[1]])
        return self._several(gold, answer)

    def _several(self, gold: str, answer: str) -> bool:
        brackets = latex.bracketed(gold), latex.bracketed(answer)
        wanted, given = self._parts(gold, brackets[0]), self._parts(answer, brackets[1])
        if self.is_output and len(given) == 1 < len(wanted) == len(given[0].split()):
            given = given[0].split()  # print(a, b, c)
        ordered = [
            b is not None and b[0] in "([" and len(p) > 1 for b, p in zip(brackets, (wanted, given), strict=True)
        ]
        if self.is_output and ordered[1] and not ordered[0]:
            ordered[1] = False  # Python's list of solutions
        if ordered[0] != ordered[1]:
            return self.is_output and ordered[0] and len(given) == len(wanted) and self._each(wanted, given)
        if ordered[0]:
            assert brackets[0] is not None
            assert brackets[1] is not None
            same_brackets = (brackets[0][0], brackets[0][2]) == (brackets[1][0], brackets[1][2])
            return (same_brackets or self._is_list(brackets, wanted)) and self._each(wanted, given)
        if len(wanted) == 1 and len(given) == 1:
            return self._leaf(wanted[0], given[0])
        return self._multiset(wanted, given)

    def _is_list(self, brackets: tuple[tuple[str, str, str] | None, ...], wanted: list[str]) -> bool:
        """A program's list for a tuple; never for an interval, whose brackets say which ends belong to it."""
        gold = brackets[0]
        return self.is_output and gold is not None and (gold[0], gold[2]) == ("(", ")") and len(wanted) != 2

    def _parts(self, text: str, brackets: tuple[str, str, str] | None) -> list[str]:
        if brackets is not None:
            text = brackets[1]
            if len(latex.split(text)) == 1 and brackets[0] in ("(", "{"):
                return [text]
        elif _THOUSANDS.fullmatch(text):
            return [text.replace(",", "")]
        parts = latex.split(text)
        return [choice for part in parts for choice in notation.both_signs(part)]

    def _each(self, wanted: list[str], given: list[str]) -> bool:
        return len(wanted) == len(given) and all(self.same(a, b) for a, b in zip(wanted, given, strict=True))

    def _multiset(self, wanted: list[str], given: list[str]) -> bool:
        if len(wanted) != len(given) or len(wanted) > 30:
            return False
        left = list(given)
        for value in wanted:
            match = next((other for other in left if self._same_part(value, other)), None)
            if match is None:
                return False
            left.remove(match)
        return True

    def _same_part(self, gold: str, answer: str) -> bool:
        (gold_name, gold_value), (name, value) = notation.named(gold), notation.named(answer)
        if gold_value is not None and value is not None and gold_name != name:
            return False
        return self._same_values(gold if gold_value is None else gold_value, answer if value is None else value)

    def _same_matrices(self, gold: list[list[str]] | None, answer: list[list[str]] | None) -> bool:
        assert gold is not None
        assert answer is not None
        return len(gold) == len(answer) and all(self._each(a, b) for a, b in zip(gold, answer, strict=True))

    def _same_intervals(self, intervals: tuple[notation.Interval | None, ...]) -> bool:
        gold, answer = intervals
        assert gold is not None
        assert answer is not None
        return (gold[0], gold[3]) == (answer[0], answer[3]) and all(self._same_end(gold[i], answer[i]) for i in (1, 2))

    def _same_end(self, gold: str, answer: str) -> bool:
        infinite = _INFINITE.fullmatch(gold), _INFINITE.fullmatch(answer)
        if any(infinite):
            return all(infinite) and (infinite[0][1] == "-") == (infinite[1][1] == "-")  # type: ignore[index]
        return self._leaf(gold, answer)

    def _same_equations(self, gold: str, answer: str) -> bool:
        if "=" not in gold:
            return self._same_values(gold, answer.split("=")[-1])
        sides = gold.split("="), answer.split("=")
        if len(sides[0]) != 2 or len(sides[1]) != 2:
            return False
        trees = [
            [self._tree(side, gold is not text) for side in pair]
            for pair, text in zip(sides, (gold, answer), strict=True)
        ]
        differences = [expressions.Node("apply", "+", (a, expressions.Node("apply", "neg", (b,)))) for a, b in trees]
        try:
            return values.proportional(*differences)
        except Unreadable as error:
            raise Undecided from error

    def _leaf(self, gold: str, answer: str) -> bool:
        if _INFINITE.fullmatch(gold) or _INFINITE.fullmatch(answer):
            return self._same_end(gold, answer) if _INFINITE.fullmatch(gold) and _INFINITE.fullmatch(answer) else False
        try:
            wanted, given = self._tree(gold, False), self._tree(answer, self.is_output)
            return values.equal(wanted, given, self.relative if self._is_float(answer) else 1e-20)
        except expressions.TooLarge as error:
            raise _Refused from error
        except Unreadable as error:
            raise Undecided from error

    def _is_float(self, answer: str) -> bool:
        return self.is_output and "." in answer

    def _tree(self, text: str, is_printed: bool) -> expressions.Node:
        mixed = re.fullmatch(r"(-?)\s*([0-9]+) ([0-9]+)\s*/\s*([0-9]+)", text)
        if mixed and int(mixed[4]):
            size = int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4]))
            return expressions.Node("number", -size if mixed[1] else size)
        try:
            return expressions.parse(text, printed=is_printed and "\\" not in text)
        except expressions.TooLarge as error:
            raise _Refused from error
        except Unreadable as error:
            raise Undecided from error


def _spaceless(text: str) -> str:
    """Remove meaningless spaces, but not the one in `1 1/2`, which is not 11/2."""
    return re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", text.strip())


def _alike(gold: str | None, answer: str | None) -> bool:
    """Whether two names stand for the same value: y = 2x and f(x) = 2x are the same curve."""
    function = re.compile(r"[a-zA-Z]\([a-z]\)")
    return gold == answer or any(
        one == "y" and other is not None and function.fullmatch(other)
        for one, other in ((gold, answer), (answer, gold))
    )


def _digits(match: re.Match[str] | None) -> tuple[str, str]:
    assert match is not None
    return match[1].lstrip("0").upper(), match[2]
