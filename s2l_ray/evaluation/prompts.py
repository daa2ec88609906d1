"""Turns questions into conversations for the target to continue, which training's renderer turns into token ids."""

from __future__ import annotations

from typing import Literal

from s2l_ray.evaluation.questions import Question

Form = Literal["cot", "pot", "hybrid"]
Pass = Literal["pot", "cot"]
PROGRAM_STEM = " Let's write a program."
"""Appended to questions that ask for a program, as in the published harness and in MathInstruct."""


def passes(form: Form, has_programs: bool) -> tuple[Pass, ...]:
    """What is generated, in order; with `hybrid`, the chain of thought only for questions whose program failed."""
    if not has_programs:
        return ("cot",)
    return {"cot": ("cot",), "pot": ("pot",), "hybrid": ("pot", "cot")}[form]  # type: ignore[return-value]


def messages(question: Question, kind: Pass, program_stem: str = PROGRAM_STEM) -> list[dict[str, str]]:
    """The user's turn; zero-shot, nothing before it."""
    return [{"role": "user", "content": question.text + (program_stem if kind == "pot" else "")}]
