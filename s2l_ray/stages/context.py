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
    """Everything that stages need to know about the current command; built once per command."""

    config: S2LConfig
    """Configuration of this command; the run's own may contain more."""
    runner: StageRunner
    layout: Layout
    watcher: Watcher | None = None
    """Observer of the target's training, if any."""

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
        """About how many one-CPU tasks can run at once."""
        # The same cluster-wide number in every placement, except that of the k-means actor, where it is 1.
        return max(placement.parallelism for placement in self.layout.placements.values())
