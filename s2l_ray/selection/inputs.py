"""Inputs of selectors: columns of equal length, in any order of rows.

Memory: that of the columns; embeddings stay where they are and are read in chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from s2l_ray.data.example_id import array_to_hex
from s2l_ray.errors import DataError, UserError, listed
from s2l_ray.selection.signals import CLUSTERS, FACET, LOSS, LOSSES, QUERY, SOURCES, missing_signals, snapshot_index

CHUNK_ROWS = 65_536

Array = np.ndarray[Any, np.dtype[Any]]


class EmbeddingReader(Protocol):
    """One embedding per example, read in chunks of rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, d)."""

    def read(self, start: int, stop: int) -> Array:
        """Return (stop − start, d) floats, in the order of the inputs' rows."""


@dataclass(frozen=True)
class ArrayEmbeddings:
    """Embeddings in an array or a memory map."""

    array: Array
    """(N, d) floats."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]

    def read(self, start: int, stop: int) -> Array:
        return self.array[start:stop]


@dataclass(frozen=True)
class Facet:
    """A column of categories, such as sources, skills or kinds of tasks."""

    codes: Array
    """(N,) integers from 0."""
    names: list[str]
    """Names of the codes; "" for examples without a value."""


@dataclass(frozen=True)
class SelectionInputs:
    """Columns that selectors read.

    Raises:
        UserError: the columns do not fit together.
    """

    example_ids: Array
    """(N, 2) uint64, high and low halves; unique."""
    clusters: Array | None = None
    """(N,) int32 cluster numbers from 0."""
    sources: Array | None = None
    """(N,) int32 codes into `source_names`."""
    source_names: list[str] = field(default_factory=list)
    facets: Mapping[str, Facet] = field(default_factory=dict)
    """Further categories, for reports."""
    losses: Array | None = None
    """(N, T) float32 trajectories, nats per token."""
    snapshot_steps: list[int] | None = None
    """(T,) optimiser steps of the snapshots, ascending; 0 is the untrained model."""
    early_share: float = 0.1
    """The early snapshot is the first at or after this share of the steps."""
    signals: Mapping[str, Array] = field(default_factory=dict)
    """`column@snapshot` → (N,), `column@all` → (N, T); those of the reference model, if that is not the proxy."""
    embeddings: Mapping[str, EmbeddingReader] = field(default_factory=dict)
    """`embedding@snapshot` → (N, d)."""
    query_embeddings: Array | None = None
    """(Q, d) floats."""
    eligible: Array | None = None
    """(N,) bool: False ranks behind every True of its group (see `guards`); None: all are eligible."""

    @property
    def num_examples(self) -> int:
        return len(self.example_ids)

    def __post_init__(self) -> None:
        num = self.num_examples
        if self.sources is None and self.source_names:
            raise UserError("source_names are given, but no sources; give both or neither")
        _check_codes("clusters", self.clusters, None, num)
        _check_codes("sources", self.sources, self.source_names, num)
        for name, facet in self.facets.items():
            _check_codes(f"the facet {name}", facet.codes, facet.names, num)
        if self.losses is not None and (self.losses.ndim != 2 or len(self.losses) != num or not self.losses.shape[1]):
            raise UserError(f"losses must be ({num}, T), not {self.losses.shape}")
        if self.snapshot_steps is not None:
            self._check_steps(self.snapshot_steps)
        for name, signal in self.signals.items():
            wanted = 2 if name.endswith("@all") else 1
            if len(signal) != num or signal.ndim != wanted:
                raise UserError(f"the signal {name} must have {num} rows and {wanted} dimension(s), not {signal.shape}")
        for name, reader in self.embeddings.items():
            if reader.shape[0] != num:
                raise UserError(f"{name} has {reader.shape[0]} embeddings for {num} examples; score the corpus again")
        if self.eligible is not None and (self.eligible.shape != (num,) or self.eligible.dtype != bool):
            raise UserError(f"eligible must be ({num},) bool, not {self.eligible.shape} {self.eligible.dtype}")

    def _check_steps(self, steps: list[int]) -> None:
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise UserError(f"snapshot_steps must ascend, not {steps}")
        if self.losses is not None and len(steps) != self.losses.shape[1]:
            raise UserError(f"{len(steps)} snapshot_steps for trajectories of {self.losses.shape[1]} losses")

    def require(self, who: str, needs: Iterable[str]) -> None:
        """Raise MissingSignal, on behalf of `who`, if any of `needs` is absent; the error names all absent ones."""
        absent = [need for need in needs if not self.has(need)]
        if absent:
            raise missing_signals(who, absent)

    def has(self, need: str) -> bool:
        plain = {LOSSES: self.losses, CLUSTERS: self.clusters, SOURCES: self.sources, QUERY: self.query_embeddings}
        if need in plain:
            return plain[need] is not None
        if need.startswith(FACET):
            return need.removeprefix(FACET) in self.facets
        column, _, snapshot = need.partition("@")
        if need in self.signals or need in self.embeddings:
            return True
        return column == LOSS and self.losses is not None and self.loss_column(snapshot) is not None

    def signal(self, need: str) -> Array:
        """Return a column, (N,) or (N, T) finite floats.

        Raises:
            MissingSignal: the run does not have this column.
            DataError: a value is not finite; the message names the examples.
        """
        if need in self.signals:
            values = self.signals[need]
        elif need == LOSSES and self.losses is not None:
            values = self.losses
        else:
            column, _, snapshot = need.partition("@")
            number = self.loss_column(snapshot) if column == LOSS else None
            if self.losses is None or number is None:
                raise missing_signals("this selection", [need])
            values = self.losses[:, number]
        self._check_finite(need, values)
        return values

    def loss_column(self, snapshot: str) -> int | None:
        """Return the column of the trajectories for a snapshot; None: it was not recorded."""
        if self.losses is None:
            return None
        return snapshot_index(snapshot, self.losses.shape[1], self.snapshot_steps, self.early_share)

    def step_of(self, snapshot: str) -> int | None:
        """Return the optimiser step of a snapshot; None if it is not known."""
        column = self.loss_column(snapshot)
        return None if column is None or self.snapshot_steps is None else self.snapshot_steps[column]

    def _check_finite(self, need: str, values: Array) -> None:
        for start in range(0, len(values), CHUNK_ROWS):
            chunk = values[start : start + CHUNK_ROWS]
            if np.isfinite(chunk).all():
                continue
            bad = np.flatnonzero(~np.isfinite(chunk).reshape(len(chunk), -1).all(axis=1)) + start
            names = listed([f"{one} ({values[row]})" for row, one in zip(bad, self.hex_ids(bad), strict=True)], 4)
            raise DataError(
                f"{need} is not finite for example {', '.join(names)}, so examples cannot be ordered by it; "
                "score the corpus again"
            )

    def hex_ids(self, rows: Array) -> list[str]:
        return array_to_hex(self.example_ids[rows])

    def categories(self) -> Iterator[tuple[str, Facet]]:
        """Yield sources, clusters and facets, by which reports count examples."""
        if self.sources is not None:
            yield "source", Facet(self.sources, self.source_names)
        if self.clusters is not None:
            num = int(self.clusters.max(initial=-1)) + 1
            yield "cluster", Facet(self.clusters, [str(number) for number in range(num)])
        yield from self.facets.items()


def _check_codes(name: str, codes: Array | None, names: list[str] | None, num_examples: int) -> None:
    if codes is None:
        return
    if codes.shape != (num_examples,) or not np.issubdtype(codes.dtype, np.integer):
        raise UserError(f"{name} must be ({num_examples},) integers, not {codes.shape} {codes.dtype}")
    if len(codes) and codes.min() < 0:
        raise UserError(f"{name} has {codes.min()} in row {int(codes.argmin())}, but codes count from 0")
    if names is not None and len(codes) and codes.max() >= len(names):
        raise UserError(f"{name} has the code {codes.max()}, but there are only {len(names)} names")
