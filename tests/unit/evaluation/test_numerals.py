"""Numbers as people write them: every notation with generated numbers, in every place where an answer can stand."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest

from s2l_ray.evaluation.answers import numerals
from s2l_ray.evaluation.answers.grading import grade
from s2l_ray.evaluation.answers.numerals import MULTIPLIERS, in_digits

DRAWN = random.Random(0)
INTEGERS = [*(DRAWN.randrange(10**4, 10 ** DRAWN.randrange(5, 14)) for _ in range(30)), 1000, 12_000, 999_999, 10**6]
SEPARATORS = [" ", "\u00a0", "\u2009", "\u202f", "~", "\\,", "\\ ", "\\;"]
PLACES = ["The answer is {}.", "The answer is ${}$.", "\\boxed{{{}}}", "#### {}", "So she pays {} in all.", "x = {}"]


def asked(*_: str) -> str:
    return "unreadable"


def right(gold: object, text: str, rule: str = "number", question: str = "", form: str = "cot") -> bool:
    return grade(rule, str(gold), text, asked, question=question, form=form).correct  # type: ignore[arg-type]


def in_threes(number: int, separator: str) -> str:
    return f"{number:,}".replace(",", separator)


def in_lakhs(number: int) -> str:
    head, tail = divmod(number, 1000)
    pairs = []
    while head:
        head, pair = divmod(head, 100)
        pairs.append(f"{pair:02d}" if head else str(pair))
    return f"{','.join(reversed(pairs))},{tail:03d}"


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("place", PLACES)
def test_groups_of_three_digits_are_one_number(separator, place):
    for number in INTEGERS:
        text = place.format(in_threes(number, separator))
        for rule in ("number", "rounded_number", "one_of_several", "mathematics", "math"):
            assert right(number, text, rule), (rule, text)
        assert not right(number // 1000, text), text
        assert not right(number % 1000, text), text
    assert right("1234567.25", place.format(in_threes(1234567, separator) + ".25"))


@pytest.mark.parametrize("place", PLACES)
def test_lakhs_and_points_group_digits(place):
    for number in INTEGERS:
        assert right(number, place.format(in_lakhs(number))), in_lakhs(number)
        assert right(number, place.format(in_lakhs(number)), "math"), in_lakhs(number)
        if number >= 10**6:
            assert right(number, place.format(in_threes(number, "."))), number
        with_cents = in_threes(number, ".") + ",25"
        assert right(Fraction(number) + Fraction(1, 4), place.format(with_cents)), with_cents


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("1 2", "1 2"),
        ("12 34", "12 34"),
        ("1 234 56", "1 234 56"),
        ("in 2010 100 people", "in 2010 100 people"),
        ("3 000 people and 5", "3000 people and 5"),
        ("1.234", "1.234"),
        ("1,234", "1,234"),
        ("1/2 345", "1/2 345"),
        ("5 100-dollar bills", "5 100-dollar bills"),
        ("18 200 ml bottles", "18 200 ml bottles"),
        ("18 000 ml bottles", "18000 ml bottles"),
        ("version 1.234.5", "version 1.234.5"),
        ("5 million-dollar houses", "5 million-dollar houses"),
        ("$500 gross", "$500 gross"),
        ("5k", "5k"),
        ("a hundred", "a hundred"),
        ("eighteen", "eighteen"),
        ("3 thousandths", "3 thousandths"),
        ("3 scored", "3 scored"),
    ],
)  # fmt: skip
def test_what_is_no_group_and_no_multiplier_stays(text, plain):
    assert in_digits(text) == plain


def test_lists_of_numbers_are_no_groups():
    assert right(15, "The answer is 15 234.", "one_of_several")
    assert right(15234, "The answer is 15 234.", "one_of_several")
    assert not right(234, "The answer is 1 234 567.", "one_of_several")
    assert right("12 300 100", "The answer is 12 300 100.", "mathematics")
    assert right("[12, 300]", "The answer is 12 300.", "mathematics")
    assert right("1,23,456", "\\boxed{1,23,456}", "math")
    assert right("1,23,456", "\\boxed{456,1,23}", "math")
    for printed in ("15 234\n", "15,234,100\n"):  # print(a, b)
        assert not right(15234, printed, form="output")
    assert right(234, "15 234\n", "one_of_several", form="output")


@pytest.mark.parametrize("word", MULTIPLIERS)
def test_multipliers_multiply(word):
    factor = MULTIPLIERS[word]
    for size, place in itertools.product(("1", "7", "2.5", "1,200", "3 1/2", "3/4"), PLACES):
        whole, _, part = size.replace(",", "").rpartition(" ")
        value = (Fraction(whole or 0) + Fraction(part)) * factor
        if word == "gross" and "$" in place:
            continue  # $500 gross
        text = place.format(f"{size} {word}")
        assert right(value, text), text
        if "$" not in place:
            assert right(value, place.format(f"{size} {word}s")), text
            assert right(value, place.format(f"{size}\\text{{ {word} eggs}}")), text
        assert not right(Fraction(whole or 0) + Fraction(part), text), text


def test_multipliers_of_multipliers_and_what_is_added_to_them():
    for first, second in itertools.product(("hundred", "dozen", "thousand"), ("thousand", "million", "crore")):
        assert right(3 * MULTIPLIERS[first] * MULTIPLIERS[second], f"The answer is 3 {first} {second} people.")
    ordered = sorted(MULTIPLIERS, key=MULTIPLIERS.__getitem__, reverse=True)
    for large, small in itertools.combinations(ordered, 2):
        value = 4 * MULTIPLIERS[large] + MULTIPLIERS[small]
        for text in (f"4 {large} 1 {small}", f"4 {large} and 1 {small}", f"4 {large}, 1 {small}"):
            assert right(value, f"The answer is {text}."), text
            assert right(value + 5, f"The answer is {text} and 5."), text
    assert right(5200, "The answer is 5 thousand 200.")
    assert right(36, "The answer is 3 dozen eggs and 4 apples.")
    assert right(300, "The numbers are 3 hundred and 5 hundred.", "one_of_several")
    assert right(5, "The numbers are 3 hundred and 5.", "one_of_several")


@pytest.mark.parametrize("question", ["How many dozen eggs are that?", "What is that in dozens?"])
def test_a_multiplier_that_the_question_asks_for_is_a_unit(question):
    assert right(3, "The answer is 3 dozen.", question=question)
    assert right(36, "The answer is 3 dozen.", question=question)
    for other in ("", "He has 3 dozen eggs. How many eggs?", "How many millions?"):
        assert not right(3, "The answer is 3 dozen.", question=other)


def test_money_may_be_abbreviated():
    for sign, (suffix, factor) in itertools.product("$€£₹", numerals._SUFFIXES.items()):
        assert right(7.5 * factor, f"The answer is {sign}7.5{suffix}.")
        assert right(7.5 * factor, f"The answer is {sign}7.5{suffix.capitalize()}.")
    for term in ("5k", "5k + 3", "5m - 2k"):
        assert right(term, f"The answer is ${term}$.", "math")


@pytest.mark.parametrize(
    ("words", "part"),
    [("a half", "1/2"), ("one half", "1/2"), ("one-third", "1/3"), ("a quarter", "1/4"), ("three quarters", "3/4"),
     ("two-thirds", "2/3"), ("2/5", "2/5")],
)  # fmt: skip
def test_parts_after_a_numeral_are_added(words, part):
    for whole, place in itertools.product((1, 12, 300), PLACES):
        assert right(whole + Fraction(part), place.format(f"{whole} and {words}")), (whole, words)
        assert not right(whole, place.format(f"{whole} and {words}")), (whole, words)
    assert right(3_500_000, "The answer is 3 and a half million.")
    assert right(3, "The answer is 3 and 5/2.") is False


@pytest.mark.parametrize("word", ["minus", "negative", "Minus", "Negative"])
@pytest.mark.parametrize("number", ["5", "2.75", "3/4", "1 1/4", "1,200", "\\frac{3}{4}", "$5", "5 million"])
def test_signs_in_words(word, number):
    size = in_digits(number).replace("\\frac{3}{4}", "3/4").replace("$", "").replace(",", "").replace("1 1/4", "5/4")
    for place in ("The answer is {}.", "\\boxed{{{}}}", "The answer is x = {}.", "#### {}", "It is {}"):
        for rule in ("number", "math"):
            assert right(f"-{size}", place.format(f"{word} {number}"), rule), (rule, place)
            assert not right(size, place.format(f"{word} {number}"), rule), (rule, place)
    assert right(f"-{size}", f"\\boxed{{\\text{{{word} }}{number}}}")


def test_a_minus_in_words_between_two_numbers_is_an_operator():
    assert right(4, "The answer is 9 minus 5.")
    assert right(4, "The answer is 9 minus 5 = 4.")
    assert not right(-5, "The answer is 9 minus 5.")
    assert right("x-5", "\\boxed{x minus 5}", "math")
    assert right("-20*x", "The answer is minus 20x.", "mathematics")
    assert right(-7, "The numbers are 3 and minus 7.", "one_of_several")


@pytest.mark.parametrize(("opening", "closing"), itertools.product("[]", "[]"))
def test_brackets_turned_outwards_leave_the_end_out(opening, closing):
    gold = f"{'[' if opening == '[' else '('}3, 5{')' if closing == '[' else ']'}"
    other = f"{'(' if opening == '[' else '['}3, 5{')' if closing == '[' else ']'}"
    for answer in (f"{opening}3,5{closing}", f"{opening} 3 ; 5 {closing}", f"x \\in {opening}3,5{closing}",
                   f"\\left{opening}3,5\\right{closing}"):  # fmt: skip
        for place in ("\\boxed{{{}}}", "The answer is ${}$.", "The answer is {}."):
            assert right(gold, place.format(answer), "math"), answer
            assert not right(other, place.format(answer), "math"), answer
    union = f"\\boxed{{]-\\infty,0[\\cup{opening}3,5{closing}}}"
    assert right(f"(-\\infty,0) \\cup {gold}", union, "math")
    assert not right(f"(-\\infty,0) \\cup {other}", union, "math")


def test_numbers_side_by_side_are_no_product():
    assert not right(6, "\\boxed{2 3}", "math")
    assert not right(234, "\\boxed{1 234}", "math")
    assert right("10,\\!080", "\\boxed{10\\,080}", "math")
    assert right("10\\,080", "\\boxed{10080}", "math")


def test_golds_are_read_as_answers_are():
    for gold in ("1 234 567", "12,34,567", "1.234567 million"):
        assert right(gold, "The answer is 1234567.")


@pytest.mark.thorough
def test_long_texts_are_read_in_linear_time():
    for text in ("1 234 " * 20_000, "3 dozen and " * 10_000, "minus " * 20_000, "12,34," * 20_000, "1.234" * 20_000):
        in_digits(text)
