"""Facts on the contents of subsets: shares by source and facet, histograms, clusters, the map, sample examples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.facets import PREFIX
from s2l_ray.reporting import sketch as sketches
from s2l_ray.reporting.facts_contents import (
    Category,
    ClusterFacts,
    Clusters,
    Contents,
    ExampleFacts,
    Histogram,
    Space,
    SubsetFacts,
)
from s2l_ray.reporting.lengths import count_prompt_lengths
from s2l_ray.reporting.rows import SOURCE, Rows
from s2l_ray.reporting.sketch import BINS, EDGES, KINDS, Part, Sketch, percentiles
from s2l_ray.text.display import printable
from s2l_ray.text.redact import redact_text

Array = np.ndarray[Any, np.dtype[Any]]

MAX_TOPICS = 40
_LOSS_BARS = 32
_TOKEN_BARS = 24
MAX_EXAMPLES = 720
MAX_TEXT = 1_500
"""Longest text shown of a field (characters)."""
_ALL_TEXT, _SHORT_TEXT = 1_200_000, 500
"""Characters of all examples together; with more, fields are cut at _SHORT_TEXT."""


def sketch_rows(rows: Rows, num_clusters: int, main: int, beside: Callable[[Part], None] | None = None) -> Sketch:
    """Make both passes over the trajectories.

    Args:
        main: number of the subset that cards and examples refer to; -1: none.
        beside: also called with every part of the first pass.
    """
    made = Sketch(num_clusters, rows.num_snapshots, len(rows.subsets), rows.num_rows, main)
    for part in rows:
        made.first_pass(part)
        if beside is not None:
            beside(part)
    made.between_passes()
    for part in rows:
        made.second_pass(part)
    return made


def contents_of(made: Sketch, rows: Rows, subsets: list[SubsetFacts]) -> Contents:
    labels = [subset.label for subset in rows.subsets]
    columns, smaller = {}, {}
    for name, table in made.by_category.items():
        values = rows.values(name)
        order = np.argsort(-table[0], kind="stable")
        columns[name] = [
            Category(values[v], int(table[0, v]), {s: int(table[1 + i, v]) for i, s in enumerate(labels)})
            for v in order[:MAX_TOPICS]
        ]
        smaller[name] = max(0, len(values) - MAX_TOPICS)
    prompts = count_prompt_lengths(rows, len(labels))
    histograms = [
        _token_histogram("response length", made.tokens, labels),
        *([] if prompts is None else [_token_histogram("prompt length", prompts, labels)]),
        _loss_histogram("first loss", made.first, labels),
        _loss_histogram("last loss", made.last, labels),
    ]
    return Contents([s for s in subsets if s.label in labels], columns, smaller, histograms)


def _loss_histogram(what: str, counts: Array, labels: list[str]) -> Histogram:
    """Histogram of losses from counts (1 + S, BINS), over the range that contains examples."""
    filled = np.flatnonzero(counts[0])
    first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, BINS)
    width = -(-(last - first) // _LOSS_BARS)
    last = min(BINS, first + width * -(-(last - first) // width))
    starts = np.arange(first, last, width)
    bars = np.add.reduceat(counts[:, :last], starts, axis=1)
    edges = [float(EDGES[min(i, BINS)]) for i in [*starts, last]]
    medians = percentiles(counts, (0.5,))[:, 0]
    return Histogram(what, "nats/token", True, edges, _named(bars, labels), _medians(medians, labels))


def _token_histogram(what: str, counts: Array, labels: list[str]) -> Histogram:
    """Histogram of token numbers from counts (1 + S, values): bars of equal width on a log scale, at least one token
    wide."""
    filled = np.flatnonzero(counts[0])
    low, high = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (1, 2)
    edges = np.unique(np.round(np.geomspace(max(1, low), max(2, high), _TOKEN_BARS + 1)).astype(int))
    edges[0], edges[-1] = low, high
    edges = np.unique(edges)
    bars = np.add.reduceat(counts[:, :high], edges[:-1], axis=1)
    medians = np.array([_exact_median(line) for line in counts])
    spans = [float(e) for e in edges]
    return Histogram(what, "tokens", True, spans, _named(bars, labels), _medians(medians, labels))


def _exact_median(counts: Array) -> float:
    """Median of values that are counted individually."""
    cumulated, total = np.cumsum(counts), counts.sum()
    if not total:
        return math.nan
    return float(np.searchsorted(cumulated, [(total + 1) // 2, total // 2 + 1]).mean())


def _named(lines: Array, labels: list[str]) -> dict[str, list[int]]:
    return {name: [int(n) for n in line] for name, line in zip(["", *labels], lines, strict=True)}


def _medians(values: Array, labels: list[str]) -> dict[str, float | None]:
    return {n: None if math.isnan(v) else float(v) for n, v in zip(["", *labels], values, strict=True)}


def clusters_of(made: Sketch, rows: Rows, steps: list[int], column: str, main: str | None) -> Clusters:
    """Cards, the largest cluster first; empty clusters have none."""
    bands = percentiles(made.histograms, (0.1, 0.5, 0.9))  # (K, T, 3)
    bands = np.clip(bands, made.least[:, None], made.largest[:, None])
    labels = [subset.label for subset in rows.subsets]
    taken = made.taken[labels.index(main)] if main in labels else None
    table, values = made.in_clusters[column], rows.values(column)
    cards = []
    for k in np.argsort(-made.sizes, kind="stable"):
        if not made.sizes[k]:
            continue
        low, median, high = ([float(x) for x in bands[k, :, i]] for i in range(3))
        common = [v for v in np.argsort(-table[k], kind="stable")[:2] if table[k, v]]
        members = [[float(x) for x in line] for line in made.members[k] if not np.isnan(line[0])]
        cards.append(
            ClusterFacts(
                int(k), int(made.sizes[k]), None if taken is None else int(taken[k]), median, low, high,
                [(values[v], float(table[k, v] / made.sizes[k])) for v in common], members,
            )
        )  # fmt: skip
    quota = None if taken is None else int(taken.max(initial=0))
    least, largest = max(float(made.least.min()), sketches.LOW), float(made.largest.max())
    return Clusters(column, steps, main, quota, cards, least, largest)


def space_of(made: Sketch, rows: Rows) -> Space | None:
    """The map of trajectory space; None if trajectories differ in at most one direction."""
    if made.axes is None:
        return None
    labels = [subset.label for subset in rows.subsets]
    counts = [_plain(made.density[i]) for i in range(1 + len(labels))]
    ends = [(float(a[0]), float(a[1])) for a in (made.map_low, made.map_high, made.explained)]
    return Space(ends[0], ends[1], ends[2], counts[0], dict(zip(labels, counts[1:], strict=True)))


def _plain(cells: Array) -> list[list[int]]:
    return [[int(n) for n in line] for line in cells]


def examples_of(made: Sketch, rows: Rows, column: str, with_text: bool) -> list[ExampleFacts]:
    """The easiest, median and hardest example of each cluster by last loss, inside and outside the main subset."""
    wanted: dict[int, tuple[str, bool]] = {}
    order = np.argsort(-made.sizes, kind="stable")
    most = MAX_EXAMPLES // 6
    shown = order if len(order) <= most else np.r_[order[: most // 2], order[-(most // 2) :]]
    for k in shown:
        for kind in KINDS:
            for is_chosen in (True, False):
                row = int(made.extremes[kind].rows[2 * k + is_chosen])
                if row >= 0:
                    wanted.setdefault(row, (kind, is_chosen))
    if not with_text or not wanted:
        return []
    found = _read_examples(rows, wanted, column)
    rank = {int(k): i for i, k in enumerate(order)}
    kinds = list(KINDS)
    found.sort(key=lambda e: (rank[e.cluster], not e.is_chosen, kinds.index(e.why), e.id))
    length = sum(len(text) for e in found for _, text in e.turns)
    return found if length <= _ALL_TEXT else [_cut_more(e) for e in found]


def _read_examples(rows: Rows, wanted: dict[int, tuple[str, bool]], column: str) -> list[ExampleFacts]:
    """Read rows by their numbers in the whole corpus; only the parts with these rows are read."""
    by_part: dict[int, dict[int, int]] = {}
    for row in wanted:
        part, at = rows.where(row)
        by_part.setdefault(part, {})[at] = row
    names = [part_name(part) for part in by_part]
    examples = rows.run.stage("corpus").storage.sub("examples")
    trajectories = rows.stage.storage.read_tables(names)
    facet = [] if column == SOURCE else [PREFIX + column]
    corpus = examples.read_tables(names, ["example_id", "messages", *facet])
    found = []
    for asked, table, texts in zip(by_part.values(), trajectories, corpus, strict=True):
        ids = texts["example_id"].to_pylist()
        place = {example_id: n for n, example_id in enumerate(ids)}
        for at, row in asked.items():
            line = table.slice(at, 1).to_pylist()[0]
            n = place[line["example_id"]]
            why, is_chosen = wanted[row]
            found.append(_example(line, texts.slice(n, 1), int(rows.clusters[row]), why, is_chosen, column))
    return found


def _example(line: dict[str, Any], text: Any, cluster: int, why: str, is_chosen: bool, column: str) -> ExampleFacts:
    messages = text["messages"][0].as_py()
    source = printable(line["source"] or "")[:120]
    topic = source if column == SOURCE else printable(text[PREFIX + column][0].as_py() or "")[:120]
    turns, num_cut = [], 0
    for message in messages[:12]:
        content, more = _cut(message["content"], MAX_TEXT)
        turns.append((printable(message["role"])[:40], content))
        num_cut += more
    num_cut += sum(len(message["content"]) for message in messages[12:])
    losses = [float(x) for x in line["loss_nats"]]
    return ExampleFacts(
        line["example_id"].hex(), cluster, why, is_chosen, source, topic, line["num_response_tokens"], losses, turns,
        num_cut,
    )  # fmt: skip


def _cut(text: str, limit: int) -> tuple[str, int]:
    """Truncate a text → (its beginning, printable and without credentials; the number of characters left out)."""
    clean = redact_text(text)  # before truncating: part of a credential would no longer be recognised
    return printable(clean[:limit], keep="\n\t"), max(0, len(clean) - limit)


def _cut_more(example: ExampleFacts) -> ExampleFacts:
    turns = [(role, text[:_SHORT_TEXT]) for role, text in example.turns]
    lost = sum(max(0, len(text) - _SHORT_TEXT) for _, text in example.turns)
    return dataclasses.replace(example, turns=turns, num_cut=example.num_cut + lost)
