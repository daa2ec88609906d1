"""The data shared by all trials of one phase of a sweep."""

from __future__ import annotations

from dataclasses import dataclass, field

from s2l_ray.config.schema import S2LConfig
from s2l_ray.evaluation.metrics import Metric
from s2l_ray.execution.placement import Placement
from s2l_ray.execution.precision import Precision
from s2l_ray.selection import Selector
from s2l_ray.stages.evaluation.tasks import AskedTask
from s2l_ray.storage.folder import Storage
from s2l_ray.sweeps.scoring import ScoringTarget


@dataclass(frozen=True)
class Upstream:
    """Content fingerprints of the artifacts that trials select from."""

    trajectories: str
    """Those of the base configuration."""
    target: str | None = None
    """The target, trained on everything, whose scores selectors read; None: all selectors read the proxy's."""


@dataclass(frozen=True)
class SweepContext:
    """Data shared by all trials of one phase."""

    base: S2LConfig
    storage: Storage
    """The run's folder."""
    placements: dict[str, Placement]
    embedded: bool
    phase: str
    """`target`, or `predicted` if the proxy's model is used instead."""
    upstream: Upstream
    precisions: dict[str, Precision] = field(default_factory=dict)
    """Section → the precision of its model, unless a trial sets its own."""
    selectors: tuple[Selector, ...] = ()
    """Selectors registered in the process that runs the sweep, which the trials' processes would not know."""
    metrics: tuple[Metric, ...] = ()
    """Metrics registered there, which the trials' processes would not know either."""
    asked: tuple[AskedTask, ...] = ()
    """The test questions by whose answers trials are judged; empty: they are judged by held-out examples."""
    scoring: ScoringTarget | None = None
    """The target whose scores selectors read; None: they read the proxy's."""
