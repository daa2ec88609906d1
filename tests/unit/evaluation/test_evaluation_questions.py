"""Tasks, questions and prompts: ids of content, records of the datasets, what is refused."""

import json
import subprocess
import sys

import pytest

from s2l_ray.config.custom_task import CustomTaskConfig
from s2l_ray.config.section import Contradictions
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.evaluation.prompts import PROGRAM_STEM, messages, passes
from s2l_ray.evaluation.questions import Question, first_by_id, parts, question_id, read_questions
from s2l_ray.evaluation.tasks import BUILT_IN, MATHS, task_of, tasks_of


def lines(*rows: dict) -> list[bytes]:
    return [json.dumps(row).encode() + b"\n" for row in rows]


def ask(text: str, gold: str, **more: str) -> dict:
    return {"question": text, "answer": gold, **more}


def test_ids_are_of_content_and_nothing_else():
    rows = [ask("1 + 1?", "2"), ask("2 + 2?", "4", topic="x"), ask("3 + 3?", "6")]
    forwards = read_questions(BUILT_IN["gsm8k"], lines(*rows), "a.jsonl")
    backwards = read_questions(BUILT_IN["gsm8k"], lines(*reversed(rows)), "b.jsonl")
    assert [q.id for q in forwards] == [q.id for q in reversed(backwards)]
    assert len({q.id for q in forwards}) == 3
    assert forwards[0].id == question_id("gsm8k", "1 + 1?", "2")
    others = [("svamp", "1 + 1?", "2"), ("gsm8k", "1 + 1?", "3"), ("gsm8k", "1 + 1? ", "2"), ("gsm8k", "1 + 1", "?2")]
    assert forwards[0].id not in {question_id(*other) for other in others}


def test_duplicates_count_as_often_as_the_set_has_them():
    questions = read_questions(BUILT_IN["gsm8k"], lines(ask("a?", "1"), ask("a?", "1"), ask("a?", "1")), "a")
    assert len({q.id for q in questions}) == 3


def test_groups_are_the_columns_of_the_task():
    (question,) = read_questions(BUILT_IN["math"], lines(ask("x?", "1", topic="Algebra", level="Level 5")), "a")
    assert question.groups == {"topic": "Algebra", "level": "Level 5"}


def test_records_of_the_sets():
    assert sorted(BUILT_IN) == sorted([*MATHS, "clinical", "quickstart"])
    assert {name: BUILT_IN[name].size for name in MATHS} == {
        "gsm8k": 1319, "math": 5000, "numglue": 1042, "svamp": 1000, "mathematics": 1000, "simuleq": 514,
    }  # fmt: skip
    assert {name for name in MATHS if BUILT_IN[name].domain == "out"} == {"svamp", "mathematics", "simuleq"}
    assert all(task.level and task.title for task in BUILT_IN.values())
    assert all(task.source for task in BUILT_IN.values() if task.name != "quickstart")
    assert BUILT_IN["math"].max_new_tokens == 1024
    assert BUILT_IN["clinical"].max_new_tokens == 192


def test_prompts_of_each_form():
    question = Question(b"", "gsm8k", "How many?", "3")
    assert messages(question, "cot") == [{"role": "user", "content": "How many?"}]
    assert messages(question, "pot") == [{"role": "user", "content": "How many?" + PROGRAM_STEM}]
    assert messages(question, "pot", " Write code.")[0]["content"] == "How many? Write code."
    assert [passes(form, True) for form in ("cot", "pot", "hybrid")] == [("cot",), ("pot",), ("pot", "cot")]
    assert passes("hybrid", BUILT_IN["clinical"].has_programs) == ("cot",)


def test_clinical_prompt_and_findings():
    row = {"findings": "Lungs are clear. Heart normal.", "impression": "Normal.", "source": "iu"}
    (question,) = read_questions(BUILT_IN["clinical"], lines(row), "a")
    assert "Findings: Lungs are clear. Heart normal.\n" in question.text
    assert (question.gold, question.findings, question.groups) == ("Normal.", row["findings"], {"source": "iu"})


def test_custom_task_is_read_by_its_templates():
    custom = CustomTaskConfig(
        files=["x.jsonl"], question="{problem} {{sic}}", gold="{value}", rule="number", group_by=["kind"]
    )
    task = task_of("mine", {"mine": custom})
    rows = [{"problem": "Sum?", "value": 5, "kind": "sum"}]
    (question,) = read_questions(task, lines(*rows), "x.jsonl")
    assert (question.text, question.gold, question.groups) == ("Sum? {sic}", "5", {"kind": "sum"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"question": "nothing"}, "names no column"),
        ({"gold": "{a.b}"}, "not just a column's name"),
        ({"gold": "{a!r}"}, "not just a column's name"),
        ({"question": "{open"}, "cannot be filled in"),
    ],
)
def test_templates_that_cannot_be_used(values, said):
    with pytest.raises((Contradictions, ValueError), match=said):
        CustomTaskConfig(files=["x"], **values)


def test_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="rule"):
        CustomTaskConfig.model_validate({"files": ["x"], "rule": "fuzzy"})


@pytest.mark.parametrize(
    ("names", "said"),
    [(["gsm9k"], "'gsm9k' is not a task"), (["gsm8k", "gsm8k"], "twice"), (["custom"], "custom is empty")],
)
def test_task_names_that_are_refused(names, said):
    with pytest.raises(EvaluationError, match=said):
        tasks_of(names, {})


def test_a_custom_task_cannot_take_a_built_in_name():
    with pytest.raises(EvaluationError, match="rename"):
        tasks_of(["math"], {"math": CustomTaskConfig(files=["x"])})
    own = {"a": CustomTaskConfig(files=["x"]), "b": CustomTaskConfig(files=["y"])}
    assert [task.name for task in tasks_of(["gsm8k", "custom"], own)] == ["gsm8k", "a", "b"]


@pytest.mark.parametrize(
    ("task", "rows", "said"),
    [
        ("gsm8k", [b"{"], "line 1 is not JSON"),
        ("gsm8k", [b"[1]"], "not an object"),
        ("gsm8k", [b'{"question": NaN, "answer": "1"}'], "not JSON"),
        ("gsm8k", [b"\xff\xfe"], "line 1 is not JSON"),
        ("gsm8k", [b"[" * 100_000], "not JSON"),
        ("gsm8k", [b'{"question": "a?"}'], "no column 'answer'"),
        ("gsm8k", [b'{"question": "a?", "answer": null}'], "holds None"),
        ("gsm8k", [b'{"question": "a?", "answer": true}'], "holds True"),
        ("gsm8k", [b'{"question": "a?", "answer": "seven"}'], "'seven' is not a number"),
        ("gsm8k", [b'{"question": "a?", "answer": " "}'], "the gold is empty"),
        ("mathematics", [b'{"question": "a?", "answer": "[1, x]"}'], "'x' is not a number"),
        ("mathematics", [b'{"question": "a?", "answer": "3 $ y"}'], "'3 \\$ y'"),
        ("math", [b'{"question": "a?", "answer": "$$"}'], "only layout commands"),
        ("gsm8k", [b"", b"\n"], "has no questions"),
    ],
)
def test_files_that_cannot_be_used(task, rows, said):
    with pytest.raises(EvaluationError, match=said):
        read_questions(BUILT_IN[task], rows, "test.jsonl")


def test_a_gold_that_cannot_be_read_is_named_by_id():
    with pytest.raises(EvaluationError, match=question_id("svamp", "a?", "many").hex()):
        read_questions(BUILT_IN["svamp"], lines(ask("a?", "many"), ask("b?", "1")), "a")


def test_parts_depend_on_the_questions_alone():
    questions = read_questions(BUILT_IN["gsm8k"], lines(*[ask(f"{i}?", str(i)) for i in range(100)]), "a")
    cut = parts(questions, 30)
    assert [len(part) for part in cut] == [25, 25, 25, 25]
    assert cut == parts(questions[::-1], 30)
    assert [q for part in cut for q in part] == first_by_id(questions, None)
    assert first_by_id(questions[::-1], 7) == first_by_id(questions, None)[:7]


@pytest.mark.thorough
def test_imports_are_light():
    """A worker that only reads questions or counts n-grams waits for no library that it does not use."""
    names = "answers.grading answers.programs contamination prompts questions statistics summaries tasks bertscore"
    program = (
        "import importlib, sys, s2l_ray.evaluation\n"
        f"for name in {names.split()!r}: importlib.import_module('s2l_ray.evaluation.' + name)\n"
        "heavy = 'torch ray transformers sympy mpmath math_verify sacrebleu rouge_score'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
