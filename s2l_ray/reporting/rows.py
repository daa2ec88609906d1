"""Iterates over the trajectories' rows with cluster, subsets, source and facets, part by part.

Memory: 6 bytes per example, 16 per example of a subset, and 16 parts at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.models import CorpusArtifact
from s2l_ray.artifacts.run import Run, part_rows
from s2l_ray.artifacts.stage import Stage
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.data.facets import PREFIX
from s2l_ray.errors import InternalError, UserError, shown
from s2l_ray.reporting.sketch import Part
from s2l_ray.text.display import printable

Array = np.ndarray[Any, np.dtype[Any]]

MAX_SUBSETS = 8
"""Maximum number of subsets whose contents are counted; the others are only in the table of subsets."""
SOURCE = "source"
MAX_FACETS = 4
_MAX_CODES, _OTHERS = 2000, "(other values)"
"""Maximum number of a column's values counted separately; further values are counted together, to keep the table per
cluster small."""


@dataclass(frozen=True)
class Subset:
    """Ids of a subset by part."""

    label: str
    by_part: dict[int, Array]
    """Part → (n, 2) uint64, in the order of the rows."""


class Rows:
    """Every row with its attributes; can be iterated twice."""

    def __init__(self, run: Run, by: str | None = None) -> None:
        """Open the artifacts.

        Args:
            by: the column to look at beside the source; None: every facet that the corpus has.

        Raises:
            UserError: `by` is neither the source nor a facet.
        """
        self.run = run
        self.stage = run.stage("trajectories")
        self.parts = part_rows(self.stage)
        self.num_rows = sum(rows for _, rows in self.parts)
        self.num_snapshots = int(self.stage.manifest.extra["num_snapshots"])
        clusters = run.stages.get("clusters")
        self.clusters: Array = np.zeros(self.num_rows, np.int32)
        if clusters is not None:
            self.clusters = clusters.storage.read_table("assignment.parquet", columns=["cluster"])["cluster"].to_numpy()
            if len(self.clusters) != self.num_rows:
                raise InternalError(f"{clusters.storage.uri} was made from other trajectories; delete it and run again")
        labels = list(run.subsets)[:MAX_SUBSETS]
        self.subsets = [_read_subset(label, run.subsets[label]) for label in labels]
        self.facets = find_facets(run)
        if by is not None:
            if by not in (SOURCE, *self.facets):
                raise UserError(
                    f"{shown(by)} is not a facet of this corpus, so results cannot be broken down by it; facets: "
                    f"{shown([SOURCE, *self.facets])} (name others in corpus.facets and run again)"
                )
            self.facets = [name for name in self.facets if name == by]
        self.names: dict[str, dict[str, int]] = {}
        """Column → value → code."""

    def __iter__(self) -> Iterator[Part]:
        names = [part_name(part) for part, _ in self.parts]
        columns = ["example_id", "source", "num_response_tokens", "loss_nats"]
        tables = self.stage.storage.read_tables(names, columns)
        corpus: Iterator[Any] = iter([None] * len(names))
        if self.facets:
            columns = ["example_id", *(PREFIX + name for name in self.facets)]
            corpus = self.run.stage("corpus").storage.sub("examples").read_tables(names, columns)
        start = 0
        for (part, rows), table, examples in zip(self.parts, tables, corpus, strict=True):
            ids = ids_to_array(table["example_id"])
            losses = table["loss_nats"].combine_chunks().flatten().to_numpy().reshape(rows, self.num_snapshots)
            chosen = np.zeros(rows, np.uint8)
            for s, subset in enumerate(self.subsets):
                if part in subset.by_part:
                    chosen[positions(subset.by_part[part], ids)] |= np.uint8(1 << s)
            categories = {SOURCE: self._codes(SOURCE, table["source"])}
            if examples is not None:
                categories |= self._facet_codes(ids, examples)
            clusters = self.clusters[start : start + rows]
            tokens = table["num_response_tokens"].to_numpy()
            yield Part(start, ids, losses, tokens, clusters, chosen, categories)
            start += rows

    def values(self, column: str) -> list[str]:
        """Values by code."""
        return list(self.names[column])

    def where(self, row: int) -> tuple[int, int]:
        """(part, row in that part) of a row of the whole matrix."""
        starts = np.cumsum([0] + [rows for _, rows in self.parts])
        at = int(np.searchsorted(starts, row, side="right")) - 1
        return self.parts[at][0], int(row - starts[at])

    def _codes(self, column: str, values: pa.ChunkedArray | pa.Array) -> Array:
        codes = self.names.setdefault(column, {})
        encoded = (values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values).dictionary_encode()
        local = np.zeros(len(encoded.dictionary), np.int32)
        for i, value in enumerate(encoded.dictionary.to_pylist()):
            name = printable(value or "")[:120] or "(none)"
            if name not in codes and len(codes) >= _MAX_CODES:
                name = _OTHERS
            local[i] = codes.setdefault(name, len(codes))
        return local[encoded.indices.to_numpy()]

    def _facet_codes(self, ids: Array, examples: pa.Table) -> dict[str, Array]:
        at = pa.array(positions(ids, ids_to_array(examples["example_id"])))
        return {
            name: self._codes(name, examples[PREFIX + name].combine_chunks().cast(pa.string()).take(at).fill_null(""))
            for name in self.facets
        }


def _read_subset(label: str, stage: Stage) -> Subset:
    table = stage.storage.read_table("ids.parquet", columns=["example_id", "part"])
    ids, parts = ids_to_array(table["example_id"]), table["part"].to_numpy()
    starts = np.flatnonzero(np.r_[True, parts[1:] != parts[:-1]]) if len(parts) else np.zeros(0, np.int64)
    ends = np.r_[starts[1:], len(parts)]
    return Subset(label, {int(parts[a]): ids[a:b] for a, b in zip(starts, ends, strict=True)})


def positions(wanted: Array, ids: Array) -> Array:
    """The position in `ids` (n, 2) of each of `wanted` (m, 2).

    Raises:
        InternalError: an id is missing, so the artifacts do not belong together.
    """
    order = np.argsort(ids[:, 0], kind="stable")
    at = order[np.minimum(np.searchsorted(ids[order, 0], wanted[:, 0]), max(0, len(ids) - 1))] if len(ids) else order
    if len(at) != len(wanted) or not np.array_equal(ids[at], wanted):  # ids with equal first halves: look each one up
        known = {tuple(i): n for n, i in enumerate(ids.tolist())}
        found = [known.get(tuple(i), -1) for i in wanted.tolist()]
        if -1 in found:
            raise InternalError(
                f"{found.count(-1)} of {len(wanted)} example ids are not in the part that should hold them, so the "
                "run's stages do not belong together; run `s2l verify` on it"
            )
        return np.array(found, np.int64)
    return at


def find_facets(run: Run) -> list[str]:
    """Facets of the corpus with at least two values, in the order of its columns, at most MAX_FACETS."""
    corpus = run.stages.get("corpus")
    facets = {} if corpus is None else CorpusArtifact.of(corpus).facets
    return [name for name, num_values in facets.items() if num_values > 1][:MAX_FACETS]


def default_column(rows: Rows) -> str:
    """The column whose values label clusters and colour topics: the first facet, otherwise the source."""
    return rows.facets[0] if rows.facets else SOURCE
