"""Answers that are more or less than the number in them: terms with unknowns, corrections, one value in two forms,
several unknowns on a line, options named in prose, and what is still to be computed."""

from __future__ import annotations

import itertools
import time

import pytest

from s2l_ray.evaluation.answers.grading import grade
from s2l_ray.evaluation.answers.symbolic import ProcessComparer

RULES = ("number", "rounded_number", "one_of_several", "mathematics", "math")


def asked(*_: str) -> str:
    return "unreadable"


def right(gold: object, text: str, rule: str = "number", question: str = "", form: str = "cot") -> bool:
    return grade(rule, str(gold), text, asked, question=question, form=form).correct  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "term",
    ["{}x", "{}k", "{} n", "{} ab", "{}pq", "{} xyz", "{}x^2", "{} x + 1", "{} + y", "y - {}", "x/{}", "{}/x", "{}\\pi",
     "2\\sqrt{{{}}}", "{}\\sqrt{{2}}", "\\frac{{{}}}{{x}}", "\\frac{{x}}{{{}}}", "{}(t+1)", "{}\\text{{ xy}}", "{}^x"],
)  # fmt: skip
def test_a_number_beside_an_unknown_or_a_root_is_a_term(term):
    for number in (8, 36, 150):
        for place in ("\\boxed{{{}}}", "The answer is ${}$.", "The answer is {}.", "Hence we get {}"):
            text = place.format(term.format(number))
            for rule in RULES:
                assert not right(number, text, rule), (rule, text)
            assert not right(f"[{number}]", text, "mathematics"), text


@pytest.mark.parametrize("term", ["{}x", "{} ab", "{}*k", "x = {}t", "Result: {}n"])
def test_printed_terms_are_no_numbers(term):
    for rule in RULES:
        assert not right(36, term.format(36), rule, form="output"), rule


@pytest.mark.parametrize(
    "unit",
    ["km", " km", "m", " mL", " hrs", "h", " kWh", " °C", " men", " TVs", "th", " p.m.", " AM", " lb.", " sq. ft",
     "-inch rods", " a day", " per week", "/week", " of them", " by noon", " US dollars", " Rs", " I think", "!"],
)  # fmt: skip
def test_units_and_words_beside_a_number_are_no_unknowns(unit):
    for number in (8, 36, 150):
        assert right(number, f"The answer is {number}{unit}."), unit
        assert not right(number + 1, f"The answer is {number}{unit}."), unit


def test_products_of_letters_are_read_where_they_are_the_gold():
    for gold, answer in (("3ab", "3 ab"), ("ab", "ba"), ("xy", "xy"), ("r^2h", "hr^2"), ("7pq", "7\\,pq")):
        assert right(gold, f"\\boxed{{{answer}}}", "math"), answer
        assert not right(gold, f"\\boxed{{{answer}c}}", "math"), answer


@pytest.mark.parametrize(("text", "value"), [("2350,000", 2350000), ("12345,678", 12345678), ("1250,000.5", 1250000.5)])
def test_a_long_first_group_of_digits(text, value):
    for rule in ("number", "one_of_several", "math"):
        for place in ("The answer is ${}.", "\\boxed{{{}}}"):
            assert right(value, place.format(text), rule), rule
    assert not right(text.split(",")[0], f"The answer is {text}.")
    assert right("[1250, 300]", "The answer is 1250,300.", "mathematics")
    assert right("1250,300", "\\boxed{300,1250}", "math")


@pytest.mark.parametrize(("printed", "value"), [("1,250,000", 1250000), ("-3,400.25", -3400.25), ("1,007", 1007)])
def test_a_program_may_group_digits_by_commas(printed, value):
    assert right(value, printed, form="output")
    for part in printed.split(","):
        assert not right(float(part), printed, form="output")
        assert right(float(part), printed.replace(",", " "), "one_of_several", form="output")


@pytest.mark.parametrize(
    "correction",
    ["no longer {} but {}", "not {} but {}", "not {} but rather {}", "{}, or rather {}", "{}, no, {}", "{}, sorry, {}",
     "{}... wait, {}", "{} - wait, {}", "no longer {}; it is {}", "not {}, it is {}"],
)  # fmt: skip
def test_corrections_name_the_answer_last(correction):
    for old, new in ((36, 35), (120, 4.5)):
        text = f"The answer is {correction.format(old, new)}."
        assert right(new, text), text
        assert not right(old, text), text
    if "or rather" not in correction and correction.startswith(("no", "not")) and "it is" not in correction:
        assert right("B", f"The answer is {correction.format('A', 'B')}.", "choice")
        assert not right("A", f"The answer is {correction.format('A', 'B')}.", "choice")
        assert right(11, f"The numbers are {correction.format('12 and 30', '11 and 31')}.", "one_of_several")


def test_what_is_only_denied_afterwards_stays():
    assert right(35, "The answer is 35, no longer 36.")
    assert not right(36, "The answer is 35, no longer 36.")
    assert not right(35, "The answer is 35 or 36.")
    assert not right(35, "The answer is 35, or 36.")


@pytest.mark.parametrize(
    ("one", "other"),
    [("5/8", "62.5%"), ("0.75", "75%"), ("1.5 hours", "90 minutes"), ("3 feet", "36 inches"), ("2/3", "about 66.67%")],
)
def test_one_value_in_two_forms(one, other):
    first, second = (text.split()[-1 if text[0] == "a" else 0].rstrip("%") for text in (one, other))
    for joined in (f"{one}, or {other}", f"{one} or {other}", f"{other}, or {one}", f"{one} = {other}"):
        for text in (f"The answer is {joined}.", f"So the share is {joined}."):
            for value in (first, second):
                assert right(value, text, "rounded_number"), (value, text)
            if "answer" in text and "=" not in joined and "%" in joined:
                assert not right(second, text.replace(first, f"7{first}"), "rounded_number"), text
    assert right("\\frac{5}{8}", "\\boxed{\\frac{5}{8} \\text{ or } 62.5\\%}", "math")
    assert not right("\\frac{5}{8}", "\\boxed{\\frac{5}{8} \\text{ or } 65\\%}", "math")
    assert right("2,3", "\\boxed{2 \\text{ or } 3}", "math")


def test_unknowns_side_by_side_on_a_printed_line():
    for gold in (3, 5):
        assert right(gold, "x = 3 y = 5", "one_of_several", form="output")
        assert not right(gold, "x = 3 y = 5", form="output")
        assert not right(gold, "x = 3, y = 5", form="output")
        assert not right(gold, "x = 3 x = 5", "math", form="output")
    assert right("3,5", "x = 5 x = 3", "math", form="output")
    assert right("3,5", "x1 = 3 x2 = 5", "math", form="output")
    assert right("(3,5)", "x = 3 y = 5", "math", form="output")
    assert not right("(3,5)", "x = 5 y = 3", "math", form="output")
    assert right("[-2, 5]", "x = -2 x = 5", "mathematics", form="output")


LETTERS = "Let r = 2 - 7. Let t = 0.5. Which is the nearest to 3?  (a) r  (b) -1/2  (c) t"
INLINE = "Let t = 0.5. What is the nearest to 3 in -5, t, -1/2?"


@pytest.mark.parametrize(
    ("text", "value"),
    [("So t is nearest.", 0.5), ("Thus the nearest to 3 is t.", 0.5), ("r is farther, so t is nearest to 3.", 0.5),
     ("Hence (c) is the nearest to 3.", 0.5), ("Hence c is nearest.", 0.5), ("-1/2 is the nearest to 3.", -0.5)],
)  # fmt: skip
def test_options_named_in_the_last_sentence(text, value):
    for question in (LETTERS, INLINE):
        for gold in (0.5, -0.5, -5):
            if "c" not in text.replace("(c)", "c").split() or question == LETTERS:
                assert right(gold, text, "mathematics", question) is (gold == value), (gold, question)
    assert not right(0.5, "The nearest value is t = 0.7.", "mathematics", LETTERS)


@pytest.mark.parametrize(
    "answer",
    ["\\int_0^\\infty e^{-x}dx", "\\sum_{k=1}^\\infty \\frac{1}{k^3}", "\\prod_{k=1}^{9} k",
     "\\lim_{x\\to 0} \\frac{x}{x}", "\\lfloor 9^{9^{9}} \\rfloor",
     "\\lfloor 7^{99999} \\rfloor", "\\lfloor 99999! \\rfloor"],
)  # fmt: skip
def test_what_is_still_to_be_computed_is_no_answer_and_takes_no_time(answer):
    with ProcessComparer(seconds=1) as compare:
        start = time.process_time()
        made = grade("math", "1", f"\\boxed{{{answer}}}", compare)
        assert (made.correct, made.reason) == (False, "unreadable")
        assert compare._process is None  # nothing was asked of the library
        assert time.process_time() - start < 1
    assert grade("math", answer, f"\\boxed{{{answer}}}", asked).correct  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("1024", "2^{10}"), ("2^{2005}", "4^{1002} \\cdot 2"), ("x^{12} - 1", "-1 + x^{12}"),
     ("x^{10} + x^5", "x^5(x^5 + 1)"), ("\\frac{1}{2^{10}}", "\\frac{1}{1024}"), ("e^{2x^2}", "e^{x^2}e^{x^2}"),
     ("999000", "\\frac{1000!}{998!}")],
)  # fmt: skip
def test_powers_and_factorials_that_are_soon_computed_are_answers(gold, answer):
    with ProcessComparer() as compare:
        assert grade("math", gold, f"\\boxed{{{answer}}}", compare).correct
        assert not grade("math", gold, f"\\boxed{{{answer} + 1}}", compare).correct


@pytest.mark.parametrize(
    "value", ["7^60000", "7^6000 + 1", "9^999 * 9^999 * 9^999 * 9^999 * 9^999", "1/3^9999", "1e9999 + 1"]
)
def test_values_of_thousands_of_digits_are_no_answer_and_no_fault(value):
    for rule, text in itertools.product((*RULES, "numglue", "choice"), ("The answer is {}.", "\\boxed{{{}}}", "{}")):
        for form in ("cot", "output"):
            gold = "B" if rule == "choice" else 5
            assert not right(
                gold, text.format(value.replace("^", "**") if form == "output" else value), rule, form=form
            )


def test_values_of_hundreds_of_digits_are_compared_digit_by_digit():
    for form, power in (("cot", "The answer is 7^400."), ("output", "7**400")):
        assert right(7**400, power, form=form)
        assert not right(7**400 + 1, power, form=form)
