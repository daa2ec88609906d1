"""What each stage reads, which settings it depends on, and how its builder is called. The order is the story."""

from __future__ import annotations

from s2l_ray.cluster.growth import nodes_to_come
from s2l_ray.cluster.placement import describe_nodes, local_cores, node_resources, place, wait_for_gpu
from s2l_ray.cluster.session import is_embedded, is_on_head
from s2l_ray.config.schema import S2LConfig
from s2l_ray.pipeline import Pipeline
from s2l_ray.stages.corpus import corpus_stage
from s2l_ray.stages.proxy import proxy_stage, trajectories_stage
from s2l_ray.stages.selection import clusters_stage, selection_inputs, subset_stage
from s2l_ray.stages.target import shard_target, target_stages
from s2l_ray.stages.tokens import tokens_stage


def run_stages(pipeline: Pipeline) -> None:
    """All stages; Ray is connected."""
    config = pipeline.run.config
    place_stages(pipeline, config)
    run_up_to_trajectories(pipeline, config)
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


def run_up_to_trajectories(pipeline: Pipeline, config: S2LConfig) -> None:
    """What all selections share."""
    corpus = corpus_stage(pipeline, config)
    tokens = tokens_stage(pipeline, config, corpus, config.proxy)
    proxy = proxy_stage(pipeline, config, tokens)
    trajectories_stage(pipeline, config, tokens, proxy)


def place_stages(pipeline: Pipeline, config: S2LConfig) -> None:
    """Who gets what, before anything starts; refused if it can never be had."""
    embedded = is_embedded(config.resources)
    cores = local_cores() if embedded else None
    wait_for_gpu(config.resources)
    nodes = node_resources()
    to_come = nodes_to_come() if config.resources.may_grow and not embedded and is_on_head() else None
    pipeline.placements["proxy"] = place(config.resources, nodes, cores, to_come=to_come)
    if config.target is not None:
        pipeline.placements["target"] = place(config.resources, nodes, cores, "target", to_come)
        pipeline.sharding = shard_target(config, pipeline.placements["target"], embedded)
    if not embedded:
        who = "; ".join(f"{name}: {placement.describe()}" for name, placement in pipeline.placements.items())
        grows = "; what is missing is waited for (resources.may_grow)" if config.resources.may_grow else ""
        grows += f"; it can grow by {describe_nodes(to_come)}" if to_come else ""
        pipeline.progress.say(f"[cluster] {describe_nodes(nodes)}; {who}{grows}")
