"""Settings that name columns of the corpus, compared with its first rows before anything is started.

What only later rows could show is checked again when the corpus has been read (`corpus.stage.check_stratum`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from s2l_ray.artifacts.manifest import EarlierLayout
from s2l_ray.artifacts.models import CorpusArtifact
from s2l_ray.artifacts.run import RunError, load_run
from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.config.load import ConfigError
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.selection import SOURCES
from s2l_ray.data.facets import FacetValues, facet_text
from s2l_ray.data.formats import used_columns
from s2l_ray.data.read_task import MAX_FURTHER_FILES, files_beyond, first_rows, first_rows_of_each, kept_columns
from s2l_ray.data.units import ReadUnit, SourceError, UnusableRow, clip_names
from s2l_ray.storage.folder import Storage

_TABULAR = ("parquet", "arrow", "csv")
"""Kinds of files whose rows all have the same columns."""
_GENERATED_ROWS = 1000


@dataclass(frozen=True)
class _FirstRows:
    """What the first rows of a corpus show about its columns."""

    columns: list[str]
    """In the order of their appearance."""
    values: FacetValues
    num_rows: int
    is_complete: bool
    """Whether no other row can have another column."""
    unusable: dict[str, str]
    """Facet that `corpus.facets` names → why none of these rows can be used with it."""


def check_columns(config: S2LConfig, units: list[ReadUnit] | None, selecting: Sequence[S2LConfig] = ()) -> list[str]:
    """Refuse settings that name a column which the corpus does not have, or which cannot serve as they ask.

    Args:
        units: the corpus's files; None: it is generated.
        selecting: the configurations that select from this corpus; none: `config` itself.

    Returns:
        What is suspicious, and cannot be known before all rows have been read.

    Raises:
        ConfigError, SourceError: the message says which column, and what to name instead.
    """
    corpus = config.corpus
    selecting = [one for one in selecting or [config] if one.corpus == corpus]
    asked = asked_facets(selecting)
    by_source = sorted({name for one in selecting for name in one.selection.selectors
                        if SOURCES in one.selection.needs_of(name)})  # fmt: skip
    named_source = corpus.source_column != type(corpus).model_fields["source_column"].default
    if not (asked or by_source or corpus.facets or (named_source and corpus.source_column)):
        return []
    rows = _first_rows(config, units)
    notes = list(_about_facets(corpus, rows))
    if corpus.facets is None and (wrong := [by for by in asked if _why_no_facet(by, corpus, rows)]):
        known = _facets_of_complete_corpus(config)
        for by in wrong:
            if by not in known:
                raise ConfigError(
                    f"{asked[by]}={by}: that column is not a facet of this corpus, because "
                    f"{_why_no_facet(by, corpus, rows)}; so nothing could be balanced by it"
                )
    column = corpus.source_column
    if column is not None and column not in rows.columns and (by_source or named_source):
        effect = f", and balancing by source ({', '.join(by_source)}) would do nothing" if by_source else ""
        fault = (
            f"corpus.source_column={column}: {_nowhere(rows)}, so all examples would have the same source{effect}; "
            "name the column that says where an example comes from, or set corpus.source_column=null"
        )
        if rows.is_complete:
            raise ConfigError(fault)
        notes.append(fault)
    return notes


def asked_facets(selecting: Sequence[S2LConfig]) -> dict[str, str]:
    """Facet by which subsets are to be balanced → the setting that says so."""
    found: dict[str, str] = {}
    for one in selecting:
        for by, selector in one.selection.facets_needed().items():
            here = "selection.stratify" if by == one.selection.stratify else f"the selector {selector}: stratify"
            found.setdefault(by, here)
    return found


def _about_facets(corpus: CorpusConfig, rows: _FirstRows) -> Iterator[str]:
    for name in corpus.facets or ():
        if name in rows.unusable:
            raise SourceError(
                f"corpus.facets names {name!r}, and no row could be used: {rows.unusable[name]}; leave it out, or "
                "convert the column"
            )
        if name not in rows.columns:
            fault = f"corpus.facets names {name!r}, which cannot be a facet, because {_nowhere(rows)}; correct the name"
            if rows.is_complete:
                raise SourceError(fault)
            yield fault


def _why_no_facet(by: str, corpus: CorpusConfig, rows: _FirstRows) -> str | None:
    """Why a column will not be detected as a facet, and what to do; None: it may be."""
    if by == corpus.source_column:
        return "it holds the sources; set stratify=true to balance them"
    if by in corpus.drop_columns:
        return "corpus.drop_columns leaves it out; leave it out there"
    if by not in rows.columns:
        later = "" if rows.is_complete else ", or, if later rows have it, name it in corpus.facets"
        return f"{_nowhere(rows)}; correct the name{later}"
    if by in used_columns(corpus):
        return "prompts or responses are made from it; name it in corpus.facets to use it as one"
    if rows.values.seen.get(by, set()) is None:
        return (
            "only columns with few short texts are found by themselves; if it has few numbers or truth values, name it "
            "in corpus.facets"
        )
    return None


def _nowhere(rows: _FirstRows) -> str:
    looked = "no row has that column" if rows.is_complete else f"none of the first {rows.num_rows:,} rows has it"
    return f"{looked} (there are {clip_names(rows.columns)})"


def _first_rows(config: S2LConfig, units: list[ReadUnit] | None) -> _FirstRows:
    corpus = config.corpus
    rows, is_complete = _generated(config) if units is None else _read(units, corpus)
    columns: dict[str, None] = {}
    values = FacetValues()
    for row in rows:
        kept = kept_columns(row, corpus)
        columns |= dict.fromkeys(row)
        values.add(kept)
    return _FirstRows(list(columns), values, len(rows), is_complete, _unusable(rows, corpus.facets or ()))


def _unusable(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        faults = []
        for row in rows:
            try:
                facet_text(row.get(name), name)
            except UnusableRow as fault:
                faults.append(str(fault))
        if faults and len(faults) == len(rows):
            found[name] = faults[0]
    return found


def _generated(config: S2LConfig) -> tuple[list[dict[str, Any]], bool]:
    from s2l_ray.data.quickstart import generate_corpus

    asked = config.corpus.quickstart
    assert asked is not None
    rows, _ = generate_corpus(
        num_train=min(asked.num_examples, _GENERATED_ROWS), wrong_answer_share=asked.wrong_answer_share,
        seed=config.seed,
    )  # fmt: skip
    return list(rows), True


def _read(units: list[ReadUnit], corpus: CorpusConfig) -> tuple[list[dict[str, Any]], bool]:
    """The first rows of the corpus, and some of each of the files that these do not reach; and whether no other row can
    have another column."""
    raws = list(first_rows(units, corpus.max_row_bytes))
    others = files_beyond(units, raws)
    more = [few for _, few in first_rows_of_each(others, corpus.max_row_bytes)]
    rows = [raw.row for raw in chain(raws, *more) if raw.row is not None]
    return rows, all(unit.kind in _TABULAR for unit in units) and len(others) <= MAX_FURTHER_FILES


def _facets_of_complete_corpus(config: S2LConfig) -> dict[str, int]:
    """The facets of the corpus that the run already has; later rows may have shown what the first ones do not."""
    try:
        run = load_run(Storage.open(config.run_uri))
    except (RunError, EarlierLayout, OSError):
        return {}
    made = run.stages.get("corpus")
    return CorpusArtifact.of(made).facets if made is not None and run.config.corpus == config.corpus else {}
