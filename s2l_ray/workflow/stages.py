"""What each stage reads, which settings it depends on, and how its builder is called. The order is the story."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from s2l_ray.config.schema import S2LConfig
from s2l_ray.execution.autoscaler import Growth, growth
from s2l_ray.execution.capacity import Node, total
from s2l_ray.execution.capacity_wait import wait_for_gpu
from s2l_ray.execution.device import Devices, choose_devices
from s2l_ray.execution.placement import describe_nodes, local_cores, node_resources, place
from s2l_ray.execution.session import is_embedded, is_on_head
from s2l_ray.selection.quotas import check_budgets_fit
from s2l_ray.stages.capacity import gpu_facts, kmeans_placement
from s2l_ray.stages.corpus.stage import corpus_stage
from s2l_ray.stages.proxy.stage import proxy_stage, trajectories_stage
from s2l_ray.stages.subset.stage import clusters_stage, selection_inputs, subset_stage
from s2l_ray.stages.target.stage import shard_target, target_stages
from s2l_ray.stages.tokens.stage import tokens_stage
from s2l_ray.workflow.pipeline import Pipeline


def run_stages(pipeline: Pipeline) -> None:
    """All stages; Ray is connected."""
    config = pipeline.run.config
    place_stages(pipeline, config)
    run_up_to_trajectories(pipeline, config, config.selection.budgets)
    clusters_stage(pipeline, config)
    pipeline.run.commit()
    subset_stages(pipeline, config)
    target_stages(pipeline, config)


def subset_stages(pipeline: Pipeline, config: S2LConfig) -> None:
    """All subsets that the selection asks for."""
    inputs = None
    for selector in config.selection.selectors:
        for budget in config.selection.budgets:
            inputs = inputs or selection_inputs(pipeline)
            subset_stage(pipeline, config, selector, budget, inputs)


def run_up_to_trajectories(
    pipeline: Pipeline, config: S2LConfig, budgets: Sequence[int | float], where: str = "selection.budgets"
) -> None:
    """What all selections share.

    Args:
        budgets: what will be chosen from it; more than there is is refused before the proxy is trained.
        where: the setting that holds them.
    """
    corpus = corpus_stage(pipeline, config)
    check_budgets_fit(where, budgets, corpus.manifest.row_counts["examples"])
    tokens = tokens_stage(pipeline, config, corpus, config.proxy)
    check_budgets_fit(where, budgets, tokens.manifest.row_counts["examples"])
    proxy = proxy_stage(pipeline, config, tokens)
    trajectories_stage(pipeline, config, tokens, proxy)


def place_stages(pipeline: Pipeline, config: S2LConfig) -> None:
    """Who gets what, before anything starts; refused if it can never be had."""
    resources, say = config.resources, pipeline.progress.say
    embedded = is_embedded(resources)
    cores = local_cores() if embedded else None
    grown = growth() if resources.may_grow and not embedded and is_on_head() else None
    if grown is None:  # nobody knows what may come
        wait_for_gpu(resources, say)
    nodes = node_resources()
    devices = _devices(pipeline, config, nodes, grown)
    for note in devices.notes:
        say(f"[cluster] {note}")
    roles: list[Literal["proxy", "target"]] = ["proxy"] if config.target is None else ["proxy", "target"]
    for role in roles:
        pipeline.placements[role] = place(resources, nodes, cores, role, grown, devices.training)
    if not embedded:
        who = "; ".join(f"{name}: {placement.describe()}" for name, placement in pipeline.placements.items())
        grows = "; what is missing is waited for (resources.may_grow)" if resources.may_grow else ""
        grows += f"; it can grow by {describe_nodes(grown.nodes)}" if grown else ""
        say(f"[cluster] {describe_nodes(nodes)}; {who}{grows}")
    pipeline.placements["clusters"] = kmeans_placement(pipeline.placements["proxy"], devices.kmeans, cores)
    if config.target is not None:
        pipeline.sharding = shard_target(config, pipeline.placements["target"], embedded)
        if pipeline.sharding is None:
            say(
                "[target] the memory of its workers is not known before their nodes are up: whether it fits, and with "
                "which ZeRO stage, is found out when it begins (estimates.worker_memory_gb tells it now)"
            )


def _devices(pipeline: Pipeline, config: S2LConfig, nodes: list[Node], grown: Growth | None) -> Devices:
    """What `resources.device` comes to on the nodes that are up; of those to come nobody knows what they can do."""
    resources = config.resources
    has_gpus = total(nodes, "GPU") >= 1
    to_come = grown is not None and total(grown.nodes, "GPU") >= 1
    if resources.device == "cpu" or not has_gpus:
        return choose_devices(resources.device, [], to_come)
    roles: list[Literal["proxy", "target"]] = ["proxy"] if config.target is None else ["proxy", "target"]
    open_to_all = resources.model_copy(update={"may_grow": True})  # refused later, when the device is known
    wanted = [place(open_to_all, nodes, None, role, None, "gpu") for role in roles]
    with_kmeans = "clusters" not in pipeline.run.stages
    return choose_devices(resources.device, gpu_facts(wanted, resources), True, with_kmeans)
