"""Reads the inputs of selectors, column by column when first needed, and once for many selectors and budgets.

Memory: ids and sources (20 bytes per example); losses or a signal, if read, 4 bytes per snapshot, in a temporary file
if large; embeddings stay on storage and are read in chunks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.data.columns import Columns
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_hex, array_to_ids, ids_to_array
from s2l_ray.data.facet_reader import load_facet
from s2l_ray.data.trajectories import load_columns
from s2l_ray.errors import InternalError, UserError, shown
from s2l_ray.selection import EmbeddingReader, Facet, SelectionInputs
from s2l_ray.selection.signals import CLUSTERS, EMBEDDINGS, FACET, LOSS, LOSSES, SCALARS, snapshot_index
from s2l_ray.storage.folder import Storage

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class SubsetSources:
    """Artifacts that the stage reads."""

    trajectories: Storage
    part_rows: list[tuple[int, int]]
    examples: Storage
    clusters: Storage
    format: str
    """Format of the corpus, for instructions for other programs."""
    columns: Columns | None
    """Columns of the corpus; None if an earlier version built it."""
    facets: list[str] = field(default_factory=list)
    """Facets of the corpus; see data.facets."""
    steps: list[int] = field(default_factory=list)
    """(T,) optimiser steps of the snapshots."""

    @property
    def names(self) -> list[str]:
        return [part_name(part) for part, _ in self.part_rows]

    @property
    def num_examples(self) -> int:
        return sum(rows for _, rows in self.part_rows)


class InputsReader:
    def __init__(self, sources: SubsetSources) -> None:
        self.sources = sources
        self._matrices: dict[str, Array] = {}
        """Column → (N, T) values."""
        self._facets: dict[str, Facet] = {}

    def read(
        self,
        needs: Iterable[str],
        early_share: float = 0.1,
        with_facets: bool = False,
        passes: Mapping[str, Storage] | None = None,
        query: QueryPart | None = None,
        reference: Literal["proxy", "target"] = "proxy",
    ) -> SelectionInputs:
        """Read the needed columns that exist; selectors report missing ones.

        Args:
            with_facets: whether to read all facets too, for tables of what guards drop.
            passes: need → folder of the stage that computed it with an extra pass.
            query: embeddings of the user's own examples of the task.
            reference: model that computed the passes; the target need not have rendered the same examples.
        """
        needs = set(needs)
        ids, sources, source_names = self._base
        columns = {need: need.partition("@")[0] for need in needs}
        passes = passes or {}
        with_losses = LOSSES in needs or any(columns[need] == LOSS for need in needs - passes.keys())
        wanted = {need.removeprefix(FACET) for need in needs if need.startswith(FACET)}
        facets = {name: self._facet(name) for name in sorted(wanted | set(self.sources.facets if with_facets else []))}
        signals = {need: self._scalar(need, early_share) for need, column in columns.items()
                   if column in SCALARS and need not in passes}  # fmt: skip
        embeddings: dict[str, EmbeddingReader] = {}
        for need, storage in passes.items():
            kind = StoredColumn if reference == "proxy" else TargetColumn
            column = kind(storage.sub("parts"), self.sources.part_rows, ids, columns[need])
            if columns[need] in EMBEDDINGS:
                embeddings[need] = column
            else:
                signals[need] = column.read(0, len(ids))
        return SelectionInputs(
            example_ids=ids,
            clusters=self._clusters if CLUSTERS in needs else None,
            sources=sources,
            source_names=source_names,
            facets=facets,
            losses=self._matrix("loss_nats") if with_losses else None,
            snapshot_steps=self.sources.steps or None,
            early_share=early_share,
            signals={need: signal for need, signal in signals.items() if signal is not None},
            embeddings=embeddings,
            query_embeddings=None if query is None else query.read(),
        )

    @functools.cached_property
    def _base(self) -> tuple[Array, Array, list[str]]:
        tables = self.sources.trajectories.read_tables(self.sources.names, ["example_id", "source"])
        joined = pa.concat_tables(tables).combine_chunks()
        encoded = joined["source"].combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy().astype(np.int32)
        return ids_to_array(joined["example_id"]), codes, encoded.dictionary.to_pylist()

    @functools.cached_property
    def _clusters(self) -> Array:
        assignment = self.sources.clusters.read_table("assignment.parquet")
        if not np.array_equal(ids_to_array(assignment["example_id"]), self._base[0]):
            raise InternalError(
                f"{self.sources.clusters.uri} was built from other trajectories; delete that folder and try again"
            )
        return assignment["cluster"].to_numpy()

    def mean_of(self, need: str) -> float:
        """Mean over the examples of a score that every snapshot has."""
        values = self._scalar(need, 0.0)
        assert values is not None
        return float(values.mean(dtype=np.float64))

    def _matrix(self, column: str) -> Array:
        """Read a column's (N, T) values."""
        if column not in self._matrices:
            of = self.sources
            self._matrices[column] = load_columns(of.trajectories, of.part_rows, column, len(of.steps))
        return self._matrices[column]

    def _scalar(self, need: str, early_share: float) -> Array | None:
        """Values at a snapshot (N,), or at all of them (N, T); None if that snapshot was not recorded."""
        column, _, snapshot = need.partition("@")
        steps = self.sources.steps
        if snapshot == "all":
            return self._matrix(column)
        index = snapshot_index(snapshot, len(steps), steps, early_share)
        return None if index is None else self._matrix(column)[:, index]

    def _facet(self, name: str) -> Facet:
        """A facet of all examples, with `""` for rows without a value."""
        if name in self._facets:
            return self._facets[name]
        if name not in self.sources.facets:
            raise UserError(
                f"stratify={shown(name)}: that column is not a facet of this corpus (its facets: "
                f"{shown(self.sources.facets)}); name it in corpus.facets, or balance the sources"
            )
        names, codes = load_facet(self.sources.examples, self.sources.part_rows, self._base[0], name)
        self._facets[name] = Facet(codes, names)
        return self._facets[name]


@dataclass(frozen=True)
class QueryPart:
    """Embeddings of the user's own examples of the task."""

    storage: Storage
    """Folder of the stage that computed them."""
    parts: list[int]
    column: str

    def read(self) -> Array:
        """Read the embeddings, (Q, d) float32."""
        tables = self.storage.sub("parts").read_tables([part_name(part) for part in self.parts], [self.column])
        return np.concatenate([_values(table[self.column]) for table in tables])


class StoredColumn:
    """A column computed by a pass, in the same parts as the trajectories; one part is in memory at a time."""

    def __init__(self, storage: Storage, part_rows: list[tuple[int, int]], ids: Array, column: str) -> None:
        """Args: ids: (N, 2) ids of all examples, in the order of the parts."""
        self.storage, self.column, self._ids = storage, column, ids
        self._parts = [part for part, _ in part_rows]
        self._starts = np.cumsum([0] + [rows for _, rows in part_rows])
        self._held: tuple[int, Array] | None = None
        """The part that was read last."""

    @functools.cached_property
    def shape(self) -> tuple[int, int]:
        """(N, d) for embeddings."""
        return len(self._ids), self._part(0).shape[1]

    def read(self, start: int, stop: int) -> Array:
        """Read a range of rows as float32."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        pieces = []
        for number in range(first, len(self._parts)):
            begin, end = int(self._starts[number]), int(self._starts[number + 1])
            if begin >= stop:
                break
            pieces.append(self._part(number)[max(0, start - begin) : min(end, stop) - begin])
        return np.concatenate(pieces)

    def _part(self, number: int) -> Array:
        if self._held is None or self._held[0] != number:
            self._held = number, self._read(number)
        return self._held[1]

    def _read(self, number: int) -> Array:
        name = part_name(self._parts[number])
        table = self.storage.read_table(name, columns=["example_id", self.column])
        expected = self._ids[self._starts[number] : self._starts[number + 1]]
        if not np.array_equal(ids_to_array(table["example_id"]), expected):
            raise InternalError(f"{self.storage.uri_of(name)} holds other examples; delete that folder and try again")
        return _values(table[self.column])


class TargetColumn(StoredColumn):
    """A column computed by the target, which may have tokenised more examples than the proxy, but must have all of
    its."""

    def _read(self, number: int) -> Array:
        """Read a part. Raises UserError if the target could not score an example."""
        name = part_name(self._parts[number])
        expected = self._ids[self._starts[number] : self._starts[number + 1]]
        if not self.storage.exists(name):
            raise _not_scored(expected, len(expected))
        table = self.storage.read_table(name, columns=["example_id", self.column])
        rows = pc.index_in(array_to_ids(expected), value_set=table["example_id"].combine_chunks())
        if rows.null_count:
            raise _not_scored(expected[rows.is_null().to_numpy(zero_copy_only=False)], len(expected))
        return _values(table[self.column])[rows.to_numpy()]


def _not_scored(ids: Array, num: int) -> UserError:
    return UserError(
        f"the target has no score for {len(ids):,} of {num:,} examples of a part ({', '.join(array_to_hex(ids[:4]))}), "
        "all of which the proxy has scored: they have no response within target.max_length, or the target's template "
        "cannot write them. Raise target.max_length, or use selection.reference.model=proxy"
    )


def _values(column: pa.ChunkedArray) -> Array:
    """The values (n,); for embeddings, (n, d) float32."""
    values = column.combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy().astype(np.float32).reshape(len(values), -1)
    return values.to_numpy()
