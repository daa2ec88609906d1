"""The section `evaluation.custom`: a user's own test set."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from s2l_ray.config.section import Location, Section, bounded

Form = Literal["cot", "pot", "hybrid"]
RULES = ("number", "rounded_number", "one_of_several", "numglue", "mathematics", "math", "choice", "words", "exact",
         "verbatim", "summary")  # fmt: skip
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


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
    """Files in JSON Lines format."""
    question: str = "{question}"
    """What the model is asked, with columns in braces: `{problem}`."""
    gold: str = "{answer}"
    """The correct answer, with columns in braces."""
    rule: Literal[
        "number", "rounded_number", "one_of_several", "numglue", "mathematics", "math", "choice", "words", "exact",
        "verbatim", "summary",
    ] = "exact"  # fmt: skip
    """How answers are compared: as one exact number; one number to the precision given; at most three numbers, one of
    which is the reference; by the rules of NumGLUE or Mathematics; as LaTeX mathematics; as an option's letter or text;
    as words; as identical text; as identical completions, character for character; or as summaries, by BLEU and
    ROUGE."""
    form: Form | None = None
    """How the questions are answered; None: as `evaluation.form` says."""
    metric: str | None = None
    """`package.module:function`, an additional metric of your own. It receives a pyarrow table (question_id, question,
    gold, text, form_used, and a struct `groups`) and returns, for each name, one number or one per row; the latter get
    an interval. It runs on the machine that runs the command, with your permissions."""
    group_by: list[str] = Field(default=[], max_length=10)
    """Columns whose values break the report's results down."""
    max_new_tokens: int = bounded(512, 2**17, "no model writes completions that long", ge=1)
    """Longest completion (tokens)."""

    def contradictions(self) -> Iterator[str]:
        for name, template in (("question", self.question), ("gold", self.gold)):
            try:
                if not fields_of(template):
                    yield f"{name}={template!r} names no column, so all questions would be alike; write '{{column}}'"
            except ValueError as error:
                yield f"{name}={template!r} cannot be filled in: {error}"
        if self.metric is not None and not _FUNCTION.fullmatch(self.metric):
            yield f"metric={self.metric!r} names no function; write package.module:function"
