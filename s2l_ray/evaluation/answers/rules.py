"""Rules that compare an extracted answer with a gold answer: numbers, several numbers, terms."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from s2l_ray.evaluation.answers import expressions, measures, notation, numbers, printed, values
from s2l_ray.evaluation.answers.extract import Found, last_sentence
from s2l_ray.evaluation.answers.numbers import Number

Outcome = Literal["right", "wrong", "unreadable", "none", "timeout"]


class Judged(NamedTuple):
    outcome: Outcome
    extracted: str = ""
    first: bool | None = None
    """Whether the first of several numbers is the gold answer; None if the rule accepts only one."""


Same = Callable[[Number, Number], bool]

_HEDGE = re.compile(r" ?(?:to|-|~) ?[0-9]|[^0-9.,=]{0,20}\bor ?[0-9]|,? ?(?:and|or|,) ?[0-9]|, ?[0-9]", re.IGNORECASE)
_OPERATOR_AFTER = re.compile(
    r" ?[*/×·÷^] ?[(0-9.]|\^-[0-9]|!|[*^][A-Za-z]| [*^] [A-Za-z]|[-+][(0-9.]| [-+] [(0-9.]| x [0-9]"
)
_ARITHMETIC = re.compile(r"[-+*/×·÷^!()0-9., ]+")
_OPERATORS = [
    (re.compile(rf"(?<=[0-9)]) {words} (?=[0-9($.-])"), f" {sign} ")
    for words, sign in (("plus", "+"), ("(?:times|multiplied by|x)", "×"), ("divided by", "/"), ("equals", "="))
]
_RATE = re.compile(r"\bat ?\$? ?[0-9.]+ ?\\?%?|\bof (?:the |an? )?[0-9.]+ ?(?:\\?%|percent\b)")
_MONEY = re.compile(r"[$€£] ?([0-9][0-9,]{0,20})( and [0-9]{1,2} cents?\b)")
_COMPOUND = re.compile(r"\b[0-9]+-(?=[A-Za-z])")
_ASSIGNED = re.compile(r" *[A-Za-z]\w* *=")
_UNKNOWN = re.compile(r"(?<!\w)[A-Za-z][0-9]? ?= ?[-+]?[0-9.]")
_PIECES = re.compile(r"[;\n]|,(?![0-9]{3}(?![0-9]))|\b(?:and|or)\b|<", re.IGNORECASE)
MAX_SEVERAL = 3
"""How many different numbers may be given if one of several unknowns is asked for; more are a guess, not an answer."""


def exact(answer: Number, gold: Number) -> bool:
    return answer.value == gold.value


def rounded(answer: Number, gold: Number) -> bool:
    return numbers.rounds_to(answer, gold)


def _judge(same: Same, answer: Number, gold: Number, is_output: bool) -> bool:
    return same(answer, gold) or (is_output and numbers.same_float(answer, gold))


def one_number(found: Found, gold: Number, same: Same) -> Judged:
    """Judge an answer that must be one number and equal the gold answer."""
    if found.how == "none":
        return Judged("none")
    answer = printed_number(found.text) if found.how == "output" else stated_number(found)
    if answer is None:
        return Judged("unreadable", found.text)
    return Judged("right" if _judge(same, answer, gold, found.how == "output") else "wrong", text_of(answer))


def text_of(number: Number) -> str:
    """A number as it is stored: `18`, `-11/4`, `0.303`."""
    return str(number.value) if number.decimals is None or number.value.denominator == 1 else _decimal(number)


def _decimal(number: Number) -> str:
    scaled = abs(number.value) * 10 ** (number.decimals or 0)
    digits = str(int(scaled)).rjust((number.decimals or 0) + 1, "0")
    split = len(digits) - (number.decimals or 0)
    return f"{'-' if number.value < 0 else ''}{digits[:split]}.{digits[split:]}"


def stated_number(found: Found) -> Number | None:
    """The only number of a box or clause; without either, the last number of the text."""
    if found.how == "unmarked":
        found_numbers = list(numbers.find(numbers.plain(found.text[-5000:])))
        return found_numbers[-1] if found_numbers and not found_numbers[-1].is_part else None
    return number_of_clause(found.text)


def number_of_clause(clause: str) -> Number | None:
    """The first number on the right-hand side; None if there are two to choose from."""
    text = numbers.plain(_MONEY.sub(r"\1 dollars\2", clause))
    for words, sign in _OPERATORS:
        text = words.sub(sign, text)
    pieces = _PIECES.split(text)
    if sum(bool(_ASSIGNED.match(piece)) for piece in pieces) > 1:
        text = next(piece for piece in pieces if _ASSIGNED.match(piece))
    return _of_sides(text)


def _of_sides(text: str) -> Number | None:
    """The plain number of an equation `4 + 8 = 12` or `12 = 4 + 8`; the value of a calculation that stands alone."""
    calculations = []
    for side in reversed(text.split("=")):
        found_numbers = list(numbers.find(side))
        if not found_numbers:
            continue
        first = found_numbers[0]
        if first.is_part:
            return printed.compute(side.strip(" ."))  # √144
        if _OPERATOR_AFTER.match(side, first.end):
            calculations.append((side, first))
            continue
        rest = side[first.end :]
        if smaller := measures.compound(first, rest):
            return smaller
        if _HEDGE.match(rest) and any(other.value != first.value for other in found_numbers[1:2]):
            return None
        return first
    return _computed(*calculations[0]) if calculations else None


def _computed(side: str, first: Number) -> Number | None:
    above = next(numbers.find(side[first.end + 1 :]), None) if re.match(r"-[0-9]", side[first.end :]) else None
    if above is not None and above.value > first.value:
        return None  # 4-5 is a range, 5-4 a difference
    begin = first.start
    while begin and side[begin - 1] in "( +-":
        begin -= 1
    run = _ARITHMETIC.match(side, begin)
    if run is None or any(number.is_part for number in numbers.find(side[: run.end() + 12])):
        return None
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", run.group()).strip(" .,")
    return printed.compute(text)


def printed_number(lines: str) -> Number | None:
    """The one number of the last line that a program printed."""
    return number_of_line(lines.rpartition("\n")[2])


def number_of_line(line: str) -> Number | None:
    if re.fullmatch(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?", line):
        return numbers.whole(line)  # f"{x:,}"
    value = printed.read(line)
    if value is not None and not isinstance(value, str):
        value = printed.alone(value)
        return value if isinstance(value, Number) else None
    text = numbers.plain(re.sub(r"(?<=[0-9]) \([^()0-9]{0,9}[0-9]* ?[A-Za-z][^()]*\)$", "", line))
    number = numbers.whole(text)
    if number is not None:
        return number
    if re.search(r"[A-Za-z_]\w*\(|\*|\^", text) or len(_UNKNOWN.findall(text)) > 1:
        return None  # an expression without a number, or with several unknowns
    side = re.split(r"[:=]", text)[-1]
    found_numbers = list(numbers.find(side))
    has_words = re.search(r"[A-Za-z]", text) is not None
    if len(found_numbers) == 2 and (measure := measures.compound(found_numbers[0], side[found_numbers[0].end :])):
        return measure
    if not found_numbers or found_numbers[-1].is_part or (len(found_numbers) > 1 and not has_words):
        return None
    return found_numbers[-1]


def several_numbers(found: Found) -> list[Number] | None:
    """All numbers in an answer, in order; None if it is not a list of numbers."""
    if found.how == "output":
        return _printed_several(found.text)
    text = last_sentence(found.text) if found.how == "unmarked" else found.text
    return numbers_of_clause(text)


def numbers_of_clause(clause: str) -> list[Number]:
    text = notation.separated(numbers.plain(_COMPOUND.sub("", _RATE.sub("", clause))))
    answers: list[Number] = []
    for piece in _PIECES.split(re.sub(r"\\?[\[\]]|\\[{}]", " ", text)):
        sides = [side for side in piece.split("=") if any(True for _ in numbers.find(side))]
        if not sides:
            continue
        plain = [side for side in sides if not any(_OPERATOR_AFTER.match(side, n.end) for n in numbers.find(side))]
        if plain:
            answers += [number for number in numbers.find(plain[-1]) if not number.is_part]
        else:
            computed = _of_sides(sides[-1])
            answers += [computed] if computed else []
    return answers


def _printed_several(lines: str, keys: bool = False) -> list[Number] | None:
    rows = lines.split("\n")
    last = _numbers_of_line(rows[-1], keys)
    if last is None or len(last) > 1:
        return last
    block: list[Number] = []
    for row in reversed(rows):  # one unknown per line
        row_numbers = _numbers_of_line(row, keys)
        if row_numbers is None or len(row_numbers) != 1:
            break
        block = row_numbers + block
    return block


def _numbers_of_line(line: str, keys: bool) -> list[Number] | None:
    value = printed.read(line)
    if value is not None and not isinstance(value, str):
        leaves = printed.flat(value, keys)
        return leaves if all(isinstance(leaf, Number) for leaf in leaves) and leaves else None
    labelled = re.fullmatch(r"[A-Za-z][^:\[({]*[:\s]\s*([\[({][^:]*[\])}])|[A-Za-z][^:,=]*:([^:]*)", line)
    if labelled:  # The prime factors of 28: [2, 7]
        return _numbers_of_line((labelled[1] or labelled[2]).strip(), keys)
    found_numbers = numbers_of_clause(line)
    return found_numbers or None


def one_of_several(found: Found, gold: Number, same: Same, question: str) -> Judged:
    """Judge an answer of at most three different numbers, one of which must be the gold answer, which gives only one of
    several unknowns."""
    if found.how == "none":
        return Judged("none", first=False)
    answers = several_numbers(found)
    if not answers:
        return Judged("unreadable", found.text, False)
    if len({number.value for number in answers}) > MAX_SEVERAL and found.how != "output":
        given = {number.value for number in numbers.find(numbers.plain(question))}  # rates, prices, kinds of coins
        answers = [number for number in answers if number.value not in given] or answers
    extracted = ", ".join(map(text_of, answers))
    first = _judge(same, answers[0], gold, found.how == "output")
    if len({number.value for number in answers}) > MAX_SEVERAL:
        return Judged("wrong", extracted, False)
    right = any(_judge(same, number, gold, found.how == "output") for number in answers)
    return Judged("right" if right else "wrong", extracted, first)


def number_set(found: Found, gold: list[Number]) -> Judged:
    """Judge an answer that must give the same numbers in any order, repeats allowed: prime factors, roots. Of a printed
    dict of integers (sympy's `factorint`), the keys count."""
    wanted = {number.value for number in gold}
    answers = several_numbers(found) if found.how != "none" else []
    readings = [answers]
    if found.how == "output":
        readings.append(_printed_several(found.text, keys=True))
    else:
        text = last_sentence(found.text) if found.how == "unmarked" else found.text
        readings.append(numbers_of_clause(re.sub(r",(?=[0-9])", ", ", text)))  # 3,113: two numbers, or one
    if found.how == "none":
        return Judged("none")
    if not any(readings):
        return Judged("unreadable", found.text)
    right = any(reading and {number.value for number in reading} == wanted for reading in readings)
    return Judged("right" if right else "wrong", ", ".join(map(text_of, answers or [])) or found.text)


def number_sequence(found: Found, gold: list[Number]) -> Judged:
    """Judge an answer that must give the same numbers in the same order."""
    if found.how == "none":
        return Judged("none")
    answers = several_numbers(found)
    if not answers:
        return Judged("unreadable", found.text)
    right = [number.value for number in answers] == [number.value for number in gold]
    return Judged("right" if right else "wrong", ", ".join(map(text_of, answers)))


def term(found: Found, gold: str) -> Judged:
    """Judge an answer that must be a term with its variable, such as `-20*x`, in any equivalent form."""
    if found.how == "none":
        return Judged("none")
    text = last_sentence(found.text, r"\S") if found.how == "unmarked" else found.text.rpartition("\n")[2]
    text = re.split(r"=|:|\b(?:is|are|equals)\b", text)[-1]
    text = re.sub(r"\\?[$]|\\[()\[\]]", "", text).strip(" .")
    try:
        same = values.equal(expressions.parse(gold, printed=True), _either_notation(text))
    except expressions.Unreadable:
        return Judged("unreadable", text)
    return Judged("right" if same else "wrong", text)


def _either_notation(text: str) -> expressions.Node:
    return expressions.parse(text, printed="\\" not in text and "*" in text)
