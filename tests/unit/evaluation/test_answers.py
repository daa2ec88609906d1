"""Verdicts: pairs of every class, golds of the real test sets, and texts that were made to hang or crash a scorer."""

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2l_ray.evaluation.answers import numbers
from s2l_ray.evaluation.answers.grading import Grade, UnreadableGold, falls_back, grade, grade_program
from s2l_ray.evaluation.answers.symbolic import ProcessComparer
from s2l_ray.evaluation.tasks import BUILT_IN, MATHS
from tests.support.paths import ROOT, SHARED
from tests.support.tiers import rest_thorough

PAIRS = ROOT / "tests/data/answer_pairs.jsonl"
DATA = SHARED / "data"


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n") if line] if path.exists() else []


@pytest.fixture(scope="module")
def compare() -> Iterator[ProcessComparer]:
    with ProcessComparer(seconds=1) as comparer:
        yield comparer


def judge(row: dict, compare) -> Grade:
    rule, question = BUILT_IN[row["dataset"]].rule, row.get("question", "")
    text = row["completion"]
    return grade(rule, row["gold"], text, compare, form=row["form"], question=question, task=row["dataset"])  # type: ignore[arg-type]


def wrong_ones(rows: list[dict], compare) -> list[tuple]:
    graded = [(row, judge(row, compare)) for row in rows]
    return [
        (row["dataset"], row["completion"][:80], row["gold"], g) for row, g in graded if g.correct != row["correct"]
    ]


@pytest.mark.thorough
def test_pairs_of_every_class(compare):
    rows = rows_of(PAIRS)
    assert len({(row["dataset"], row["class"]) for row in rows if row["class"] != "further"}) == 72
    assert wrong_ones(rows, compare) == []


def test_public_pairs(compare):
    rows = rows_of(DATA / "evaluation/answer_pairs.jsonl")
    if not rows:
        pytest.skip("needs shared/data")
    assert len(rows) == 162
    assert wrong_ones(rows, compare) == []


def statements(task: str, row: dict) -> Iterator[tuple[str, str]]:
    """A gold as models state it: after a marker, boxed, printed, and in the set's own solution."""
    gold = row["answer"]
    yield "cot", f"So we add.\nThe answer is {f'${gold}$' if task == 'math' else gold}."
    yield "cot", f"\\boxed{{{gold}}}"
    yield "output", gold + "\n"
    if "solution" in row:
        yield "cot", row["solution"]


def sweep(task: str, rows: list[dict], compare) -> list[tuple]:
    """What is wrong of: every gold is right, the next question's wrong wherever its value differs."""
    rule, faults = BUILT_IN[task].rule, []
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        for form, text in statements(task, row):
            made = grade(rule, row["answer"], text, compare, form=form, question=row["question"])  # type: ignore[arg-type]
            faults += [] if made.correct else [(task, row["answer"], text[-100:], made)]
        values = [numbers.whole(numbers.plain(r["answer"])) for r in (row, other)]
        if row["answer"].strip() == other["answer"].strip() or (all(values) and values[0].value == values[1].value):  # type: ignore[union-attr]
            continue
        for form, text in itertools.islice(statements(task, other), 3):
            made = grade(rule, row["answer"], text, compare, form=form, question=row["question"])  # type: ignore[arg-type]
            faults += [(task, row["answer"], text, made)] if made.correct else []
    return faults


@pytest.mark.parametrize("task", MATHS)
def test_golds_of_a_sample(task, compare):
    rows = rows_of(DATA / f"math/eval/{task}.jsonl")
    if not rows:
        pytest.skip("needs shared/data")
    assert sweep(task, rows[::25], compare) == []


@pytest.mark.slow
@pytest.mark.parametrize("task", MATHS)
def test_golds_of_all_questions(task, compare):
    rows = rows_of(DATA / f"math/eval/{task}.jsonl")
    if not rows:
        pytest.skip("needs shared/data")
    assert sweep(task, rows, compare) == []


HOSTILE = {
    "long": "9 " * 500_000,
    "one number": "9" * 1_000_000,
    "spaces": "The answer is 18" + " " * 1_000_000,
    "no-break spaces": "The answer is" + "\u00a0" * 500_000 + "18",
    "markers": "The answer is " * 50_000,
    "headings": "#### \n" * 50_000,
    "boxes": "\\boxed{" * 50_000,
    "empty boxes": "\\boxed{}" * 50_000,
    "brackets": "\\boxed{" + "(" * 50_000 + "1" + ")" * 50_000 + "}",
    "braces": "\\boxed{" + "{" * 50_000,
    "fractions": "\\boxed{" + "\\frac{1}{" * 5_000 + "1" + "}" * 5_000 + "}",
    "roots": "\\boxed{" + "\\sqrt{" * 50 + "2" + "}" * 50 + "}",
    "tower": "\\boxed{9^{9^{9^{9^9}}}}",
    "large power": "\\boxed{7^{99999999}}",
    "products of powers": "\\boxed{" + "7^{60000}" * 80 + "}",
    "factorials": "\\boxed{((2999!)!)!}",
    "binomial": "\\boxed{\\binom{99999999}{49999999}}",
    "exponent": "The answer is 1e999999999999.",
    "sum": "\\boxed{" + "+x" * 450 + "}",
    "minus": "\\boxed{" + "-" * 900 + "1}",
    "commas": "\\boxed{" + "1," * 900 + "1}",
    "dollars": "$" * 99_999 + "5",
    "asterisks": "*" * 100_000 + " __" * 30_000,
    "control characters": "".join(map(chr, range(32))) * 1000 + "The answer is \x1b[31m18\x00.",
    "surrogates": "The answer is \ud800 18 \udfff.",
    "emoji": "The answer is 1️⃣8️⃣ 🧮.",
    "other digits": "The answer is ١٨.",
    "python": "\\boxed{__import__('os').system('true')}",
    "fences": "```python\n" * 20_000,
    "commands": "\\boxed{" + "\\left" * 20_000 + "}",
    "ampersands": "\\boxed{\\begin{pmatrix}" + "&" * 1500 + "\\end{pmatrix}}",
    "equals": "The answer is " + "1=" * 900,
    "points": "The answer is $\\sqrt2. + \\frac.9. - \\frac{.}{.} + 2\\sqrt5.$",
    "point of a root": "\\boxed{3\\sqrt2.\\,}",
    "an exponent behind a digit": "\\boxed{\\frac1e400{3}{2} + \\sqrt2e5}",
    "a fraction without a top": "The answer is $18\\frac.90.",
    "digits behind a minus": "The answer is 3-6." + "9" * 500,
    "digits behind operators": "The answer is 3*" + "9" * 500 + " + " + "8" * 500 + "/7^" + "6" * 500,
    "digits in a root": "The answer is √" + "9" * 900,
    "or": "The answer is " + "1 or " * 380,
    "signs": "\\boxed{" + "\\pm" * 500 + "1}",
    "unreadable": "\\boxed{\\int_0^1 \\prod_{k} \\oint \\mathcal{F}^{k!} dx}",
}  # fmt: skip
GOLDS = {
    "gsm8k": "17", "svamp": "17.0", "numglue": "B", "simuleq": "17.5", "mathematics": "[3, 5]",
    "math": "\\frac{17}{\\sqrt{5}}",
}  # fmt: skip


@pytest.mark.parametrize("name", rest_thorough(HOSTILE, 5))
def test_hostile_texts_neither_hang_nor_crash(name, compare):
    for (task, gold), form in itertools.product(GOLDS.items(), ("cot", "output")):
        start = time.process_time()
        made = judge({"dataset": task, "gold": gold, "completion": HOSTILE[name], "form": form}, compare)
        assert not made.correct, (task, form)
        assert len(made.extracted) <= 500
        assert time.process_time() - start < 2, (task, form)


@pytest.mark.thorough
def test_a_comparison_that_would_not_end_is_stopped():
    with ProcessComparer(seconds=0.5) as comparer:
        assert comparer("\\frac{1}{3}", "\\frac{2}{6}") == "equal"
        assert comparer("1", "\\int_0^1 \\sum_{k=1}^{\\infty} x^{k^{k}} dx") == "timeout"
        assert comparer("\\frac{1}{2^{98}}", "\\frac{1}{2^{99}}") == "different"  # a new process


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("x^2+1=0", "x^2+2=0", "different"),
        ("x^2+1=0", "2x^2+2=0", "equal"),
        ("\\sin^2 x + \\cos^2 x", "1", "equal"),
        ("\\frac{1}{2004!}", "\\frac{1}{2006!}", "different"),
        ("5", "'; import os; '", "unreadable"),
        ("5", "x" * 600, "unreadable"),
        ("5", "\\foo{\\bar", "unreadable"),
    ],
)
def test_comparisons_by_the_library(gold, answer, outcome, compare):
    assert compare(gold, answer) == outcome


class Ran:
    def __init__(self, outcome: str, stdout: str = "") -> None:
        self.outcome, self.stdout = outcome, stdout


def test_programs_by_what_they_came_to(compare):
    good = grade_program("number", "18", Ran("ok", "18\n"), compare, task="gsm8k")
    assert (good.correct, good.correct_published, good.reason, good.how) == (True, True, "right", "output")
    for result in (None, Ran("timeout", "18"), Ran("exception"), Ran("denied"), Ran("memory"), Ran("no_output")):
        failed = grade_program("number", "18", result, compare, task="gsm8k")
        assert (failed.correct, failed.reason, falls_back(failed)) == (False, "program_failed", True)
    silent = grade_program("number", "18", Ran("ok", "None\n"), compare)
    assert (silent.reason, falls_back(silent), silent.correct_published) == ("no_answer", True, None)
    wrong = grade_program("number", "18", Ran("ok", "17"), compare)
    assert (wrong.reason, falls_back(wrong)) == ("wrong_value", False)


def test_reasons(compare):
    def reason(text: str, **more) -> str:
        return grade("number", "18", text, compare, **more).reason

    assert reason("The answer is 18.") == "right"
    assert reason("The answer is 18.", truncated=True) == "right"
    assert reason("The answer is 17.") == "wrong_value"
    assert reason("We add 5 and", truncated=True) == "truncated"
    assert reason("") == "no_answer"
    assert reason("The answer is unknown.") == "unreadable"
    assert reason("The answer is 17 or 18.") == "unreadable"
    with pytest.raises(UnreadableGold, match="'many' is not a number"):
        grade("number", "many", "The answer is 5.", compare)


def test_first_of_several_is_told(compare):
    def first(text: str) -> tuple[bool, bool | None]:
        made = grade("one_of_several", "9", text, compare)
        return made.correct, made.first

    assert first("The answer is x = 9, y = 15.") == (True, True)
    assert first("The answer is x = 15, y = 9.") == (True, False)
    assert first("The answer is 15.") == (False, False)


@pytest.mark.parametrize("text", ["", "The answer is unknown."])
def test_an_answer_without_numbers_has_no_first_one_that_is_right(compare, text):
    """Told of every question, or the figure would be missing as soon as one answer has none."""
    assert grade("one_of_several", "9", text, compare).first is False
    assert grade_program("one_of_several", "9", None, compare).first is False
    assert grade_program("number", "9", None, compare).first is None
