"""Verdicts of several samples, comparisons of models, figures of one's own: pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from s2l_ray.evaluation.comparison import Verdicts, compare_models, comparison_lines
from s2l_ray.evaluation.questions import Question
from s2l_ray.evaluation.report import accuracy_report, own_figures, report_markdown
from s2l_ray.evaluation.scoring import Answers, Completion, Program, collect, score
from s2l_ray.evaluation.tasks import BUILT_IN, Task

TASK = Task("mine", "number")
NO = "no_program"


def never(gold: str, answer: str) -> Any:
    pytest.fail("a comparison was asked for")


def answers(*texts: str, kind: str = "cot") -> Answers:
    made = Answers(Question(b"q" * 16, "mine", "How many?", "3"))
    for i, text in enumerate(texts):
        made.completions[i, kind] = Completion(kind, text, False, 5)  # type: ignore[index,arg-type]
    return made


@pytest.mark.parametrize(
    ("texts", "extracted", "correct"),
    [
        (["The answer is 3."], "3", True),
        (["The answer is 4.", "The answer is 3.", "The answer is 3."], "3", True),
        (["The answer is 4.", "The answer is 3."], "4", False),  # of equally many, the first
        (["", "", "The answer is 3."], "3", True),  # no answer is no vote
        (["", ""], "", False),
    ],
)
def test_the_answer_of_most_samples_counts(texts, extracted, correct):
    made = score(TASK, answers(*texts), never)
    assert (made.grade.extracted, made.grade.correct) == (extracted, correct)


def test_programs_and_what_they_fall_back_to():
    made = answers("print(3)", kind="pot")
    made.programs[0] = Program("ok", "3\n")
    one = score(TASK, made, never)
    assert (one.grade.correct, one.form_used, one.outcome, one.fell_back) == (True, "pot", "ok", False)
    made.programs[0] = Program("timeout", "")
    one = score(TASK, made, never)
    assert (one.grade.reason, one.form_used, one.outcome) == ("program_failed", "pot", "timeout")
    made.completions[0, "cot"] = Completion("cot", "It is 3.", False, 7)
    one = score(TASK, made, never)
    assert (one.grade.correct, one.form_used, one.outcome, one.fell_back) == (True, "cot", "timeout", True)
    assert one.num_new_tokens == 12
    made.programs[0] = None
    assert score(TASK, made, never).outcome == "no_program"


def test_rows_are_brought_together_by_question_and_sample():
    asked = [Question(bytes([i]) * 16, "mine", "?", "3") for i in range(3)]
    generations = [
        {"question_id": asked[i].id, "pass": kind, "sample": 0, "text": f"{kind}{i}", "finish": finish,
         "num_new_tokens": 4}
        for i, kind, finish in ((2, "pot", "eos"), (0, "pot", "length"), (2, "cot", "eos"))
    ]  # fmt: skip
    programs = [{"question_id": asked[2].id, "sample": 0, "source": "x", "outcome": "ok", "stdout": "3"},
                {"question_id": asked[0].id, "sample": 0, "source": None, "outcome": NO, "stdout": ""}]  # fmt: skip
    made = collect(asked, generations, programs)
    assert [one.question.id for one in made] == [asked[0].id, asked[2].id]  # the second was not asked
    assert made[0].completions[0, "pot"].truncated
    assert made[0].programs == {0: None}
    assert made[1].programs == {0: Program("ok", "3")}
    assert made[1].samples == [0]


def test_a_completion_counts_letter_by_letter_where_that_is_the_rule():
    task = BUILT_IN["quickstart"]
    for text, truncated, right in (("bako", False, True), ("bako ", False, False), ("Bako", False, False),
                                   ("bako", True, False), ("", False, False)):  # fmt: skip
        made = Answers(Question(b"q" * 16, "quickstart", "?", "bako"))
        made.completions[0, "cot"] = Completion("cot", text, truncated, 3)
        assert score(task, made, never).grade.correct is right


def verdicts(right: list[bool], first: int = 0) -> Verdicts:
    return Verdicts([(i + first).to_bytes(16, "big") for i in range(len(right))], np.array(right))


def test_models_are_compared_on_the_questions_of_both():
    first = {"a": verdicts([True] * 30 + [False] * 10), "b": verdicts([True] * 20), "c": verdicts([True])}
    second = {"a": verdicts([False] * 30 + [True] * 20, first=0), "b": verdicts([True] * 20, first=5)}
    made = compare_models(first, second, 0, 1000, 0.95)
    a = made["tasks"]["a"]
    assert (a["only_first"], a["only_second"], a["num_questions"], a["asked_of_one_alone"]) == (30, 10, 40, 10)
    assert a["difference"] == pytest.approx(0.5)
    assert a["p_value"] < 0.01 <= a["p_holm"] + 0.01
    assert a["p_holm"] == pytest.approx(min(1.0, 2 * a["p_value"]))
    assert (made["tasks"]["b"]["num_questions"], made["tasks"]["b"]["difference"]) == (15, 0)
    assert made["averages"]["macro"]["value"] == pytest.approx(0.25)
    lines = comparison_lines("x", "y", made)
    assert lines[0] == "x minus y:"
    assert "+50.0%" in lines[1]
    with pytest.raises(ValueError, match="no question in common"):
        compare_models({"a": verdicts([True])}, {"a": verdicts([True], first=9)}, 0, 1000, 0.95)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "not a mapping of names"), ([1.0], "it returned list"), ({"x": [1.0]}, "one for each of 3"),
        ({"x": float("nan")}, "not finite"), ({"x": "much"}, "neither a number"), ({"x": [1, 2, None]}, "finite"),
    ],
)  # fmt: skip
def test_figures_of_ones_own_that_cannot_be_used(values, said):
    with pytest.raises(ValueError, match=said):
        own_figures(values, 3, "mine", 0, 100, 0.95)


def test_a_report_marks_small_groups_and_escapes_what_is_foreign():
    rows: dict[str, Any] = {
        "correct": [True, False, True], "correct_published": [None, None, None], "first": [None] * 3,
        "reason": ["right", "wrong_value", "right"], "outcome": [None] * 3, "fell_back": [False] * 3,
        "contaminated": [False] * 3, "template": [False, True, False],
        "groups": [{"topic": "a|<b>"}, {}, {"topic": "c"}],
    }  # fmt: skip
    made = accuracy_report(rows, ["topic"], 0.95)
    assert [(g["name"], g["num_questions"], g["is_small"]) for g in made["groups"]] == [
        ("a|<b>", 1, True), ("c", 1, True),
    ]  # fmt: skip
    assert "correct_published" not in made["figures"]
    assert made["shares"]["template"] == pytest.approx(1 / 3)
    made["figures"]["own/length"] = {"value": 37.5, "low": 30.25, "high": 44.0, "num_questions": 3}
    whole = {"task": {"title": "Mine"}, "model": "x", "unit": "share", "notes": ["a | b"], **made}
    page = report_markdown(whole)
    assert "topic = a\\|\\<b> (few questions)" in page
    assert "| own/length | 37.50 | 30.25 to 44.00 | 3 |" in page  # of its unit nothing is known
    assert "| correct | 66.7% |" in page
    assert "- a \\| b" in page
