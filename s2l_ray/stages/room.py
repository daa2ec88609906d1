"""A stage's workers wait for their places where others use the cluster too."""

from __future__ import annotations

from s2l_ray.cluster.room import wait_for_room
from s2l_ray.cluster.session import is_embedded
from s2l_ray.pipeline import Pipeline


def make_room(pipeline: Pipeline, who: str) -> None:
    """Returns when there is room for the workers of `who` (`proxy`, `target`).

    Nothing to wait for on a Ray of our own; a cluster that may grow does so for what does not fit; and a sweep starts
    no more trials than have room.
    """
    resources = pipeline.run.config.resources
    if not (pipeline.shared or is_embedded(resources) or resources.may_grow):
        wait_for_room(pipeline.placements[who], who, pipeline.progress.say)
