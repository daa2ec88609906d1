"""Clusters and subsets: trajectories → centroids and assignment → chosen rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from s2l_ray.artifacts import Stage, part_rows
from s2l_ray.config.schema import S2LConfig, subset_name
from s2l_ray.pipeline import Built, Pipeline
from s2l_ray.run_folder import Storage, fingerprint


def clusters_stage(pipeline: Pipeline, config: S2LConfig) -> Stage:
    """The matrix → centroids and assignment."""
    from s2l_ray.clusters.actor import cluster_trajectories

    trajectories = pipeline.run.stage("trajectories")
    seed = config.seed_of("clusters")

    def build(out: Storage) -> Built:
        placement, resources = pipeline.placements["clusters"], config.resources
        stats = cluster_trajectories(
            trajectories.storage, part_rows(trajectories), trajectories.manifest.extra["num_snapshots"],
            config.clusters, seed, placement, out, max_failures=resources.max_failures,
            wait_s=resources.capacity_wait_s, say=pipeline.progress.say,
        )  # fmt: skip
        said = f"{stats.num_clusters} clusters of {min(stats.sizes):,} to {max(stats.sizes):,} examples"
        content = fingerprint([trajectories.manifest.content_fingerprint, stats.fingerprint])
        return Built(
            content, {"clusters": stats.num_clusters, "examples": stats.num_examples}, {"inertia": stats.inertia},
            stats.warnings, {"clusters": seed}, placement.device,
            peak_memory_bytes=stats.peak_memory_bytes, said=said,
        )  # fmt: skip

    settings = config.clusters.model_dump(mode="json", exclude={"seed"}) | {"seed": seed}
    return pipeline.stage("clusters", settings, {"trajectories": trajectories.manifest.content_fingerprint}, build)


def _subset_sources(pipeline: Pipeline) -> Any:
    from s2l_ray.corpus.columns import Columns
    from s2l_ray.subset.build import SubsetSources

    run = pipeline.run
    corpus, trajectories = run.stage("corpus"), run.stage("trajectories")
    return SubsetSources(
        trajectories.storage,
        part_rows(trajectories),
        corpus.storage.sub("examples"),
        run.stage("clusters").storage,
        corpus.manifest.extra["format"],
        Columns.from_plain(corpus.manifest.extra["columns"]) if "columns" in corpus.manifest.extra else None,
        list(corpus.manifest.extra.get("facets", {})),
    )


def selection_inputs(pipeline: Pipeline) -> Any:
    from s2l_ray.subset.build import read_inputs

    return read_inputs(_subset_sources(pipeline))


def subset_stage(
    pipeline: Pipeline, config: S2LConfig, selector: str, budget: int | float, inputs: Any | None
) -> Stage:
    """Clusters and a budget → one subset. `inputs`: read once for many budgets; None reads them when needed."""
    from s2l_ray.subset.build import build_subset
    from s2l_ray.subset.quota import resolve_budget
    from s2l_ray.subset.selectors import SELECTORS

    run = pipeline.run
    corpus, trajectories, clusters = run.stage("corpus"), run.stage("trajectories"), run.stage("clusters")
    num_examples = trajectories.manifest.row_counts["trajectories"]
    count = resolve_budget(budget, num_examples)
    seed = config.seed_of("selection")
    stratify = config.selection.stratify if SELECTORS[selector].takes_stratify else False

    def build(out: Storage) -> Built:
        stats = build_subset(
            _subset_sources(pipeline), inputs or selection_inputs(pipeline), selector, count, seed, stratify, out
        )
        said = f"{stats.num_chosen:,} of {stats.num_examples:,} examples → {out.uri}/{stats.files[0]}"
        extra = {"files": stats.files, "per_source": stats.per_source, "selector": selector, "budget": budget}
        return Built(stats.fingerprint, {"examples": stats.num_chosen}, extra, seeds={"selection": seed}, said=said)

    settings = {"selector": selector, "budget": count, "seed": seed, "stratify": stratify}
    reads: Sequence[Stage] = (corpus, trajectories, clusters)
    read = {s.name: s.manifest.content_fingerprint for s in reads}
    label = subset_name(selector, budget, config.selection.stratify)
    return pipeline.stage(f"subset/{label}", settings, read, build, folder=f"subset/{label}")
