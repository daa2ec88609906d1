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
    """What trials choose from, by content."""

    trajectories: str
    """The base configuration's."""
    target: str | None = None
    """The target on everything whose scores selectors read; None: all read the proxy's."""


@dataclass(frozen=True)
class SweepContext:
    """What all trials have in common."""

    base: S2LConfig
    storage: Storage
    """The run's folder."""
    placements: dict[str, Placement]
    embedded: bool
    phase: str
    """`target`, or `predicted` if the proxy's model is used instead."""
    upstream: Upstream
    precisions: dict[str, Precision] = field(default_factory=dict)
    """Section → what its model is computed in where a trial does not set it."""
    selectors: tuple[Selector, ...] = ()
    """Registered in the process that leads the sweep; those that trials run in know them not."""
    metrics: tuple[Metric, ...] = ()
    """Likewise."""
    asked: tuple[AskedTask, ...] = ()
    """The test questions by whose answers trials are judged; none: by what is held out."""
    scoring: ScoringTarget | None = None
    """None: the proxy's scores are read."""
