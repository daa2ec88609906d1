"""Compares gradients by clusters and subsets: reads artifacts → plain data for gradients.json. Uses neither Ray nor
torch.

Memory: the sample's gradients in float32 and float64, and inner products of all pairs (together about 400 MB for 3,000
examples of 4,096 numbers); ids and clusters of the corpus (20 bytes per example, about 60 while the sample is drawn);
ids of one subset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.data.columns import WEIGHT
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_ids, ids_to_array
from s2l_ray.errors import InternalError
from s2l_ray.selection.gradient_errors import ClusterDraw, Members, SampledGradients, UniformDraw
from s2l_ray.selection.gradient_sample import GradientSample, draw_sample
from s2l_ray.selection.gradient_similarity import NUM_BLOCKS, UniformGradients
from s2l_ray.selection.gradient_verdict import CLUSTERS, SnapshotFindings, verdict
from s2l_ray.selection.kmeans import fit_kmeans
from s2l_ray.storage.folder import Storage

Array = np.ndarray[Any, np.dtype[Any]]
_Subset = UniformDraw | ClusterDraw | Members


@dataclass(frozen=True)
class CheckSources:
    """Artifacts and settings that the check reads."""

    gradients: Storage
    snapshots: list[tuple[str, int]]
    """(name, step) of each snapshot."""
    num_chunks: int
    clusters: Storage
    trajectories: Storage
    part_rows: list[tuple[int, int]]
    """(part, rows) of the trajectories."""
    num_examples: int
    """Number of examples in the uniform sample."""
    seed: int
    """Seed of the sample."""


@dataclass(frozen=True)
class SubsetToCheck:
    storage: Storage
    within_clusters: bool
    """Whether the subset is a random draw within each cluster, so that its error has a closed form."""
    uniform: bool
    """Whether the subset is a random draw from all examples."""


def read_sample(clusters: Storage, num_examples: int, seed: int) -> tuple[Array, GradientSample]:
    """Draw the sample → its ids (m, 2) in ascending order, and the sample."""
    assignment = clusters.read_table("assignment.parquet", columns=["example_id", "cluster"])
    ids = ids_to_array(assignment["example_id"])
    sample = draw_sample(ids, assignment["cluster"].to_numpy(), num_examples, seed)
    return ids[sample.rows], sample


def check_gradients(sources: CheckSources, subsets: Mapping[str, SubsetToCheck], seed: int) -> dict[str, Any]:
    """Compare gradients within and across clusters, sources and clusters of embeddings, and the subsets' errors."""
    ids, sample = read_sample(sources.clusters, sources.num_examples, sources.seed)
    labels = {CLUSTERS: sample.clusters}
    names, codes = _sources(sources, sample)
    if len(names) > 1:
        labels["sources"] = codes
    drawn = {name: _drawn(subset, ids, sample) for name, subset in subsets.items()}
    snapshots = [_snapshot(sources, name, step, ids, sample, labels, drawn, seed) for name, step in sources.snapshots]
    return {
        "num_examples": int(sample.cluster_sizes.sum()), "num_sampled": len(ids),
        "num_uniform": int(sample.is_uniform.sum()), "num_clusters": int((sample.cluster_sizes > 0).sum()),
        "snapshots": [asdict(one) for one in snapshots], "verdict": verdict(snapshots, has_subsets=bool(subsets)),
    }  # fmt: skip


def _snapshot(
    sources: CheckSources, name: str, step: int, ids: Array, sample: GradientSample, labels: Mapping[str, Array],
    drawn: Mapping[str, _Subset], seed: int,
) -> SnapshotFindings:  # fmt: skip
    gradients, embeddings = _read(sources, name, ids)
    uniform = sample.is_uniform
    ready = UniformGradients(gradients[uniform], sample.uniform_groups[uniform], NUM_BLOCKS)
    num_clusters = len(np.unique(sample.clusters[uniform]))
    grouped = fit_kmeans(embeddings[uniform], num_clusters=num_clusters, seed=seed)
    kinds = {kind: of[uniform] for kind, of in labels.items()} | {"embeddings": grouped.assignment.astype(np.int64)}
    similarity = ready.similarities(kinds, seed)
    num_zero, gap = ready.num_zero, ready.gap(sample.clusters[uniform], seed)
    del ready  # frees its matrix before another one is computed
    errors = SampledGradients(gradients, sample, NUM_BLOCKS).errors(drawn)
    return SnapshotFindings(name, step, num_zero, similarity, gap, errors)


def _read(sources: CheckSources, snapshot: str, ids: Array) -> tuple[Array, Array]:
    """Read the sample's gradients (m, D) and embeddings (m, H), float32."""
    names = [f"{snapshot}/{part_name(chunk)}" for chunk in range(sources.num_chunks)]
    table = pa.concat_tables(sources.gradients.read_tables(names)).combine_chunks()
    if not np.array_equal(ids_to_array(table["example_id"]), ids):
        raise InternalError(f"{sources.gradients.uri} holds other examples; delete that folder and try again")
    columns = (table[name].combine_chunks() for name in ("gradient", "embedding"))
    gradients, embeddings = (one.flatten().to_numpy().reshape(len(ids), -1) for one in columns)
    return gradients, embeddings


def _sources(sources: CheckSources, sample: GradientSample) -> tuple[list[str], Array]:
    """Read the names of the sources and the sample's (m,) codes, with one part in memory at a time."""
    codes: dict[str, int] = {}
    found = np.empty(len(sample.rows), dtype=np.int64)
    starts = np.cumsum([0] + [rows for _, rows in sources.part_rows])
    tables = sources.trajectories.read_tables([part_name(part) for part, _ in sources.part_rows], ["source"])
    for start, end, table in zip(starts[:-1], starts[1:], tables, strict=True):
        mine = np.flatnonzero((sample.rows >= start) & (sample.rows < end))
        values = table["source"].take(pa.array(sample.rows[mine] - start)).to_pylist()
        found[mine] = [codes.setdefault(value, len(codes)) for value in values]
    return list(codes), found


def _drawn(subset: SubsetToCheck, ids: Array, sample: GradientSample) -> _Subset:
    table = subset.storage.read_table("ids.parquet")
    if subset.uniform:
        return UniformDraw(table.num_rows)
    if subset.within_clusters:
        return ClusterDraw(np.bincount(table["s2l_cluster"].to_numpy(), minlength=len(sample.cluster_sizes)))
    at = pc.index_in(array_to_ids(ids), value_set=table["example_id"].combine_chunks())
    inside = at.is_valid().to_numpy(zero_copy_only=False)
    weights = None
    if WEIGHT in table.column_names:
        weights = table[WEIGHT].to_numpy()[at.fill_null(0).to_numpy()].astype(np.float64)
    return Members(table.num_rows, inside, weights)
