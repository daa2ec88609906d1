"""The facts that `s2l inspect` shows, for its tables and, with `--json`, for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.data.facet_reader import load_facet
from s2l_ray.data.trajectories import Trajectories, snapshot_columns
from s2l_ray.errors import UserError, shown
from s2l_ray.reporting.facts_meaning import Meaning
from s2l_ray.reporting.main_subset import main_subset
from s2l_ray.reporting.meaning import meaning_of
from s2l_ray.text.redact import redact_text

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class InspectedCluster:
    """Facts on one cluster."""

    cluster: int
    size: int
    share: float
    losses: list[float]
    """The centroid (nats per token), one value for each snapshot used for clustering."""
    commonest: list[tuple[str, float]]
    """The two most common sources or values of a facet, and their shares."""
    examples: list[str]
    """The examples nearest to the centroid, one line each."""
    chosen: list[bool]
    """Whether the main subset holds each of them; empty if there is no subset."""
    taken: int | None
    """Number of its examples in the main subset; None if there is no subset."""


@dataclass(frozen=True)
class ClusteringFacts:
    """All requested clusters, the smallest first."""

    num_clusters: int
    num_snapshots: int
    """Number of recorded snapshots; `losses` covers only those used for clustering."""
    bottom: float
    top: float
    """Least and largest loss of any centroid (nats per token)."""
    subset: str | None
    """The main subset, which `taken` and `chosen` refer to."""
    clusters: list[InspectedCluster]


@dataclass(frozen=True)
class ValueFacts:
    """The examples with one value of a facet."""

    value: str
    size: int
    share: float
    first: float
    last: float
    """Mean losses at the first and last snapshot (nats per token)."""
    chosen: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Subset → how many of its examples have the value, and their share of the subset."""


@dataclass(frozen=True)
class QuarantineFacts:
    """Rows that could not be used for the same reason."""

    reason: str
    rows: int
    origin: str
    index: int
    text: str
    """The content of the first of these rows."""


def run_facts(
    run: Run, clusters: int | None = None, examples: int = 1, source: str = "", by: str = "", cluster: int | None = None
) -> dict[str, Any]:
    """All facts as JSON data. Arguments as for `inspect_run`."""
    clustering = wanted_clusters(run, clusters, examples, source, by, cluster)
    meaning = Meaning() if clustering is None else meaning_of(run)
    return {
        "run": run.uri,
        "name": run.config.name,
        "seed": run.config.seed,
        "stages": [_stage(name, stage) for name, stage in run.stages.items()],
        "others": [_stage(stage.name, stage) for stage in run.others],
        "clustering": None if clustering is None else {
            "subset": clustering.subset, "num_clusters": clustering.num_clusters,
            "num_snapshots": clustering.num_snapshots,
        },
        "clusters": None if clustering is None else [c.__dict__ for c in clustering.clusters],
        "purity": [asdict(one) for one in meaning.purity],
        "quality": [asdict(one) for one in meaning.quality],
        "by": [v.__dict__ for v in value_facts(run, by)] if by else None,
        "targets": {
            name: {"model": stage.storage.uri_of("model"), "evaluation": dict(run.target(name).evaluation)}
            for name, stage in run.targets.items()
        },
        "quarantine": [q.__dict__ for q in quarantine_facts(run)],
    }  # fmt: skip


def _stage(name: str, stage: Stage) -> dict[str, Any]:
    manifest = stage.manifest
    return {
        "name": name, "folder": stage.folder, "summary": stage.summary, "rows": manifest.row_counts,
        "wall_seconds": manifest.wall_seconds, "content": manifest.content_fingerprint,
    }  # fmt: skip


def wanted_clusters(
    run: Run, limit: int | None, examples: int, source: str, by: str, only: int | None
) -> ClusteringFacts | None:
    """As `clustering_facts`; None if the run has no clusters yet.

    Raises:
        UserError: it has none, but some of them or of their examples are asked for.
    """
    if "clusters" in run.stages:
        return clustering_facts(run, limit, examples, source, by, only)
    if source or only is not None:
        asked = f"--source {shown(source)}" if source else f"--cluster {only}"
        raise UserError(
            f"{run.uri} has no clusters yet, so {asked} would show nothing; leave it out, or finish the run"
        )
    return None


def clustering_facts(
    run: Run, limit: int | None, examples: int, source: str, by: str, only: int | None = None
) -> ClusteringFacts:
    """All requested clusters, or `only` one.

    Raises:
        UserError: the source, facet or cluster does not exist.
    """
    matrix = run.trajectories()
    value_names, values = values_of(run, matrix, by) if by else (matrix.source_names, matrix.sources)
    stage = run.stage("clusters")
    table = stage.storage.read_table("centroids.parquet")
    asked, recorded = stage.manifest.settings, matrix.losses.shape[1]
    columns = snapshot_columns(recorded, asked["num_snapshots"], asked["snapshots"])
    centroids = table["centroid_loss_nats"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)  # (K, T)
    assignment = stage.storage.read_table("assignment.parquet")["cluster"].to_numpy()
    sizes = np.bincount(assignment, minlength=len(centroids))
    allowed = np.ones(len(assignment), bool)
    if source:
        if source not in matrix.source_names:
            raise UserError(f"no source {shown(source)} in this corpus; its sources: {shown(matrix.source_names)}")
        allowed = matrix.sources == matrix.source_names.index(source)
    order = np.argsort(sizes, kind="stable")
    if only is not None:
        if not 0 <= only < len(sizes):
            raise UserError(f"no cluster {only} in this run; its clusters are 0 to {len(sizes) - 1}")
        order = np.array([only])
    subset = main_subset(run)
    chosen = None if subset is None else _chosen(run, subset, matrix)
    if limit is not None and limit < len(order):
        order = np.concatenate([order[: (limit + 1) // 2], order[len(order) - limit // 2 :]])
    found = []
    for k in order:
        members = np.flatnonzero((assignment == k) & allowed)
        names = Counter(value_names[code] for code in values[members])
        distances = ((matrix.losses[np.ix_(members, columns)] - centroids[k]) ** 2).sum(axis=1)
        nearest = members[np.argsort(distances, kind="stable")[:examples]]
        found.append(
            InspectedCluster(
                int(k), int(sizes[k]), float(sizes[k] / sizes.sum()), [float(x) for x in centroids[k]],
                [(name, count / max(1, len(members))) for name, count in names.most_common(2)],
                [_text(run, matrix, int(row)) for row in nearest],
                [] if chosen is None else [bool(chosen[row]) for row in nearest],
                None if chosen is None else int(chosen[assignment == k].sum()),
            )
        )  # fmt: skip
    return ClusteringFacts(len(sizes), recorded, float(centroids.min()), float(centroids.max()), subset, found)


def _chosen(run: Run, subset: str, matrix: Trajectories) -> Array:
    """Whether the subset contains each example, as (N,) bool."""
    keys = _sortable(matrix.ids)
    ids = run.subsets[subset].storage.read_table("ids.parquet", ["example_id"])["example_id"]
    return np.isin(keys, _sortable(ids_to_array(ids)))


def values_of(run: Run, matrix: Trajectories, by: str) -> tuple[list[str], Array]:
    """Read a facet → (its values, (N,) codes into them).

    Raises:
        UserError: there is no such facet.
    """
    corpus = run.stage("corpus")
    facets = list(corpus.manifest.extra.get("facets", {}))
    if by in facets:
        return load_facet(corpus.storage.sub("examples"), matrix.part_rows, matrix.ids, by)
    if by == run.config.corpus.source_column:
        return matrix.source_names, matrix.sources
    known = [*facets, run.config.corpus.source_column] if run.config.corpus.source_column else facets
    raise UserError(
        f"{shown(by)} is not a facet of this corpus, so results cannot be broken down by it; facets: {shown(known)} "
        "(name others in corpus.facets and run again)"
    )


def value_facts(run: Run, by: str) -> list[ValueFacts]:
    """Facts on every value, the most common first."""
    matrix = run.trajectories()
    names, codes = values_of(run, matrix, by)
    sizes = np.bincount(codes, minlength=len(names))
    sums = [np.bincount(codes, weights=matrix.losses[:, t], minlength=len(names)) for t in (0, -1)]
    keys = _sortable(matrix.ids)
    order = np.argsort(keys, kind="stable")
    chosen = {}
    for label, stage in run.subsets.items():
        ids = ids_to_array(stage.storage.read_table("ids.parquet", ["example_id"])["example_id"])
        at = order[np.searchsorted(keys, _sortable(ids), sorter=order)]
        chosen[label] = np.bincount(codes[at], minlength=len(names))
    found = []
    for k in np.argsort(-sizes, kind="stable"):
        first, last = (float(total[k] / max(1, sizes[k])) for total in sums)
        counts = {label: (int(n[k]), float(n[k] / max(1, n.sum()))) for label, n in chosen.items()}
        found.append(ValueFacts(names[k], int(sizes[k]), float(sizes[k] / sizes.sum()), first, last, counts))
    return found


def _sortable(ids: Array) -> Array:
    """Convert ids (N, 2) uint64 to (N,) values that sort in the same order."""
    return np.ascontiguousarray(ids.astype(">u8")).view("S16").ravel()


def _text(run: Run, matrix: Trajectories, row: int) -> str:
    """An example in one line."""
    starts = np.cumsum([0] + [n for _, n in matrix.part_rows])
    part, _ = matrix.part_rows[int(np.searchsorted(starts, row, side="right")) - 1]
    table = run.stage("corpus").storage.sub("examples").read_table(part_name(part), columns=["example_id", "messages"])
    at = np.flatnonzero((ids_to_array(table["example_id"]) == matrix.ids[row]).all(axis=1))[0]
    messages = table["messages"][int(at)].as_py()
    return " ".join(f"{m['role'][:1].upper()}: {redact_text(m['content']).strip()[:90]}" for m in messages[:4])


def quarantine_rows(stage: Stage) -> list[dict[str, Any]]:
    """All quarantined rows of a stage: origin, index, reason, text."""
    folder = stage.storage.sub("quarantine")
    return [row for entry in folder.list() for row in folder.read_table(entry.name).to_pylist()]


def quarantine_facts(run: Run) -> list[QuarantineFacts]:
    """Facts on every reason, the most common first."""
    rows = [r for name in ("corpus", "tokens") if name in run.stages for r in quarantine_rows(run.stages[name])]
    found = []
    for reason, count in Counter(r["reason"] for r in rows).most_common():
        first = next(r for r in rows if r["reason"] == reason)
        found.append(QuarantineFacts(reason, count, first["origin"], first["index"], redact_text(first["text"])))
    return found
