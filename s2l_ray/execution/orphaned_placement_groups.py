"""Releases resources that killed actors had reserved."""

from __future__ import annotations


def remove_orphaned_placement_groups() -> int:
    """Remove this job's placement groups whose creator is dead → how many there were.

    Ray keeps them until the job ends. Ray Train removes those of a killed controller only if its workers were already
    up: a controller that dies while they start, which takes most of a short trial, would leave their CPUs and GPUs
    reserved for nothing. Ray's public tables do not show who created a group.
    """
    import ray
    from ray._private.state import state
    from ray._raylet import PlacementGroupID
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    mine = ray.get_runtime_context().get_job_id()
    count = 0
    for entry in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(entry)
        made_by_actor = not ray.ActorID(group.creator_actor_id).is_nil()
        left = made_by_actor and group.creator_actor_dead and not group.is_detached
        if left and group.creator_job_id.hex() == mine and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
            count += 1
    return count
