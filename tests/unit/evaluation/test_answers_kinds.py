"""Kinds of answers that models write, each with several instances: what is read, and what must not be taken for it."""

from __future__ import annotations

import itertools
import re
import time

import pytest

from s2l_ray.evaluation.answers.expressions import TooLarge, parse
from s2l_ray.evaluation.answers.grading import grade
from s2l_ray.evaluation.answers.values import evaluate

BALLS = "Which one looks larger? \nAnswer Choices: (A) the tennis ball (B) a golf ball"


def asked(*_: str) -> str:
    return "unreadable"


def right(gold: object, text: str, rule: str = "number", question: str = "", form: str = "cot") -> bool:
    return grade(rule, str(gold), text, asked, question=question, form=form).correct  # type: ignore[arg-type]


@pytest.mark.parametrize("sign", ["US$", "NZ$", "R$", "US\\$", "C€", "HK$ "])
@pytest.mark.parametrize("number", ["6,120", "905", "14.75", "2,000,300"])
def test_a_currency_may_begin_with_letters(sign, number):
    value = number.replace(",", "")
    for rule in ("number", "math"):
        assert right(value, f"The answer is {sign}{number}.", rule)
    assert not right(number.rpartition(",")[2] + "1", f"The answer is {sign}{number}.")
    if "," in number:
        assert not right(number.rpartition(",")[2], f"The answer is {sign}{number}.")


@pytest.mark.parametrize(
    ("raised", "written"),
    [
        ("x² − 7x", "x^2 - 7x"),
        ("2x³ + x", "2x^3 + x"),
        ("6·10⁻⁴", "0.0006"),
        ("9×10¹²", "9000000000000"),
        ("(x+1)²", "x^2 + 2x + 1"),
    ],
)
def test_raised_digits_are_exponents(raised, written):
    assert right(written, f"\\boxed{{{raised}}}", "math")
    assert not right(written + "+1", f"\\boxed{{{raised}}}", "math")


@pytest.mark.parametrize("unit", ["cm²", "m³", "ft²"])
def test_raised_digits_of_a_unit_are_no_part_of_the_number(unit):
    assert right(81, f"The answer is 81 {unit}.")
    assert right(81, f"The answer is 81 {unit}.", "math")


def test_a_root_sign_takes_the_whole_number():
    for text in ("\\boxed{5√14}", "The answer is 5√14.", "The length is 5√14 cm.", "The length is 5√14"):
        assert right("5\\sqrt{14}", text, "math"), text
        assert not right("5", text, "math"), text
        assert not right("14", text, "math"), text
    assert right("7 + 3\\sqrt{2}", "So the sum is 7 + 3√2.", "math")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6 times 7", 42),
        ("6 multiplied by 7", 42),
        ("91 divided by 7", 13),
        ("8 plus 5", 13),
        ("8 plus 5 equals 13", 13),
        ("a third of 39, which is 13", 13),
        ("26% of 50, which gives 13", 13),
        ("4 more than 9, i.e. 13", 13),
        ("twice 21, that is 42", 42),
        ("(31.0-18.0)", 13),
        ("((55-13))", 42),
        ("$13 and 0 cents", 13),
    ],
)
def test_calculations_in_words_and_brackets_are_worth_their_value(text, value):
    assert right(value, f"The answer is {text}.")
    for other in re.findall(r"[0-9]+", text):
        assert int(other) == value or not right(other, f"The answer is {text}."), other


@pytest.mark.parametrize("mark", ["*", "**", "_", "__"])
@pytest.mark.parametrize("around", ["{} pears.", "{} m of wire", "$ {} in all", "exactly {}."])
def test_emphasis_is_no_operator(mark, around):
    text = "The answer is " + around.format(f"{mark}58{mark}")
    assert right(58, text), text
    assert right(58, text, "math"), text
    assert not right(5, text), text


@pytest.mark.parametrize("text", ["2 *3* 4", "2*3*4", "(1+1)*3*4"])
def test_products_are_no_emphasis(text):
    for rule in ("number", "math"):
        assert right(24, f"The answer is {text}.", rule), rule
        assert not right(3, f"The answer is {text}.", rule), rule


@pytest.mark.parametrize("text", ["13-42", "13 to 42", "9 * n", "13–42"])
def test_ranges_and_terms_are_no_number(text):
    for value in (13, 42, 29, 9, -29):
        assert not right(value, f"The answer is {text}.")


@pytest.mark.parametrize(
    "text",
    [
        "The answer is as follows:\n\n$$512$$",
        "The answer is therefore\n\\[512\\]",
        "The answer is then:\n512",
        "The answer is, i.e. 512.",
    ],
)
def test_an_announced_answer_stands_in_the_next_line(text):
    assert right(512, text)
    assert not right(51, text)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("58 \\equiv 4 \\pmod{9}", 4),
        ("The answer is $58 \\equiv 4 \\pmod 9$.", 4),
        ("58 ≡ 4 (mod 9)", 4),
        ("\\boxed{4 \\pmod{9}}", 4),
        ("The remainder is 4 (mod 9).", 4),
    ],
)
def test_a_modulus_is_no_part_of_the_answer(text, gold):
    for rule in ("number", "math"):
        if rule == "math" and not text.startswith(("\\boxed", "The answer")):
            continue
        assert right(gold, text, rule)
        assert not right(9, text, rule)
        assert not right(58, text, rule)


@pytest.mark.parametrize(
    "lines",
    [
        ("- a = {}", "- b = {}"),
        ("1. {}", "2. {}"),
        ("First number: {}", "Second number: {}"),
        ("{}", "{}"),
        ("* The smaller is {}.", "* The larger is {}."),
    ],
)
@pytest.mark.parametrize("opening", ["The answer is:\n", "Therefore the numbers are\n\n", "The answers are:\n\n"])
def test_lists_are_one_answer_where_several_numbers_are_asked_for(lines, opening):
    text = opening + "\n".join(lines).format(11, 34)
    for gold in (11, 34):
        assert right(gold, text, "one_of_several"), text
    assert right("[11, 34]", text, "mathematics"), text
    assert right("11 34", text, "mathematics"), text
    assert not right("34 11", text, "mathematics"), text
    for other in (1, 2, 45):
        assert not right(other, text, "one_of_several"), text


def test_boxes_of_a_sentence_are_one_answer_where_several_numbers_are_asked_for():
    text = "The cheaper one costs $\\boxed{11}$ and the other one costs $\\boxed{34}$."
    for gold in (11, 34):
        assert right(gold, text, "one_of_several")
    assert right(34, text)
    assert not right(11, "At first \\boxed{11} are left. In the end \\boxed{34} are.", "one_of_several")
    assert right("-6,5", "Hence $t = \\boxed{5}$ or $t = \\boxed{-6}$.", "math")


def test_a_marker_within_a_box_does_not_end_it():
    for inside in ("\\text{The answer is }58", "\\text{Answer: } 58", "answer = 58"):
        for rule in ("number", "math"):
            assert right(58, f"\\boxed{{{inside}}}", rule)
            assert not right(8, f"\\boxed{{{inside}}}", rule)


def test_what_is_of_a_percentage_is_a_rate():
    text = "The answer is 31.5 liters of 20% and 12.25 liters of the 45% solution."
    assert right(31.5, text, "one_of_several")
    assert right(12.25, text, "one_of_several")
    assert not right(20, text, "one_of_several")
    assert not right(45, text, "one_of_several")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("golf ball", "B"),
        ("'the tennis ball'", "A"),
        ('The answer is "golf ball".', "B"),
        ("The tennis ball is far off, so the golf ball.", "B"),
        ("A golf ball is small; thus a tennis ball looks larger.", "A"),
    ],
)
def test_options_are_named_without_articles_in_quotes_and_as_conclusions(text, letter):
    for gold in "AB":
        assert right(gold, text, "choice", BALLS) is (gold == letter)


def test_printed_words_may_be_quoted():
    for text in ("'Tuesday'", '["Tuesday"]', "('Tuesday',)"):
        assert right("Tuesday", text, "words", form="output")
        assert not right("Thursday", text, "words", form="output")
    assert right("B", "['B']", "choice", BALLS, form="output")
    assert not right("B", "['B', 'A']", "choice", BALLS, form="output")


def test_options_that_the_question_computes():
    question = "Let h = 4 - 9. Let k be h/(-2). Let z = 0.3 - -0.4. Which is the biggest value?  (a) z  (b) k  (c) h"
    for gold, letter in (("2.5", "b"), ("0.7", "a"), ("-5", "c")):
        for text in ("The answer is ({}).", "\\boxed{{{}}}", "{}"):
            for other in "abc":
                assert right(gold, text.format(other), "mathematics", question) is (other == letter), (gold, other)
    assert right("2.5", "k", "mathematics", question, form="output")
    assert not right("2.5", "z", "mathematics", question, form="output")


@pytest.mark.parametrize(
    "text", ["The second derivative is 6*t.", "Hence the derivative of g(t) is $6t$", "It equals: 6t"]
)
def test_terms_stand_behind_the_verb(text):
    for form in ("cot", "output"):
        assert right("6*t", text, "mathematics", form=form)
        assert not right("6*y", text, "mathematics", form=form)


@pytest.mark.parametrize(
    "printed", ["9.", "[9.]", "array([9.])", "Eq(n, 9)", "Total: 9.00 (2 tickets)", "np.float64(9.0)"]
)
def test_numbers_as_libraries_print_them(printed):
    assert right(9, printed, form="output")
    assert not right(2, printed, form="output")


def test_lists_behind_a_label_are_printed_lists():
    for text in ("Factors of 85: [5, 17]", "The factors of 85 are {17, 5}", "Factors: 5, 17"):
        assert right("[5, 17]", text, "mathematics", form="output")
        assert not right("[5, 17, 85]", text, "mathematics", form="output")


@pytest.mark.parametrize("text", ["e^{e^{e^{12}}}", "7^{7^{7}}", "(12!)!", "\\binom{10^8}{7}", "1.01^{1999999}"])
def test_values_beyond_every_answer_are_refused_at_once(text):
    start = time.process_time()
    with pytest.raises(TooLarge):
        evaluate(parse(text))
    assert not right(7, f"\\boxed{{{text}}}", "math")
    assert time.process_time() - start < 1


def test_a_reading_that_ran_out_of_time_is_not_followed_by_another():
    calls = []

    def slow(gold: str, answer: str) -> str:
        calls.append(answer)
        return "timeout"

    made = grade("math", "\\oint x", "\\boxed{\\oint 3 456 and a half}", slow)  # type: ignore[arg-type]
    assert (made.reason, len(calls)) == ("timeout", 1)


def test_every_rule_survives_every_kind():
    texts = [
        "The answer is",
        "- \n- 1",
        "1. \n2. ",
        "\\boxed{x =}",
        "√",
        "x²",
        "$",
        "[",
        "Eq(",
        "array(",
        "(mod",
        "base",
        "i.e. ",
        "{:",
    ]
    rules = ("number", "rounded_number", "one_of_several", "math", "words", "choice")
    for text, rule, form in itertools.product(texts, rules, ("cot", "output")):
        assert not right("B" if rule in ("words", "choice") else 77, text, rule, form=form)
