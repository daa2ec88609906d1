"""Subset: trajectories, clusters and a budget → the chosen rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from s2l_ray.artifacts.models import CorpusArtifact, SubsetArtifact
from s2l_ray.artifacts.run import Run, part_rows
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.schema import S2LConfig, subset_name
from s2l_ray.storage.folder import Storage


class SelectionReader:
    """What selectors read of a run, read when first needed and once for many budgets."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._inputs: Any = None

    def sources(self) -> Any:
        """Where it lies; see build.SubsetSources."""
        from s2l_ray.data.columns import Columns
        from s2l_ray.stages.subset.build import SubsetSources

        corpus, trajectories = self._run.stage("corpus"), self._run.stage("trajectories")
        made = CorpusArtifact.of(corpus)
        return SubsetSources(
            trajectories.storage, part_rows(trajectories), corpus.storage.sub("examples"),
            self._run.stage("clusters").storage, made.format,
            None if made.columns is None else Columns.from_plain(made.columns), list(made.facets),
        )  # fmt: skip

    def inputs(self) -> Any:
        """Trajectories and clusters in memory; see build.read_inputs."""
        from s2l_ray.stages.subset.build import read_inputs

        if self._inputs is None:
            self._inputs = read_inputs(self.sources())
        return self._inputs


def subset_spec(
    config: S2LConfig, run: Run, selector: str, budget: int | float, reader: SelectionReader, say: Callable[[str], None]
) -> StageSpec:
    """Clusters and a budget → one subset."""
    from s2l_ray.selection.quotas import resolve_budget
    from s2l_ray.selection.rules import SELECTORS
    from s2l_ray.stages.subset.build import build_subset

    corpus, trajectories, clusters = run.stage("corpus"), run.stage("trajectories"), run.stage("clusters")
    count = resolve_budget(budget, trajectories.manifest.row_counts["trajectories"])
    seed = config.seed_of("selection")
    stratify = config.selection.stratify if SELECTORS[selector].takes_stratify else False

    def build(out: Storage) -> StageResult:
        stats = build_subset(
            reader.sources(), reader.inputs(), selector, count, seed, stratify, out,
            wait_s=config.resources.capacity_wait_s, say=say,
        )  # fmt: skip
        summary = f"{stats.num_chosen:,} of {stats.num_examples:,} examples → {out.uri}/{stats.files[0]}"
        artifact = SubsetArtifact(files=stats.files, per_source=stats.per_source, selector=selector, budget=budget)
        return StageResult(
            stats.fingerprint, {"examples": stats.num_chosen}, artifact, seeds={"selection": seed}, summary=summary
        )

    settings = {"selector": selector, "budget": count, "seed": seed, "stratify": stratify}
    reads: Sequence[Stage] = (corpus, trajectories, clusters)
    name = f"subset/{subset_name(selector, budget, config.selection.stratify)}"
    return StageSpec(name, settings, {stage.name: stage.content for stage in reads}, build, folder=name)
