"""Clusters: the matrix of losses → centroids and assignment."""

from __future__ import annotations

from s2l_ray.artifacts.models import ClustersArtifact, TrajectoriesArtifact
from s2l_ray.artifacts.run import part_rows
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.stages.context import RunContext
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage


def clusters_spec(context: RunContext, trajectories: Stage) -> StageSpec:
    """Specify the stage: the matrix of losses → centroids and assignment."""
    from s2l_ray.stages.clusters.build import cluster_trajectories

    config = context.config
    seed = config.seed_of("clusters")

    def build(out: Storage) -> StageResult:
        placement, resources = context.layout.placements["clusters"], config.resources
        stats = cluster_trajectories(
            trajectories.storage, part_rows(trajectories), TrajectoriesArtifact.of(trajectories).num_snapshots,
            config.clusters, seed, placement, out, max_failures=resources.max_failures,
            wait_s=resources.capacity_wait_s, say=context.progress.say,
        )  # fmt: skip
        summary = f"{stats.num_clusters} clusters of {min(stats.sizes):,} to {max(stats.sizes):,} examples"
        content = fingerprint([trajectories.content, stats.fingerprint])
        return StageResult(
            content, {"clusters": stats.num_clusters, "examples": stats.num_examples},
            ClustersArtifact(inertia=stats.inertia), stats.warnings, {"clusters": seed}, placement.device,
            peak_memory_bytes=stats.peak_memory_bytes, summary=summary,
        )  # fmt: skip

    settings = config.clusters.model_dump(mode="json", exclude={"seed"}) | {"seed": seed}
    return StageSpec("clusters", settings, {"trajectories": trajectories.content}, build)
