"""The layout of a run's workers on the cluster; what only running nodes can tell is resolved once they are up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.config.schema import ResourcesConfig, S2LConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.execution.autoscaler import Growth, growth
from s2l_ray.execution.capacity import Node, num_fitting_workers, total
from s2l_ray.execution.capacity_wait import wait_for_free, wait_for_gpu, wait_for_nodes
from s2l_ray.execution.device import Devices, choose_devices
from s2l_ray.execution.node_facts import NodeFacts, facts_of_nodes
from s2l_ray.execution.node_memory import NodeMemory, node_memories, smallest_shares
from s2l_ray.execution.placement import (
    Placement,
    PlacementError,
    describe_nodes,
    host_memory_bytes,
    local_cores,
    node_resources,
    place,
)
from s2l_ray.execution.precision import MIN_CPU_WIDTH, Precision, choose_precision, keep_precision
from s2l_ray.execution.session import is_embedded, is_on_head
from s2l_ray.storage.folder import Storage

if TYPE_CHECKING:
    from s2l_ray.lm.sharding import Sharding  # imports torch

Role = Literal["proxy", "target", "evaluation"]
_MEMORY_TO_FILL = 0.9
"""Share of the machine's memory that parallel trainings may use, according to their estimates."""


@dataclass
class Layout:
    """Placements of the roles' workers, and the target's sharding as soon as it is known.

    On a cluster that grows, some of this is known only once its nodes are up; `wait_for_capacity` and `sharding_of`
    determine it then.
    """

    resources: ResourcesConfig
    embedded: bool
    """Whether Ray was started for this command alone."""
    placements: dict[str, Placement] = field(default_factory=dict)
    """Role (`proxy`, `target`, `evaluation`, `clusters`) → its placement; empty if no Ray is needed."""
    sharding: Sharding | None = None
    """The target's sharding; None: not known yet."""
    precisions: dict[str, Precision] = field(default_factory=dict)
    """Section → the precision of its model."""
    crowded: bool = False
    """Whether the caller itself starts only as many trainings as fit, so that none has to wait for resources."""

    def precision_of(self, model: TrainedModelConfig) -> Precision:
        """The precision of the model of the section `proxy` or `target`."""
        return self.precisions[model.section]

    def wait_for_capacity(self, role: Role, say: Callable[[str], None]) -> None:
        """Return when there is room for the workers of `role`.

        On an embedded Ray there is nothing to wait for; a cluster that may grow is asked to.

        Raises:
            CapacityTimeoutError: there was no room within `resources.capacity_wait_s`.
            PlacementError: the added nodes cannot use their GPUs.
        """
        resources, placement = self.resources, self.placements[role]
        if self.embedded:
            return
        if resources.may_grow:
            wait_for_nodes(placement, role, say, resources.capacity_wait_s)
            if placement.device == "gpu":
                self._check_gpus(role, say)
        elif not self.crowded:
            wait_for_free(placement, role, say, resources.capacity_wait_s)

    def _check_gpus(self, role: Role, say: Callable[[str], None]) -> None:
        """Check nodes that were added later: can their torch use the GPUs and, for the proxy, their faiss?"""
        placement = self.placements[role]
        facts = _gpu_facts([placement], self.embedded)
        devices = choose_devices(self.resources.device, facts, True, with_kmeans=role == "proxy", laid_out=True)
        for note in devices.notes:
            say(f"[{role}] {note}")
        if role == "proxy":
            self.placements["clusters"] = _kmeans_placement(placement, devices.kmeans)

    def sharding_of(self, config: S2LConfig) -> Sharding:
        """The target's sharding; its nodes must be up.

        Raises:
            PlacementError: the memory of its workers cannot be determined.
        """
        if self.sharding is None:
            self.sharding = shard_target(
                config, self.placements["target"], self.embedded, self.precisions["target"]
            )  # fmt: skip
        if self.sharding is None:
            raise PlacementError(
                "the memory of the target's workers cannot be determined: their nodes have left again or do not "
                "answer. Set estimates.worker_memory_gb, or run the same command again"
            )
        return self.sharding

    def targets_at_once(self, config: S2LConfig) -> int:
        """How many targets of the run may train at once. More than one if Ray was started for this command, each target
        is trained by one process on this machine's CPUs, and the machine has enough cores and memory."""
        if config.target is None or not self.embedded or len(config.target_subsets()) < 2:
            return 1
        from s2l_ray.execution.training_task import suffices

        placement, sharding = self.placements["target"], self.sharding_of(config)
        if sharding.stage or not suffices(placement):
            return 1
        by_memory = int(_MEMORY_TO_FILL * host_memory_bytes() / sharding.estimate.device_bytes)
        return max(1, min(targets_by_cores(self.placements, len(config.target_subsets())), by_memory))


def targets_by_cores(placements: Mapping[str, Placement], num_targets: int) -> int:
    """How many targets this machine's cores allow to train at once, if each takes one process on CPUs; otherwise 1."""
    placement = placements["target"]
    if not placement.is_one_process_on_cpus:
        return 1
    return max(1, min(int(local_cores() / placement.cpus_per_worker), num_targets))


def has_room_beside_proxy(placements: Mapping[str, Placement], at_once: int) -> bool:
    """Whether a target may train at the same time as the proxy, given that `at_once` targets may train at once."""
    asked = sum(placements[role].cpus_per_worker for role in ("proxy", "target"))
    return at_once > 1 and placements["proxy"].num_workers == 1 and asked <= local_cores()


def lay_out(
    config: S2LConfig,
    say: Callable[[str], None],
    with_kmeans: bool = True,
    storage: Storage | None = None,
    roles: Sequence[Role] | None = None,
) -> Layout:
    """Place the workers of all roles before anything starts; Ray must be connected.

    Args:
        with_kmeans: whether trajectories will be clustered.
        storage: the run's folder, which keeps the result of `precision: auto`; None: it is not kept.
        roles: roles that will need workers; None: all roles in the configuration.

    Raises:
        PlacementError, InsufficientMemoryError: the cluster can never provide what is requested.
    """
    resources, roles = config.resources, roles_of(config) if roles is None else roles
    embedded = is_embedded(resources)
    layout = Layout(resources, embedded)
    cores = local_cores() if embedded else None
    grown = growth() if resources.may_grow and not embedded and is_on_head() else None
    if grown is None:  # how far the cluster can grow is unknown
        wait_for_gpu(resources, say)
    nodes = node_resources()
    devices, gpu_facts = _devices(resources, roles, embedded, nodes, grown, with_kmeans)
    for note in devices.notes:
        say(f"[cluster] {note}")
    for role in roles:
        layout.placements[role] = place(resources, nodes, cores, role, grown, devices.training)
    if not embedded:
        who = "; ".join(f"{name}: {placement.describe()}" for name, placement in layout.placements.items())
        grows = "; waits for missing resources (resources.may_grow)" if resources.may_grow else ""
        grows += f"; it can grow by {describe_nodes(grown.nodes)}" if grown else ""
        say(f"[cluster] {describe_nodes(nodes)}; {who}{grows}")
    if "proxy" in roles:
        layout.placements["clusters"] = _kmeans_placement(layout.placements["proxy"], devices.kmeans, cores)
    layout.precisions = precisions_of(config, layout.placements, embedded, gpu_facts, storage, say)
    if "target" in roles:
        layout.sharding = shard_target(config, layout.placements["target"], embedded, layout.precisions["target"])
        if layout.sharding is None:
            say(
                "[target] the memory of its workers is unknown until their nodes are up: whether it fits, and with "
                "which ZeRO stage, is determined when it starts (set estimates.worker_memory_gb to determine it now)"
            )
    return layout


def precisions_of(
    config: S2LConfig,
    placements: Mapping[str, Placement],
    embedded: bool,
    gpu_facts: Sequence[NodeFacts],
    storage: Storage | None,
    say: Callable[[str], None],
) -> dict[str, Precision]:
    """Section → the precision of its model, for the sections that have placements.

    Args:
        gpu_facts: nodes with GPUs that may get workers; empty if they are not up yet.
        storage: the run's folder, which keeps the precisions.

    Raises:
        PlacementError: bf16 is required, but the processors do not support it.
    """
    found: dict[str, Precision] = {}
    for model in (config.proxy, config.target):
        if model is None or model.section not in placements:
            continue
        placement = placements[model.section]
        on_cpu, nodes = placement.device == "cpu", list(gpu_facts)
        width = _width(model) if on_cpu and model.precision == "auto" else 0
        if on_cpu:
            matters = model.precision == "bf16" or width >= MIN_CPU_WIDTH
            nodes = _cpu_facts(placement, embedded) if matters else []
        chosen = choose_precision(model, placement.device, nodes, width)
        found[model.section] = chosen if storage is None else keep_precision(storage, model, chosen, say)
    return found


def _width(model: TrainedModelConfig) -> int:
    """The model's hidden size, from its config alone."""
    from s2l_ray.lm.load import load_model_config

    return int(getattr(load_model_config(model).get_text_config(), "hidden_size", None) or 0)


def _cpu_facts(placement: Placement, embedded: bool) -> list[NodeFacts]:
    """Facts of the living nodes that may get such workers."""
    return [
        facts for _, facts in facts_of_nodes(lambda node: num_fitting_workers(node, placement.worker) > 0, embedded)
    ]


def roles_of(config: S2LConfig) -> list[Role]:
    """The roles that need workers."""
    roles: list[Role] = ["proxy"]
    roles += ["target"] if config.target is not None else []
    return roles + (["evaluation"] if config.evaluation is not None else [])


def _devices(
    resources: ResourcesConfig,
    roles: Sequence[Role],
    embedded: bool,
    nodes: list[Node],
    grown: Growth | None,
    with_kmeans: bool,
) -> tuple[Devices, list[NodeFacts]]:
    """Resolve `resources.device` for the nodes that are up → (devices, facts of the nodes with GPUs); the abilities of
    nodes still to be added are unknown."""
    has_gpus = total(nodes, "GPU") >= 1
    to_come = grown is not None and total(grown.nodes, "GPU") >= 1
    if resources.device == "cpu" or not has_gpus:
        return choose_devices(resources.device, [], to_come), []
    open_to_all = resources.model_copy(update={"may_grow": True})  # refused later, when the device is known
    wanted = [place(open_to_all, nodes, None, role, None, "gpu") for role in roles]
    facts = _gpu_facts(wanted, embedded)
    return choose_devices(resources.device, facts, True, with_kmeans), facts


def _gpu_facts(placements: Sequence[Placement], embedded: bool) -> list[NodeFacts]:
    """Facts of the living nodes with GPUs that may get such workers, or of all nodes with GPUs if none of them may."""
    workers = [placement.worker for placement in placements if placement.device == "gpu"]
    found = facts_of_nodes(lambda node: node.get("GPU", 0) >= 1, embedded)
    wanted = [facts for node, facts in found if any(num_fitting_workers(node, worker) for worker in workers)]
    return wanted or [facts for _, facts in found]


def _kmeans_placement(proxy: Placement, device: str, cores: int | None = None) -> Placement:
    """Placement of the k-means actor: one GPU of the proxy's kind, or any node's CPUs.

    Args:
        cores: this machine's cores if Ray is embedded, which itself counts more CPUs.
    """
    from s2l_ray.selection.kmeans import MAX_THREADS

    if device == "gpu":
        return Placement("gpu", 1, float(MAX_THREADS), 1.0, proxy.accelerator_type, 1, proxy.custom_resources)
    custom = proxy.custom_resources if proxy.device == "cpu" else {}
    return Placement("cpu", 1, float(min(MAX_THREADS, cores or MAX_THREADS)), 0.0, None, 1, custom)


def shard_target(config: S2LConfig, placement: Placement, embedded: bool, precision: Precision) -> Sharding | None:
    """Choose the ZeRO stage that fits the workers' memory; None if that memory is unknown until their nodes are up.

    Raises:
        InsufficientMemoryError: no stage fits.
    """
    from s2l_ray.lm.memory import ModelSizes, meta_model
    from s2l_ray.lm.sharding import WorkerMemory, choose_sharding

    target, given = config.target, config.estimates.worker_memory_gb
    assert target is not None
    kinds = node_memories(placement, embedded) if given is None else [NodeMemory(given * 1e9, None, 1)]
    if not kinds:
        return None
    on_gpu = placement.device == "gpu"
    sizes = ModelSizes.counted(meta_model(target), target, precision, on_gpu)

    def choose(workers: int, target: TargetConfig) -> Sharding:
        device, host = smallest_shares(kinds, workers)
        memory = WorkerMemory(device, host if on_gpu else None)
        return choose_sharding(sizes, target, workers, precision, on_gpu, memory)

    # With the fewest workers, each holds the largest shard; with a full node, each has the smallest share of its
    # memory.
    crowd = min(placement.num_workers, max(kind.most_workers for kind in kinds))
    fleets = sorted({placement.fewest_workers, max(placement.fewest_workers, crowd)})
    chosen = {workers: choose(workers, target) for workers in fleets}
    strictest = max(chosen.values(), key=lambda sharding: sharding.stage)
    for workers, sharding in chosen.items():
        if sharding.stage != strictest.stage:
            choose(workers, target.model_copy(update={"zero_stage": strictest.stage}))  # refused if it does not fit
    return strictest
