"""Trajectories: losses of T snapshots → the N × T matrix."""

from __future__ import annotations

from s2l_ray.artifacts.models import ProxyArtifact, TrajectoriesArtifact
from s2l_ray.artifacts.run import part_rows
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.stages.context import RunContext
from s2l_ray.storage.folder import Storage


def trajectories_spec(context: RunContext, corpus: Stage, tokens: Stage, proxy: Stage) -> StageSpec:
    """Specify the stage: losses of T snapshots → the N × T matrix."""
    from s2l_ray.artifacts.snapshots import Snapshot
    from s2l_ray.stages.trajectories.build import build_trajectories

    snapshots = [Snapshot(**s) for s in ProxyArtifact.of(proxy).snapshots]

    def build(out: Storage) -> StageResult:
        rows = part_rows(tokens)
        with context.progress.stage("trajectories", sum(n for _, n in rows), "examples") as bar:
            parts = build_trajectories(
                tokens.storage.sub("parts"), rows, proxy.storage, snapshots, out, context.parallelism,
                on_rows=lambda rows: bar.update(advance=rows),
            )  # fmt: skip
        artifact = TrajectoriesArtifact(
            parts=[(p["part"], p["rows"]) for p in parts.parts],
            num_snapshots=parts.num_snapshots,
            signals=parts.signals,
        )
        summary = f"{parts.num_examples:,} trajectories of {parts.num_snapshots} losses, none missing, no duplicates"
        return StageResult(parts.fingerprint, {"trajectories": parts.num_examples}, artifact, summary=summary)

    # The corpus too, because the matrix includes the sources, which the tokens' fingerprint does not cover.
    inputs = {stage.name: stage.content for stage in (corpus, tokens, proxy)}
    return StageSpec("trajectories", {}, inputs, build)
