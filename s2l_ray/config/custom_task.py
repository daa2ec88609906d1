"""A user's own test set, as `evaluation.custom` describes it."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from s2l_ray.config.section import Location, Section, bounded

RULES = ("number", "rounded_number", "one_of_several", "numglue", "mathematics", "math", "choice", "words", "exact",
         "summary")  # fmt: skip


def fields_of(template: str) -> list[str]:
    """The columns that a template such as `{question}` names.

    Raises:
        ValueError: the template is malformed.
    """
    names = []
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is not None and (not name.isidentifier() or spec or conversion):
            raise ValueError("holds a field that is not just a column's name; write {column}, and {{ }} for braces")
        names += [] if name is None else [name]
    return names


class CustomTaskConfig(Section):
    files: list[Location] = Field(min_length=1, max_length=10_000)
    """Files with one JSON object a line."""
    question: str = "{question}"
    """What the model is asked, with columns in braces: `{problem}`."""
    gold: str = "{answer}"
    """The right answer, with columns in braces."""
    rule: Literal[
        "number", "rounded_number", "one_of_several", "numglue", "mathematics", "math", "choice", "words", "exact",
        "summary",
    ] = "exact"  # fmt: skip
    """How answers are compared: as one exact number; one number as far as both were rounded; at most three numbers, one
    of which is the gold; by the rules of NumGLUE or Mathematics; as mathematics in LaTeX; as an option's letter or its
    text; as words; as the same text; or as summaries, by BLEU and ROUGE."""
    group_by: list[str] = Field(default=[], max_length=10)
    """Columns by whose values the report splits its figures."""
    max_new_tokens: int = bounded(512, 2**17, "and no model writes that much", ge=1)
    """Longest completion (tokens)."""

    def contradictions(self) -> Iterator[str]:
        for name, template in (("question", self.question), ("gold", self.gold)):
            try:
                if not fields_of(template):
                    yield f"{name}={template!r} names no column, so all questions would be alike; write '{{column}}'"
            except ValueError as error:
                yield f"{name}={template!r} cannot be filled in: {error}"
