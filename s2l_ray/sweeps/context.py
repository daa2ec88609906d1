"""What all trials of one phase of a sweep have in common."""

from __future__ import annotations

from dataclasses import dataclass

from s2l_ray.config.schema import S2LConfig
from s2l_ray.execution.placement import Placement
from s2l_ray.storage.folder import Storage


@dataclass(frozen=True)
class SweepContext:
    """What all trials have in common."""

    base: S2LConfig
    storage: Storage
    """The run's folder."""
    placements: dict[str, Placement]
    embedded: bool
    phase: str
    """`target`, or `predicted` where the proxy's model stands in."""
    trajectories: str
    """Content of the base configuration's."""
