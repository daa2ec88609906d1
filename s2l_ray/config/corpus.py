"""The section `corpus`: where the examples come from and how a row becomes prompt and response."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from s2l_ray.config.section import Location, Section, bounded, refuse_repeated

MAX_ROW_BYTES = 16 * 2**20
LATER_SETTINGS: dict[str, Any] = {"ignore_columns": [], "facets": None}
"""Settings that were added later, with their previous fixed values: if they have these, they are in no stage's key, so
that keys of earlier runs remain valid."""


class HuggingFaceSource(Section):
    name: Location
    """Name on the Hugging Face hub (`TIGER-Lab/MathInstruct`), or a folder written by `Dataset.save_to_disk`."""
    subset: str | None = None
    """Name of the dataset's configuration, if it has several."""
    split: str = "train"
    """The split to use as the corpus."""
    revision: str | None = None
    """Commit, tag or branch on the hub; pin it to make the selection reproducible."""


class QuickstartSource(Section):
    num_examples: int = bounded(20_000, 2_000_000, "the generated rows are held in one process's memory", ge=100)
    """Number of training examples to generate."""
    wrong_answer_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of answers that are made wrong, chosen by the seed, to study robustness to noise."""


class TemplateConfig(Section):
    max_text: ClassVar[int] = 100_000

    prompt: str
    """Prompt as a Python format string over the columns: `"Findings: {findings}\\nImpression:"`."""
    response: str
    """Response as a format string over the columns: `"{impression}"`."""

    @field_validator("prompt", "response")
    @classmethod
    def _readable(cls, template: str) -> str:
        try:
            pieces = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ValueError(
                f"{template!r} cannot be filled in ({error}); write {{{{ and }}}} for literal braces"
            ) from None
        for _, name, spec, conversion in pieces:
            if name == "" or spec or conversion:
                raise ValueError(
                    f"{template!r} holds a field that is not just a column's name; write {{column}}, and {{{{ and }}}} "
                    "for literal braces"
                )
        return template

    @field_validator("response")
    @classmethod
    def _has_column(cls, template: str) -> str:
        if not any(name for _, name, _, _ in string.Formatter().parse(template)):
            raise ValueError(f"{template!r} names no column, so all responses would be the same; write {{column}}")
        return template


class CorpusConfig(Section):
    paths: list[Location] = Field(default=[])
    """Files, folders or globs; local or `s3://`, `gs://`, `abfs://`. JSON, JSONL (also .gz, .zst, .bz2), Parquet, CSV,
    Arrow (also folders written by `Dataset.save_to_disk`). In URIs, `?` starts the options (`?region=…`); write %3F for
    a wildcard `?`, %5B and %5D for brackets, %20 for a space."""
    huggingface: HuggingFaceSource | None = None
    """A Hugging Face dataset, instead of `paths`."""
    quickstart: QuickstartSource | None = None
    """The built-in corpus, instead of `paths`."""
    format: Literal["auto", "instruction", "prompt_completion", "messages", "sharegpt", "template"] = "auto"
    """How a row becomes prompt and response: `instruction` (instruction, input?, output; also system, history, tools),
    `prompt_completion` (text, or lists of turns), `messages` and `sharegpt` (chats in the column `messages` or
    `conversations`, with role and content or from and value; also columns system and tools), or your own `template`.
    `auto` decides from the first rows' columns."""
    template: TemplateConfig | None = None
    """Prompt and response over your own columns; sets `format: template`."""
    source_column: str | None = "source"
    """Column that says where an example comes from, for balancing and for tables by source; rows without it belong to
    source `""`. None: no sources."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Exact duplicates (same prompt and response): `drop` keeps one (if other columns differ, the first when sorted by
    their values, whatever the file order), `keep` keeps all; they are counted either way."""
    max_quarantined_share: float = Field(default=0.01, ge=0, le=1)
    """Share of rows that may be unusable before the run stops; every unusable row is listed with its reason."""
    drop_columns: list[str] = Field(default=[])
    """Columns to leave out of the subset's rows (rows with binary values in any other column are unusable)."""
    ignore_columns: list[str] = Field(default=[])
    """Columns (and keys of turns) to ignore although they may change what a row means: the `label` of KTO data,
    `images`, `rejected`. They are kept in the rows. Rows with such columns are unusable unless they are named here."""
    facets: list[str] | None = Field(default=None, max_length=32)
    """Low-cardinality columns (topic, language, skill) by which the run can be inspected, reported and balanced: text,
    whole numbers or booleans, at most 1,000 values. None: detected, the first eight text columns with 2 to 200 values
    and several rows per value; []: none."""
    max_row_bytes: int = bounded(MAX_ROW_BYTES, 2**30, "a task needs about 30 times as much memory", ge=1024)
    """Largest row that is read (bytes in the uncompressed file); a larger one is named and stops the run."""
    read_bytes_per_task: int = bounded(64 * 2**20, 2**33, "each slice is read by a single task", ge=1024)
    """Uncompressed JSONL files are read in slices of this size (bytes)."""

    @field_validator("facets")
    @classmethod
    def _facets(cls, names: list[str] | None) -> list[str] | None:
        refuse_repeated("corpus.facets", names or [])
        return names

    def contradictions(self) -> Iterator[str]:
        given = [n for n in ("paths", "huggingface", "quickstart") if getattr(self, n)]
        if len(given) != 1:
            said = " and ".join(given) if given else "none of them"
            yield (
                f"the corpus needs exactly one of paths, huggingface, quickstart; given: {said}. "
                "Set one (for example corpus.paths=[data/train.jsonl]) and leave the others out"
            )
        if lost := [name for name in self.facets or () if name in self.drop_columns]:
            yield f"corpus.facets and corpus.drop_columns both name {lost[0]!r}; leave it out of one"
        if self.template and self.format not in ("auto", "template"):
            yield (f"corpus.template is given but corpus.format={self.format!r}; remove one of the two")
        if self.format == "template" and not self.template:
            yield ("corpus.format=template needs corpus.template.prompt and corpus.template.response")
