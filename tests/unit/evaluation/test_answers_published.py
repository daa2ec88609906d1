"""The published harness's verdicts, worked out by hand from its source, faults included."""

import pytest

from s2l_ray.evaluation.answers import published

N, O = "cot", "output"  # noqa: E741

# task, form, text, gold, verdict; the comment says which step of the harness decides.
TABLE = [
    ("gsm8k", N, "The answer is 18.", "18", True),
    ("gsm8k", N, "She adds.\n#### 18", "18", True),
    ("gsm8k", N, "The answer is $70,000.", "70000", True),  # commas are dropped
    ("gsm8k", N, "The answer is 17.6", "18", False),
    ("gsm8k", N, "The answer is 5/4.", "1.25", False),  # kept as the string 5/4
    ("gsm8k", N, "She needs 20 cups. That is 5 a hen.", "20", False),  # no marker: the last number
    ("gsm8k", N, "The answer is 12 = 4 + 8.", "12", False),  # behind the last =, the first number
    ("gsm8k", N, "The answer is 4 + 8 = 12.", "12", True),
    ("gsm8k", O, "inf", "18", False),
    ("gsm8k", O, "18\nNone", "18", True),
    ("gsm8k", O, "9\n18", "18", False),  # the first number
    ("gsm8k", N, "The answer is 5.\n\nThe answer is 7.", "7", False),  # two markers: the first paragraph alone
    ("gsm8k", N, "The answer is -10.", "-10", True),
    ("gsm8k", N, "The answer is −10.", "-10", False),  # Unicode minus
    ("gsm8k", N, "So the Response is 5. The answer is 18.", "18", False),  # "Response" ends the text
    ("gsm8k", N, "The answer is 25%.", "25", True),
    ("gsm8k", N, "Hence \\boxed{18}", "18", True),
    ("gsm8k", N, "the answer is 18, or 20", "18", False),  # small letters are no marker
    ("svamp", N, "The answer is 51.", "51.0", True),
    ("svamp", O, "[17, 9]", "17.0", True),  # the first of several
    ("svamp", N, "The answer is 12.50", "12.5", True),
    ("mathematics", O, "1363.0", "1363.0", False),  # the answer loses its zeros, the gold does not
    ("mathematics", O, "[3, 5]", "[3, 5]", False),
    ("mathematics", O, "-0.1", "-0.1", True),
    ("mathematics", N, "The answer is .75", "0.75", False),  # read as 75
    ("mathematics", N, "The answer is -20*x.", "-20*x", False),
    ("mathematics", N, "The answer is 831", "831", True),
    ("numglue", N, "The answer is (B).", "B", True),
    ("numglue", N, "The answer is a total of 12.", "12", False),  # the article is option A
    ("numglue", N, "The answer is a web.", "A", True),
    ("numglue", N, "The answer is Friday.", "Friday", False),
    ("numglue", N, "The answer is $4.170.", "4.17", True),
    ("numglue", N, "The answer is 25.93 %.", "25.93", True),
    ("simuleq", N, "The answer is 15 novelists and 9 poets.", "15", True),
    ("simuleq", N, "The answer is 15 novelists and 9 poets.", "9", False),
    ("simuleq", O, "583.3333333333334", "583.3333", False),
    ("simuleq", N, "The answer is n = 15, p = 9.", "15", False),  # behind the last =
    ("math", N, "The answer is 0.67", "\\frac{2}{3}", True),  # within 4 %
    ("math", N, "The answer is 17.6", "18", True),  # rounded to the integer gold
    ("math", N, "\\boxed{\\dfrac12}", "\\frac{1}{2}", True),
    ("math", N, "\\boxed{525\\pi}", "525\\pi", True),
    ("math", N, "\\boxed{1649.3}", "525\\pi", False),  # the gold has no number
    ("math", N, "\\boxed{(-\\infty, 4)}", "(-\\infty,4)", True),
    ("math", N, "\\boxed{575}", "575\\text{ students}", True),
    ("math", N, "\\boxed{76}", "76^\\circ", True),
    ("math", N, "\\boxed{9}", "9,-7", False),
    ("math", N, "\\boxed{2}", "9,-7", True),  # commas are dropped: 9-7
    ("math", N, "The answer is Friday.", "\\text{Friday}", False),
    ("math", N, "\\boxed{-\\frac14}", "y = -\\frac{1}{4}", True),
    ("math", N, "The answer is $10,080$.", "10,\\!080", False),  # dollar signs stay
    ("math", N, "The answer is 10,080.", "10,\\!080", True),
    ("math", N, "So the sum is 105", "105", True),
    ("math", N, "", "105", False),
    ("math", N, "boxed", "105", False),
]


@pytest.mark.parametrize(("task", "form", "text", "gold", "right"), TABLE)
def test_verdicts_worked_out_by_hand(task, form, text, gold, right):
    assert published.is_right(task, text, gold, form) is right


def test_table_is_long_enough():
    assert len(TABLE) >= 40
    assert {row[0] for row in TABLE} == set(published.TASKS)


@pytest.mark.parametrize(
    ("program", "runs"),
    [
        ("x = 1\nprint(x)", True),
        ("x = 1", False),  # asks for a print
        ("from sympy import *\nprint(1)", False),  # indented into a function: a syntax error
        ("import sympy\nprint(1)", True),
        ("print(1", False),
        ("print(1)\x00", False),
        ("print(1)\n### Instruction\nnext", True),
    ],
)
def test_programs_that_the_harness_can_run(program, runs):
    assert published.is_run(program) is runs


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("\\frac{3}{4}", 0.75),
        ("7", 7),
        ("1,234", 1234),
        ("[5,6]", 56),  # commas are dropped before it is a list
        ("(2)", 2),
        ("2**10", 1024),
        ("9**9**9**9", None),
        ("__import__('os')", None),
        ("1/0", None),
        ("nan()", None),
        ("'a' * 10**10", None),
        ("(" * 5000 + "1" + ")" * 5000, None),
    ],
)
def test_numbers_without_evaluating_anything(text, number):
    assert published.number_it(text) == number
