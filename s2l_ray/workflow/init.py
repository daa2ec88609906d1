"""`s2l init`: reads the first rows as a run would and writes a configuration that fits them."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from s2l_ray.artifacts.index import FULL
from s2l_ray.config.corpus import CorpusConfig
from s2l_ray.config.load import ConfigError, load_config
from s2l_ray.config.proxy import ProxyConfig
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.conversation import unpack
from s2l_ray.data.facets import FacetValues, choose_facets
from s2l_ray.data.formats import UnknownFormat, format_of_rows
from s2l_ray.data.read_task import files_beyond, first_rows, first_rows_of_each, kept_columns, sample_format, to_record
from s2l_ray.data.render import ALPACA_CHARACTERS
from s2l_ray.data.sources import plan_files
from s2l_ray.data.turns import check_plain, thoughts_of
from s2l_ray.data.units import RawRow, ReadUnit, UnusableRow, clip, clip_names
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
_FOR_TOOLS, _FOR_REASONING = "Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen3-0.6B"
"""Small models whose chat templates write tools and tool calls, and reasoning, too: the default proxy has none."""
_POSITIONS = {DEFAULT_PROXY: 2048}
"""Longest sequence of a model that is known without asking the hub; a run refuses a larger proxy.max_length."""
_RECOMMENDED = {"source": "hybrid"}
"""A quarter of the default's passes, and no difference between their subsets was found (docs/proxy.md). The default
value is the paper's."""
_END = """\
# To measure what the subsets are worth on your model, fine-tune it on them and on everything, at equal cost:
# target:
#   model: EleutherAI/pythia-410m-deduped
#   length: same_steps
#   subsets: [{subsets}]
# s2l explain SECTION lists what else can be set.
"""


@dataclass(frozen=True)
class Found:
    """What `s2l init` found in the data, and the configuration that it proposes."""

    name: str
    """Name of the run, derived from the data's."""
    yaml: str
    summary: list[str]
    """What was found, as sentences."""


def look_at(paths: list[str], proxy: str = DEFAULT_PROXY, overrides: Sequence[str] = ()) -> Found:
    """Read the first rows, choose settings that fit them, and check that they work.

    Args:
        overrides: `section.field=value` strings to start from; they become part of the configuration.

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
    config = load_config({"corpus": corpus, "proxy": {"model": proxy}}, overrides)
    asked = config.corpus
    if not asked.paths:
        raise ConfigError("no file is named, so there is nothing to look at; for datasets of the hub see `s2l recipes`")
    said: list[str] = []
    units = plan_files(asked.paths, asked.read_bytes_per_task, say=said.append)
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
        asked = load_config({"corpus": corpus, "proxy": {"model": proxy}}, overrides).corpus
        sample_format(units, asked)
    format = format_of_rows(asked, rows)
    source = None
    if "source_column" not in asked.model_fields_set:
        source = _source_column(rows, columns, used=set(pair or ()))
    if source is not None and source != "source":
        corpus["source_column"] = source
    made, template_lines = _templated(raws, format, asked, config.proxy)
    model = made.get("model", config.proxy.model or "")
    around = ALPACA_CHARACTERS if format == "instruction" and config.proxy.render in ("auto", "alpaca") else 0
    length, lines = _lengths(raws, format, asked, _POSITIONS.get(model, _LENGTHS[-1]), around)
    lines += [*template_lines, *_unusable_lines(raws, units, format, asked)]
    tree = {
        "name": _name(asked.paths[0]), "corpus": corpus, "proxy": {"model": proxy, **made, "max_length": length},
        "trajectories": {} if any(each.startswith("trajectories.") for each in overrides) else _RECOMMENDED,
        "selection": {"budgets": [0.11, 0.3], "selectors": ["s2l_robust", "s2l", "random"]},
        "heldout": {"share": 0.02},
    }  # fmt: skip
    files = len({raw.origin for raw in raws})
    summary = [
        f"Looked at the first {len(raws):,} rows of {files:,} file{'s' * (files > 1)}: columns "
        f"{clip_names(columns)}.",
        f"Format {format}" + (f": {pair[0]!r} as the prompt, {pair[1]!r} as the response. Check it." if pair else "."),
        *lines, *said,
    ]  # fmt: skip
    if source is not None:
        summary.append(f"The column {source!r} says where an example comes from (corpus.source_column).")
    try:
        config = load_config(tree, overrides)
    except ConfigError:
        tree["trajectories"] = {}  # selectors among the overrides may need what only snapshots have
        config = load_config(tree, overrides)
    if overrides:
        tree = config.stored(exclude_unset=True)
    tree = {name: section for name, section in tree.items() if section != {}}
    return Found(config.name, _text(tree, summary, _compared(config)), summary)


def _pair(columns: list[str]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if set(pair) <= set(columns)), None)


def _source_column(rows: list[dict[str, Any]], columns: list[str], used: set[str]) -> str | None:
    """The first column with a usual name and few values."""
    values = FacetValues()
    for row in rows:
        values.add(row)
    few = choose_facets(values, columns, len(rows), CorpusConfig(paths=["x"], source_column=None))
    return next((name for name in _SOURCES if name in few and name not in used), None)


def _templated(
    raws: list[RawRow], format: str, asked: CorpusConfig, proxy: ProxyConfig
) -> tuple[dict[str, Any], list[str]]:
    """Settings of the proxy for chats that only a chat template can write, if there are any → (settings, sentences)."""
    reasons = Counter[str]()
    for raw in raws:
        record, _ = _record(raw, format, asked)
        if record is not None:
            conversation = unpack(record["messages"], record["chat"])
            try:
                check_plain(conversation.turns, conversation.tools)
            except UnusableRow:
                reasons["reasoning" if any(map(thoughts_of, conversation.turns)) else "tools"] += 1
    if not reasons or proxy.render not in ("auto", "chat_template"):
        return {}, []
    what = "separate reasoning" if "reasoning" in reasons else "tools or tool calls"
    said = f"{reasons.total():,} of them have {what}, which only a chat template can write (proxy.render)"
    if proxy.model != DEFAULT_PROXY:
        return {"render": "chat_template"}, [f"{said}: the tokenizer of {proxy.model} must have one."]
    model = _FOR_REASONING if "reasoning" in reasons else _FOR_TOOLS
    return {"model": model, "render": "chat_template"}, [
        f"{said}. The default proxy has none, so the proxy is {model}, which is larger: see what it costs in the dry "
        "run, or name another with --model."
    ]


def _lengths(raws: list[RawRow], format: str, asked: CorpusConfig, longest: int, around: int) -> tuple[int, list[str]]:
    """Choose proxy.max_length, at most `longest` → (tokens, sentences on lengths and turns).

    Args:
        around: length of what is written around each row's own texts (characters).
    """
    lengths, chats = [], 0
    for raw in raws:
        record, _ = _record(raw, format, asked)
        if record is not None:
            said = sum(len(turn["content"]) for turn in record["messages"])
            lengths.append(
                (around + said + len(record["chat"] or "")) / _CHARACTERS_PER_TOKEN
            )  # chat: tools, calls, reasoning
            chats += record["is_chat"]
    long = sorted(lengths)[int(0.95 * (len(lengths) - 1))] if lengths else 0.0
    length = min(longest, next((n for n in _LENGTHS if n >= long), _LENGTHS[-1]))
    lines = [f"19 of 20 examples have at most about {long:,.0f} tokens (estimated from their characters)."]
    if over := sum(one > length for one in lengths):
        lines.append(
            f"{over:,} of them are longer than proxy.max_length={length}: they are truncated there, and cannot be used "
            "if their prompt fills it."
        )
    if chats:
        lines.append(f"{chats:,} of them are chats; all assistant turns are trained on (proxy.turns).")
    return length, lines


def _unusable_lines(raws: list[RawRow], units: list[ReadUnit], format: str, asked: CorpusConfig) -> list[str]:
    """Sentences on the rows that cannot be used, including those of files that the first rows do not reach."""
    reasons = _reasons(raws, format, asked)
    lines = [f"{count:,} of these rows cannot be used: {clip(why, 300)}" for why, count in reasons.most_common(3)]
    num_rows, num_bad = len(raws), reasons.total()
    for origin, more in first_rows_of_each(files_beyond(units, raws), asked.max_row_bytes):
        found = _reasons(more, format, asked)
        num_rows, num_bad = num_rows + len(more), num_bad + found.total()
        for why, count in found.most_common(1):
            lines.append(
                f"{count:,} of the first {len(more):,} rows of {clip(origin)} cannot be used: {clip(why, 300)}"
            )
    if num_bad > asked.max_quarantined_share * num_rows:
        lines.append(
            f"A run stops if more than {asked.max_quarantined_share:.0%} of the rows cannot be used "
            "(corpus.max_quarantined_share): correct them, or name only files of one format."
        )
    return lines


def _reasons(raws: list[RawRow], format: str, asked: CorpusConfig) -> Counter[str]:
    """Count the rows that cannot be used, by reason."""
    return Counter(reason for _, reason in (_record(raw, format, asked) for raw in raws) if reason)


def _record(raw: RawRow, format: str, asked: CorpusConfig) -> tuple[dict[str, Any] | None, str]:
    """Convert a row as a run would → (record, "") or (None, the reason why it cannot be used)."""
    if raw.row is None:
        return None, raw.reason or "unreadable"
    try:
        return to_record(raw, kept_columns(raw.row, asked), asked, format), ""
    except UnusableRow as reason:
        return None, str(reason)


def _name(path: str) -> str:
    """Derive a run's name from a file's: `data/alpaca*.jsonl.gz` → `alpaca`."""
    parts = [part for part in strip_credentials(path).partition("?")[0].split("/") if part not in ("", ".", "..")]
    for part in reversed(parts):
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", posixpath.basename(part).split(".")[0]).strip("_-")
        if name:
            return name[:100]
    return "run"


def _text(tree: dict[str, Any], summary: list[str], worth: list[str]) -> str:
    """The configuration as YAML, with what was found as comments, so that readers know why it is as it is.

    Args:
        worth: subsets that a target is proposed for, besides the full data.
    """
    head = ["# yaml-language-server: $schema=s2l.schema.json", "# Written by s2l init. What it found:"]
    notes = [f"#   {line}" for text in summary for line in [" ".join(text.split())]]
    body = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)
    recommended = yaml.safe_dump({"trajectories": _RECOMMENDED})
    why = "  # training's own losses and 3 passes; snapshots (12 passes) is the paper's way\n"
    body = body.replace(recommended, recommended[:-1] + why)
    return "\n".join([*head, *notes]) + "\n" + body + _END.format(subsets=", ".join([FULL, *worth]))


def _compared(config: S2LConfig) -> list[str]:
    """The first subset, and the random one of its size if that is selected, too."""
    subsets = config.subset_budgets()
    first = next(iter(subsets))
    return [first, *(name for name in subsets if name == f"random-{subsets[first]!r}" != first)]
