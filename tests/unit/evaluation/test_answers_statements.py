"""How models state an answer: after thoughts, in tags and lists, corrected, with exclamation marks and remarks, as a
power, a root or a factorial still to be computed, or as Python, which is never run."""

from __future__ import annotations

import pytest

from s2l_ray.evaluation.answers.grading import grade

NUMBERS = ("number", "rounded_number", "one_of_several", "numglue", "mathematics", "math")


def asked(*_: str) -> str:
    return "unreadable"


def right(gold: object, text: str, rule: str = "number", form: str = "cot") -> bool:
    return grade(rule, str(gold), text, asked, form=form).correct  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "thoughts",
    ["So the answer is 31.", "Perhaps \\boxed{31}? No.", "#### 31", "Question: how many?\nThe answer is 31, I think."],
)
@pytest.mark.parametrize("answer", ["So 52 are left.", "The answer is 52.", "\\boxed{52}", "<answer>52</answer>"])
def test_thoughts_are_no_answer(thoughts, answer):
    text = f"<think>\n{thoughts}\n</think>\n\n{answer}"
    for rule in NUMBERS:
        assert right(52, text, rule), rule
        assert not right(31, text, rule), rule
        assert not right(52, f"<think>\n{answer}\n</think>\n\nThe answer is 31.", rule), rule


def test_thoughts_with_nothing_behind_them_are_all_there_is():
    assert right(31, "The answer is 31.\n</think>\n\n")
    assert right(31, "<think>\nThe answer is 31.")
    assert right(31, "<think>\nThe answer is 31.</think><|im_end|>")
    assert not right(52, "The answer is 31.</think><|im_end|>\nThe answer is 52.</think> So 52.")


@pytest.mark.parametrize("inside", ["52", "\n52 plums\n", "The total is 52.", "$52$"])
def test_an_answer_between_tags_counts_rather_than_what_follows(inside):
    text = f"We add 21 and 31.\n<answer>{inside}</answer>\nThis took 3 steps."
    assert right(52, text)
    for other in (21, 31, 3):
        assert not right(other, text), other
    assert right("Tuesday", "<answer>Tuesday</answer> is it", "words")


@pytest.mark.parametrize("bullet", ["The answer is:\n- {} plums", "Final answer:\n\n- {}", "**Answer:**\n- {}"])
def test_the_dash_of_a_list_is_no_minus(bullet):
    for rule in NUMBERS:
        assert right(52, bullet.format(52), rule), rule
        assert not right(-52, bullet.format(52), rule), rule
        assert right(-52, bullet.format(-52), rule), rule
    assert right(-52, "The answer is - 52.")
    assert right(-52, "The answer is:\n-52")


CORRECTED = [
    "{}, no wait, {}", "{}... no, {}", "{}, sorry, I meant {}", "{} - oh wait, that should be {}", "{}; actually, {}",
    "{}. Wait, it should be {}", "{}. Actually, that should have been {}", "{}. Sorry, it's {}", "{}! No, that is {}",
]  # fmt: skip


@pytest.mark.parametrize("correction", CORRECTED)
@pytest.mark.parametrize(("old", "new"), [("31", "52"), ("$4.50", "$5.25"), ("31 plums", "52 plums")])
def test_what_is_corrected_is_no_answer(correction, old, new):
    text = f"The answer is {correction.format(old, new)}."
    for rule in ("number", "rounded_number", "one_of_several"):
        assert right(new.strip("$").split()[0], text, rule), rule
        assert not right(old.strip("$").split()[0], text, rule), rule


@pytest.mark.parametrize(
    "behind",
    [", no 5-dollar bills", " coins, no 10-cent coins among them", ", no 2 of them alike", ". No 3 of them are alike",
     ". Wait, 31 was the number of pears", ". Actually, 31 pears were there at first", ". It should be 31 for pears",
     ", not a single 5-dollar note", "; 31 are pears"],
)  # fmt: skip
def test_what_only_resembles_a_correction_leaves_the_answer(behind):
    for number in ("52", "5.25"):
        assert right(number, f"The answer is {number}{behind}."), number
        for other in ("5", "10", "2", "3", "31", "25"):
            assert not right(other, f"The answer is {number}{behind}."), other


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3^{11}", 177147), ("2 \\cdot 3^{11}", 354294), ("3^{11} \\cdot 2", 354294), ("2^{-3}", "1/8"),
        ("\\sqrt{144}", 12), ("\\frac{\\sqrt{144}}{3}", 4), ("√144", 12), ("6!", 720), ("\\frac{6!}{2}", 360),
        ("6! = 720", 720), ("13 squared", 169), ("4 cubed", 64), ("2 times 3 squared", 18),
    ],
)  # fmt: skip
def test_powers_roots_and_factorials_are_worth_their_value(text, value):
    for place in ("The answer is ${}$.", "\\boxed{{{}}}", "The answer is {}."):
        if "!" in text and "=" not in text and "$" not in place and "box" not in place:
            continue
        for rule in ("number", "mathematics"):
            assert right(value, place.format(text), rule), (rule, place)
            for other in ("3", "11", "2", "144", "6", "13", "4"):
                assert other == str(value) or not right(other, place.format(text), rule), (rule, place, other)


@pytest.mark.parametrize("text", ["13 squared units", "13 cubed feet", "13^\\circ", "13 \\text{ cm}^{2}", "13 m^{3}"])
def test_exponents_of_units_are_none_of_the_number(text):
    for rule in ("number", "math"):
        assert right(13, f"\\boxed{{{text}}}", rule), rule
        assert not right(169, f"\\boxed{{{text}}}", rule), rule


@pytest.mark.parametrize("mark", ["!", "!!", "!.", "! That is a lot.", "!\"", "! We are done! 3 cheers!"])  # fmt: skip
def test_an_exclamation_mark_in_prose_is_no_factorial(mark):
    for number in (6, 120):
        assert right(number, f"The answer is {number}{mark}")
        assert not right(720, f"The answer is {number}{mark}")


@pytest.mark.parametrize(
    "code",
    ["eval('52')", "eval('52')+0", "exec(\"x = 52\")", "print(52)", "f(52)", "os.kill(52)", "__import__('os').nice(52)",
     "open(\"52\").read()"],
)  # fmt: skip
def test_python_in_an_answer_is_never_worth_its_value(code):
    for rule in NUMBERS:
        for place in ("\\boxed{{{}}}", "The answer is {}.", "#### {}"):
            assert not right(52, place.format(code), rule), (rule, place)


@pytest.mark.parametrize("text", ["f(3) = 52", "P(3, 2) = 52", "x(52)/x = 52", "(52)", "52 (fifty-two)"])
def test_brackets_behind_names_and_numbers_are_ordinary_notation(text):
    assert right(52, f"The answer is {text}.")
    assert not right(3, f"The answer is {text}.")


def test_remarks_behind_words():
    for remark in (", 3 days after Sunday", ", the third day of it", ", as it is in spring"):
        assert right("Wednesday", f"The answer is Wednesday{remark}.", "words"), remark
        assert not right("Sunday", f"The answer is Wednesday{remark}.", "words"), remark
    for others in (", Thursday", ", or Thursday as well", ", Thursday and Friday", " and Thursday", ", thursday"):
        assert not right("Wednesday", f"The answer is Wednesday{others}.", "words"), others
    assert right("red, white and blue", "The answer is red, white and blue.", "words")
    assert not right("red", "The answer is red, white.", "words")


OWNERS = "Whose sled is slowed less? \nAnswer Choices: (A) Mia (B) Mia's brother"


@pytest.mark.parametrize(
    ("text", "letter"),
    [("Mia's sled", "A"), ("Mia’s", "A"), ("Mia", "A"), ("Mia's brother", "B"), ("Mia's brother's sled", "B")],
)
def test_options_in_the_possessive(text, letter):
    for gold in "AB":
        made = grade("choice", gold, f"The answer is {text}.", asked, question=OWNERS)  # type: ignore[arg-type]
        assert made.correct is (gold == letter), gold
    plural = "Which is heavier? \nAnswer Choices: (A) glass (B) glasses"
    assert not grade("choice", "A", "The answer is glasses.", asked, question=plural).correct  # type: ignore[arg-type]
