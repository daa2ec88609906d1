"""A stage's workers wait for their places, and what only nodes that are up can tell is found out then."""

from __future__ import annotations

from collections.abc import Sequence

from s2l_ray.config.schema import ResourcesConfig
from s2l_ray.execution.capacity import num_fitting_workers
from s2l_ray.execution.capacity_wait import wait_for_free, wait_for_nodes
from s2l_ray.execution.device import choose_devices
from s2l_ray.execution.node_facts import NodeFacts, facts_of_nodes
from s2l_ray.execution.placement import Placement
from s2l_ray.execution.session import is_embedded
from s2l_ray.workflow.pipeline import Pipeline


def make_room(pipeline: Pipeline, who: str) -> None:
    """Returns when there is room for the workers of `who` (`proxy`, `target`).

    Nothing to wait for on a Ray of our own; a cluster that may grow is asked to; and a sweep starts no more trials than
    have room.

    Raises:
        CapacityTimeoutError: there was none for `resources.capacity_wait_s`.
        PlacementError: the nodes that came cannot use their GPUs.
    """
    resources, placement = pipeline.run.config.resources, pipeline.placements[who]
    if is_embedded(resources):
        return
    if resources.may_grow:
        wait_for_nodes(placement, who, pipeline.progress.say, resources.capacity_wait_s)
        if placement.device == "gpu":
            check_gpus(pipeline, who)
    elif not pipeline.shared:
        wait_for_free(placement, who, pipeline.progress.say, resources.capacity_wait_s)


def check_gpus(pipeline: Pipeline, who: str) -> None:
    """Of nodes that came after the start: whether their torch can use the GPUs, and for the proxy their faiss."""
    resources, placement = pipeline.run.config.resources, pipeline.placements[who]
    facts = gpu_facts([placement], resources)
    devices = choose_devices(resources.device, facts, True, with_kmeans=who == "proxy", laid_out=True)
    for note in devices.notes:
        pipeline.progress.say(f"[{who}] {note}")
    if who == "proxy":
        pipeline.placements["clusters"] = kmeans_placement(placement, devices.kmeans)


def gpu_facts(placements: Sequence[Placement], resources: ResourcesConfig) -> list[NodeFacts]:
    """Of the living nodes with GPUs that may get such workers; of all with GPUs where none may."""
    embedded = is_embedded(resources)
    workers = [placement.worker for placement in placements if placement.device == "gpu"]
    found = facts_of_nodes(lambda node: node.get("GPU", 0) >= 1, embedded)
    wanted = [facts for node, facts in found if any(num_fitting_workers(node, worker) for worker in workers)]
    return wanted or [facts for _, facts in found]


def kmeans_placement(proxy: Placement, device: str, cores: int | None = None) -> Placement:
    """Of the k-means actor: one GPU of the proxy's kind, or any node's CPUs.

    cores: of this machine, when the cluster is an embedded one, which counts more.
    """
    from s2l_ray.selection.kmeans import MAX_THREADS

    if device == "gpu":
        return Placement("gpu", 1, float(MAX_THREADS), 1.0, proxy.accelerator_type, 1, proxy.custom_resources)
    custom = proxy.custom_resources if proxy.device == "cpu" else {}
    return Placement("cpu", 1, float(min(MAX_THREADS, cores or MAX_THREADS)), 0.0, None, 1, custom)
