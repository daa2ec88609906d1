"""The context passed to every stage: run, requested configuration, stage runner and placements."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.runner import StageRunner
from s2l_ray.config.schema import S2LConfig
from s2l_ray.execution.training_watcher import Watcher
from s2l_ray.observability.metrics_log import MetricsLog
from s2l_ray.observability.progress import Progress
from s2l_ray.stages.layout import Layout


@dataclass(frozen=True)
class RunContext:
    """Built once a command."""

    config: S2LConfig
    """What this command asks for; the run's own configuration may hold more."""
    runner: StageRunner
    layout: Layout
    watcher: Watcher | None = None
    """Of the target's training."""

    @property
    def run(self) -> Run:
        return self.runner.run

    @property
    def progress(self) -> Progress:
        return self.runner.progress

    @property
    def metrics(self) -> MetricsLog:
        return self.runner.metrics

    @property
    def parallelism(self) -> int:
        """About how many one-CPU tasks run at once."""
        # Whoever has a place: the number is the cluster's; of the k-means actor it is 1.
        return max(placement.parallelism for placement in self.layout.placements.values())
