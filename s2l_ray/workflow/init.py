"""`s2l init`: reads the first rows as a run would and writes a configuration that fits them."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import yaml

from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.config.load import ConfigError, load_config
from s2l_ray.data.facets import FacetValues, choose_facets
from s2l_ray.data.formats import UnknownFormat, format_of_rows, to_conversation
from s2l_ray.data.read_task import first_rows, sample_format
from s2l_ray.data.sources import plan_files
from s2l_ray.data.units import UnusableRow, clip, clip_names
from s2l_ray.text.redact import holds_credentials, strip_credentials

DEFAULT_PROXY = "EleutherAI/pythia-70m-deduped"

_PAIRS = (
    ("question", "answer"), ("query", "response"), ("question", "response"), ("prompt", "response"),
    ("prompt", "answer"), ("instruction", "response"), ("instruction", "completion"), ("input", "output"),
    ("input", "target"), ("problem", "solution"), ("question", "solution"), ("document", "summary"),
    ("article", "highlights"), ("text", "summary"), ("findings", "impression"), ("source", "target"),
)  # fmt: skip
"""Columns that hold a prompt and its response in public datasets; the first pair that exists is proposed."""
_SOURCES = ("source", "dataset", "data_source", "origin", "domain", "category", "task")
"""Columns that say where an example comes from, by their usual names."""
_CHARACTERS_PER_TOKEN = 3.5
"""Typical of English with today's vocabularies; accurate enough to choose between lengths that double."""
_LENGTHS = (256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Found:
    """What `s2l init` found in the data, and the configuration that it proposes."""

    name: str
    """Name of the run, derived from the data's."""
    yaml: str
    summary: list[str]
    """What was found, as sentences."""


def look_at(paths: list[str], proxy: str = DEFAULT_PROXY) -> Found:
    """Read the first rows, choose settings that fit them, and check that they work.

    Raises:
        SourceError, UnknownFormat, QuarantineLimitError: a run would be refused, or no pair of columns is known to hold
            a prompt and a response.
        ConfigError: a path contains credentials.
    """
    if any(map(holds_credentials, paths)):
        raise ConfigError(
            "a path contains credentials, which would be stored in the file, readable by anyone with access to it; "
            "leave them out and set them in the environment"
        )
    corpus: dict[str, Any] = {"paths": paths}
    asked = CorpusConfig.model_validate(corpus)
    said: list[str] = []
    units = plan_files(paths, asked.read_bytes_per_task, say=said.append)
    raws = list(first_rows(units, asked.max_row_bytes))
    rows = [raw.row for raw in raws if raw.row is not None]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    pair = None
    try:
        sample_format(units, asked)
    except UnknownFormat:
        pair = _pair(columns)
        if pair is None:
            raise
        corpus["template"] = {"prompt": f"{{{pair[0]}}}", "response": f"{{{pair[1]}}}"}
        asked = CorpusConfig.model_validate(corpus)
        sample_format(units, asked)
    format = format_of_rows(asked, rows)
    source = _source_column(rows, columns, used=set(pair or ()))
    if source is not None and source != "source":
        corpus["source_column"] = source
    tree, lines = _tree(corpus, proxy, rows, format, asked)
    files = len({unit.uri for unit in units})
    summary = [
        f"Looked at the first {len(raws):,} rows of {files:,} file{'s' * (files > 1)}: columns "
        f"{clip_names(columns)}.",
        f"Format {format}" + (f": {pair[0]!r} as the prompt, {pair[1]!r} as the response. Check it." if pair else "."),
        *lines, *said,
    ]  # fmt: skip
    if source is not None:
        summary.append(f"The column {source!r} says where an example comes from (corpus.source_column).")
    load_config(tree)
    return Found(tree["name"], _text(tree, summary), summary)


def _pair(columns: list[str]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if set(pair) <= set(columns)), None)


def _source_column(rows: list[dict[str, Any]], columns: list[str], used: set[str]) -> str | None:
    """The first column with a usual name and few values."""
    values = FacetValues()
    for row in rows:
        values.add(row)
    few = choose_facets(values, columns, len(rows), CorpusConfig(paths=["x"], source_column=None))
    return next((name for name in _SOURCES if name in few and name not in used), None)


def _tree(
    corpus: dict[str, Any], proxy: str, rows: list[dict[str, Any]], format: str, asked: CorpusConfig
) -> tuple[dict[str, Any], list[str]]:
    """Build the configuration → (configuration, sentences on the rows)."""
    reasons: Counter[str] = Counter()
    lengths, chats = [], 0
    for row in rows:
        try:
            conversation = to_conversation(row, format, asked)
        except UnusableRow as reason:
            reasons[str(reason)] += 1
            continue
        lengths.append(sum(len(turn["content"]) for turn in conversation.turns) / _CHARACTERS_PER_TOKEN)
        chats += conversation.is_chat
    long = sorted(lengths)[int(0.95 * (len(lengths) - 1))] if lengths else 0.0
    length = next((n for n in _LENGTHS if n >= long), _LENGTHS[-1])
    lines = [f"19 of 20 examples have at most about {long:,.0f} tokens (estimated from their characters)."]
    if chats:
        lines.append(f"{chats:,} of them are chats; all assistant turns are trained on (proxy.turns).")
    for why, count in reasons.most_common(3):
        lines.append(f"{count:,} of these rows cannot be used: {clip(why, 300)}")
    model: dict[str, Any] = {"model": proxy, "max_length": length}
    if length > 8192:
        model["tokens_per_microbatch"] = length
    tree = {
        "name": _name(asked.paths[0]),
        "corpus": corpus,
        "proxy": model,
        "selection": {"budgets": [0.11, 0.3], "selectors": ["s2l", "random"]},
    }
    return tree, lines


def _name(path: str) -> str:
    """Derive a run's name from a file's: `data/alpaca*.jsonl.gz` → `alpaca`."""
    parts = [part for part in strip_credentials(path).partition("?")[0].split("/") if part not in ("", ".", "..")]
    for part in reversed(parts):
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", posixpath.basename(part).split(".")[0]).strip("_-")
        if name:
            return name[:100]
    return "run"


def _text(tree: dict[str, Any], summary: list[str]) -> str:
    """The configuration as YAML, with what was found as comments, so that readers know why it is as it is."""
    head = ["# yaml-language-server: $schema=s2l.schema.json", "# Written by s2l init. What it found:"]
    notes = [f"#   {line}" for text in summary for line in [" ".join(text.split())]]
    body = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)
    end = "# s2l explain SECTION lists what else can be set; add a section `target` to fine-tune on the subsets.\n"
    return "\n".join([*head, *notes]) + "\n" + body + end
