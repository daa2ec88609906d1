"""Do clusters mean something? Computes the purity by source and facet of clusters of trajectories and of embeddings,
each compared with random clusters of the same sizes, their stability, and embeddings projected onto a plane.

Memory: what `embeddings` reads, and the trajectories of the same number of examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from s2l_ray.artifacts.run import Run
from s2l_ray.data.trajectories import snapshot_columns
from s2l_ray.reporting.embeddings import SAMPLE, EmbeddingSample, embedding_samples
from s2l_ray.reporting.facts_meaning import Meaning, Projection, Purity, Quality
from s2l_ray.reporting.projection import project
from s2l_ray.reporting.rows import Rows, default_column
from s2l_ray.reporting.sketch import Part, Sketch
from s2l_ray.selection.cluster_quality import adjusted_rand, count_pairs, purity
from s2l_ray.selection.kmeans import FaissMissing, KMeansResult, fit_kmeans

Array = np.ndarray[Any, np.dtype[Any]]

TRAJECTORIES = "trajectories"
_LEAST_PER_CLUSTER = 10
"""Minimum mean number of examples per cluster: among fewer, the most common value is chance, so a sample gets fewer
clusters."""


def meaning_of(run: Run) -> Meaning:
    """The facts for the page, from one pass over the trajectories of a run that has clusters."""
    rows, reader = Rows(run), MeaningReader(run)
    sketch = Sketch(run.stages["clusters"].manifest.row_counts["clusters"], rows.num_snapshots, 0, rows.num_rows)
    for part in rows:
        sketch.first_pass(part)
        reader.add(part)
    return reader.facts(rows, sketch, default_column(rows))


class MeaningReader:
    """Collects what it needs from each part of the trajectories, then computes the facts."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.samples = embedding_samples(run)
        self._notes = [_Notes(sample.ids) for sample in self.samples]
        self._losses: list[Array] = []
        self._clusters: list[Array] = []

    def add(self, part: Part) -> None:
        for notes in self._notes:
            notes.add(part)
        room = max(0, SAMPLE - part.start)
        self._losses.append(part.losses[:room].copy())
        self._clusters.append(part.clusters[:room].copy())

    def facts(self, rows: Rows, sketch: Sketch, column: str) -> Meaning:
        """Compute the facts from what was collected from all parts.

        Args:
            column: whose values colour the projections.
        """
        tables = {name: table for name, table in sketch.in_clusters.items() if _is_worth(table.sum(axis=0))}
        filled = sketch.sizes > 0
        found = Meaning()
        if filled.sum() > 1:
            found.purity.extend(self._purity(TRAJECTORIES, name, table) for name, table in tables.items())
        try:
            self._add_quality(found, sketch.sizes[filled])
            for sample, notes in zip(self.samples, self._notes, strict=True):
                self._add_embeddings(found, *notes.known(sample), list(tables), int(filled.sum()))
        except FaissMissing as error:
            found.left_out.append(f"Clusters of embeddings, and how stable clusters are, were left out: {error}")
        found.projections.extend(self._projections(rows, column))
        return found

    def _purity(self, clusters_of: str, column: str, counts: Array) -> Purity:
        made = purity(counts, self._run.config.seed)
        return Purity(
            clusters_of, column, int(counts.sum()), made.observed, made.random_mean, made.random_sd, made.excess,
            made.values, made.random_values,
        )  # fmt: skip

    def _add_quality(self, found: Meaning, sizes: Array) -> None:
        """Add the quality of the run's own clusters, compared with as many clusters of a sample with another seed."""
        stage = self._run.stages["clusters"]
        asked = stage.manifest.settings
        losses, stored = np.concatenate(self._losses), np.concatenate(self._clusters)
        columns = snapshot_columns(losses.shape[1], asked["num_snapshots"], asked["snapshots"])
        other = self._kmeans(np.ascontiguousarray(losses[:, columns]), len(sizes), 1)
        inertia = stage.manifest.extra.get("inertia")
        agreement = adjusted_rand(stored, other.assignment)
        found.quality.append(_quality(TRAJECTORIES, sizes, inertia, agreement, len(losses)))

    def _add_embeddings(
        self, found: Meaning, sample: EmbeddingSample, codes: dict[str, Array], columns: list[str], num_clusters: int
    ) -> None:
        num_clusters = min(num_clusters, len(sample.ids) // _LEAST_PER_CLUSTER)
        if num_clusters < 2:
            return
        one, other = (self._kmeans(sample.vectors, num_clusters, seed) for seed in (0, 1))
        agreement = adjusted_rand(one.assignment, other.assignment)
        found.quality.append(_quality(sample.name, one.sizes, one.inertia, agreement, len(sample.ids)))
        for column in columns:
            counts = count_pairs(one.assignment, codes[column], len(one.sizes), int(codes[column].max()) + 1)
            if _is_worth(counts.sum(axis=0)):
                found.purity.append(self._purity(sample.name, column, counts))

    def _kmeans(self, vectors: Array, num_clusters: int, further: int) -> KMeansResult:
        """`further`: 0 takes the run's seed, 1 another one."""
        asked = self._run.config.clusters
        return fit_kmeans(
            vectors, num_clusters=num_clusters, seed=self._run.config.seed_of("clusters") + further, init=asked.init,
            num_iterations=asked.num_iterations,
        )  # fmt: skip

    def _projections(self, rows: Rows, column: str) -> list[Projection]:
        known = [notes.known(sample) for sample, notes in zip(self.samples, self._notes, strict=True)]
        made = [
            project(sample.name, sample.vectors, column, codes[column], rows.values(column))
            for sample, codes in known if len(sample.ids)
        ]  # fmt: skip
        return [one for one in made if one is not None]


class _Notes:
    """Collects the categories of given examples, whichever parts they are in."""

    def __init__(self, ids: Array) -> None:
        self._ids = ids
        self._row = {(int(high), int(low)): row for row, (high, low) in enumerate(ids)}
        self._seen = np.zeros(len(ids), bool)
        self._codes: dict[str, Array] = {}

    def add(self, part: Part) -> None:
        near = np.flatnonzero(np.isin(part.ids[:, 0], self._ids[:, 0]))
        rows = [self._row.get((int(high), int(low)), -1) for high, low in part.ids[near]]
        mine = np.array(rows, np.int64)
        near, mine = near[mine >= 0], mine[mine >= 0]
        self._seen[mine] = True
        for name, codes in part.categories.items():
            self._codes.setdefault(name, np.zeros(len(self._ids), np.int32))[mine] = codes[near]

    def known(self, sample: EmbeddingSample) -> tuple[EmbeddingSample, dict[str, Array]]:
        """The sample and its categories, without examples that have no trajectory: the target may embed more."""
        rows = np.flatnonzero(self._seen)
        return sample.take(rows), {name: codes[rows] for name, codes in self._codes.items()}


def _is_worth(totals: Array) -> bool:
    """Whether there are at least two different values."""
    return bool((totals > 0).sum() > 1)


def _quality(clusters_of: str, sizes: Array, inertia: float | None, agreement: float, compared: int) -> Quality:
    return Quality(
        clusters_of, int(sizes.sum()), len(sizes), int(sizes.min()), float(np.median(sizes)), int(sizes.max()),
        inertia, agreement, compared,
    )  # fmt: skip
