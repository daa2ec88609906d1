"""Sample evenly over k-means clusters of embeddings: S2L with other features, everything else being equal."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from s2l_ray.config.section import bounded
from s2l_ray.selection.inputs import Array, SelectionInputs
from s2l_ray.selection.kmeans import fit_kmeans
from s2l_ray.selection.options import ClusterOptions
from s2l_ray.selection.ordering import Ordering
from s2l_ray.selection.selectors.facility_location import EMBEDDING_COLUMN, EmbeddingKind
from s2l_ray.selection.selectors.s2l import sample_clusters
from s2l_ray.selection.signals import Snapshot, at
from s2l_ray.selection.unit_vectors import READ_ROWS, UnitVectors, new_matrix, read_unit_vectors


class EmbeddingKMeansOptions(ClusterOptions):
    reference: Snapshot = "late"
    """Snapshot whose embeddings are clustered."""
    embedding: EmbeddingKind = "response"
    """Mean hidden state of the response, or of the prompt, which a wrong answer cannot affect."""
    num_clusters: int = bounded(100, 1_000_000, "the centroids are held in memory", ge=1)
    """K; lowered with a warning if there are fewer distinct embeddings."""
    init: Literal["kmeans++", "random"] = "kmeans++"
    """How the first centroids are chosen."""
    num_iterations: int = bounded(20, 10_000, "k-means converges long before that", ge=1)
    """Lloyd iterations."""
    max_train_points: int = bounded(1_000_000, 10**10, "the points are held in memory", ge=1)
    """Centroids are trained on a seeded sample of at most this many embeddings."""


class EmbeddingKMeans:
    name = "embedding_kmeans"
    summary = "evenly over clusters of the proxy's embeddings"
    label = "embedding k-means"
    Options = EmbeddingKMeansOptions

    def needs(self, options: EmbeddingKMeansOptions) -> frozenset[str]:
        return options.strata_needs() | {at(EMBEDDING_COLUMN[options.embedding], options.reference)}

    def order(self, inputs: SelectionInputs, seed: int, options: EmbeddingKMeansOptions, max_budget: int) -> Ordering:
        reader = inputs.embeddings[at(EMBEDDING_COLUMN[options.embedding], options.reference)]
        unit = read_unit_vectors(reader, inputs.example_ids)
        result = fit_kmeans(
            _as_float32(unit),
            num_clusters=options.num_clusters,
            seed=seed,
            init=options.init,
            num_iterations=options.num_iterations,
            max_train_points=options.max_train_points,
        )
        clusters = np.empty(inputs.num_examples, dtype=np.int32)
        clusters[unit.order] = result.assignment
        ordering = sample_clusters(inputs, seed, clusters, options)
        notes = {"num_clusters": len(result.sizes), "inertia": result.inertia}
        return replace(ordering, notes=notes, warnings=result.warnings)


def _as_float32(unit: UnitVectors) -> Array:
    """Convert to an (N, d) float32 matrix for faiss: 4 d N bytes, in a temporary file if large."""
    matrix = new_matrix(unit.vectors.shape, np.dtype(np.float32))
    for start in range(0, len(matrix), READ_ROWS):
        matrix[start : start + READ_ROWS] = unit.vectors[start : start + READ_ROWS]
    return matrix
