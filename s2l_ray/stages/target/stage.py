"""Targets: tokens of a subset → fine-tuned model and its evaluations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s2l_ray.artifacts.run import Run, part_rows
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.execution.node_memory import NodeMemory, node_memories, smallest_shares
from s2l_ray.execution.placement import Placement, PlacementError
from s2l_ray.execution.session import is_embedded
from s2l_ray.lm.identity import model_identity, pinned
from s2l_ray.observability.progress import format_count
from s2l_ray.stages.capacity import make_room
from s2l_ray.stages.heldout.stage import heldout_stage, tokenizer_fingerprint
from s2l_ray.stages.proxy.stage import precision_of, training_settings
from s2l_ray.stages.tokens.stage import open_tokenizer, tokens_stage
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.workflow.pipeline import Built, Pipeline

if TYPE_CHECKING:
    from s2l_ray.lm.sharding import Sharding

FULL = "full"

_NOT_NUMBERS = (
    "subsets", "length", "epochs", "max_steps", "max_tokens",  # the steps that they come to count
    "zero_stage", "offload_optimizer", "offload_parameters", "nvme_path", "deepspeed_config",
    "gradient_checkpointing", "attention", "checkpoints_to_keep", "max_shard_size",
)  # fmt: skip
"""How the same numbers are computed."""


def target_stages(pipeline: Pipeline, config: S2LConfig) -> list[Stage]:
    """One target for each of `target.subsets`."""
    return [target_stage(pipeline, config, name) for name in config.target_subsets()]


def target_stage(pipeline: Pipeline, config: S2LConfig, name: str) -> Stage:
    """Fine-tune the target on the subset called `name`, or on everything (`full`)."""
    from s2l_ray.data.training_order import make_plan

    assert config.target is not None
    target, run = config.target, pipeline.run
    corpus = run.stage("corpus")
    subset = None if name == FULL else run.subset(name)
    tokens = tokens_stage(pipeline, config, corpus, target, f"target-tokens/{name}", subset)
    heldout = heldout_stage(pipeline, config, corpus, tokens)
    seed = config.seed_of("target")
    steps = total_steps(target, run, tokens)
    plan = make_plan(part_rows(tokens), target.global_batch_size, target.epochs, steps, seed)

    def build(out: Storage) -> Built:
        return _build(pipeline, config, name, subset, tokens, heldout, plan, seed, out)

    settings = training_settings(target, pipeline.placements["target"].device, seed)
    settings = {k: v for k, v in settings.items() if k not in _NOT_NUMBERS} | {"total_steps": plan.total_steps}
    places, inputs = model_identity(target)
    settings |= places
    inputs["tokens"] = tokens.manifest.content_fingerprint
    if heldout is not None:
        inputs["heldout"] = heldout.manifest.content_fingerprint
    return pipeline.stage(f"target/{name}", settings, inputs, build, folder=f"target/{name}", kind="target")


def shard_target(config: S2LConfig, placement: Placement, embedded: bool) -> Sharding | None:
    """The ZeRO stage, by what the workers' memory can hold; refused before anything starts when none fits.

    None: nobody knows that memory before the workers' nodes are up.
    """
    from s2l_ray.lm.memory import ModelSizes, meta_model
    from s2l_ray.lm.sharding import WorkerMemory, choose_sharding

    target, given = config.target, config.estimates.worker_memory_gb
    assert target is not None
    kinds = node_memories(placement, embedded) if given is None else [NodeMemory(given * 1e9, None, 1)]
    if not kinds:
        return None
    on_gpu, precision = placement.device == "gpu", precision_of(target, placement.device)
    sizes = ModelSizes.of(meta_model(target))

    def choose(workers: int, target: TargetConfig) -> Sharding:
        device, host = smallest_shares(kinds, workers)
        memory = WorkerMemory(device, host if on_gpu else None)
        return choose_sharding(sizes, target, workers, precision, on_gpu, memory)

    # The fewest hold the largest shards each; as many as a node takes have the smallest share of its memory.
    crowd = min(placement.num_workers, max(kind.most_workers for kind in kinds))
    fleets = sorted({placement.fewest_workers, max(placement.fewest_workers, crowd)})
    chosen = {workers: choose(workers, target) for workers in fleets}
    strictest = max(chosen.values(), key=lambda sharding: sharding.stage)
    for workers, sharding in chosen.items():
        if sharding.stage != strictest.stage:
            choose(workers, target.model_copy(update={"zero_stage": strictest.stage}))  # refused if it does not fit
    return strictest


def _shard_when_up(pipeline: Pipeline, config: S2LConfig) -> Sharding:
    """The same where it was not known at the start: the nodes are up now."""
    if pipeline.sharding is None:
        pipeline.sharding = shard_target(config, pipeline.placements["target"], is_embedded(config.resources))
    if pipeline.sharding is None:
        raise PlacementError(
            "the memory of the target's workers cannot be found out: their nodes have left again, or do not answer. "
            "Set estimates.worker_memory_gb, or run the same command again"
        )
    return pipeline.sharding


def total_steps(target: TargetConfig, run: Run, tokens: Stage) -> int:
    """How long: so many steps, tokens, passes over the subset, or passes over the full data."""
    counts = tokens.manifest
    batch, sequences = target.global_batch_size, counts.row_counts["sequences"]
    if target.max_steps is not None:
        return target.max_steps
    if target.max_tokens is not None:
        # By passes: an epoch's last batch is smaller, and a small subset's only one.
        return max(1, round(target.max_tokens / counts.extra["num_tokens"] * -(-sequences // batch)))
    over = run.stage("tokens").manifest.row_counts["sequences"] if target.length == "same_steps" else sequences
    return max(1, round(target.epochs * -(-over // batch)))


def _build(
    pipeline: Pipeline,
    config: S2LConfig,
    name: str,
    subset: Stage | None,
    tokens: Stage,
    heldout: Stage | None,
    plan: Any,
    seed: int,
    out: Storage,
) -> Built:
    from s2l_ray.execution.checkpoints import FOLDER, drop_unusable_checkpoints
    from s2l_ray.execution.training import run_on_workers
    from s2l_ray.observability.loggers import Loggers
    from s2l_ray.stages.target.card import model_card
    from s2l_ray.stages.target.evaluate import read_evaluation
    from s2l_ray.stages.target.job import TargetJob
    from s2l_ray.stages.target.loop import fine_tune
    from s2l_ray.stages.target.report import TargetReport

    drop_unusable_checkpoints(out, pipeline.progress.say)
    if not out.exists(FOLDER):  # from the start, and not from a checkpoint: nothing of an earlier one counts
        for folder in ("evaluations", "model"):
            out.delete_dir(folder)

    target, placement = config.target, pipeline.placements["target"]
    assert target is not None
    label = f"target/{name}"
    precision = precision_of(target, placement.device)
    make_room(pipeline, "target")
    sharding = _shard_when_up(pipeline, config)
    facts = {"optimiser steps": f"{plan.total_steps:,} of {target.global_batch_size} examples", "seed": seed,
             "peak learning rate": target.learning_rate, "precision": precision}  # fmt: skip
    job = TargetJob(
        name=name, target=pinned(target), plan=plan, seed=seed, tokenizer=open_tokenizer(tokens),
        tokens=tokens.storage.sub("parts"), heldout=None if heldout is None else heldout.storage,
        heldout_names=() if heldout is None else tuple(heldout.manifest.extra["names"]),
        heldout_tokens_per_batch=config.heldout.tokens_per_batch, out=out,
        num_parameters=sharding.num_parameters, zero_stage=sharding.stage, zero_config=sharding.config,
        precision=precision, deciding_set=config.sweep.heldout_set, deciding_metric=config.sweep.metric,
        card=model_card(pipeline.run, name, target, subset, facts), threads=placement.threads,
    )  # fmt: skip
    pipeline.progress.say(
        f"[{label}] {plan.total_steps:,} steps of {target.global_batch_size} examples "
        f"({plan.total_steps / plan.steps_per_epoch:.3g} passes), {sharding.describe()}, on {placement.describe()}"
    )
    run = pipeline.run
    logged = f"target/{out.path.rsplit('/', 1)[-1]}"  # with its key: other settings are another curve
    with Loggers(config.loggers, run.storage, config.name, logged, target.stored()) as loggers:
        with TargetReport(label, pipeline.progress, pipeline.metrics, loggers, plan.total_steps) as report:
            summary = run_on_workers(
                fine_tune, job, out, placement, what=f"target ({name})", max_failures=config.resources.max_failures,
                wait_s=config.resources.capacity_wait_s, checkpoints_to_keep=target.checkpoints_to_keep,
                environment=sharding.environment(placement.device), callbacks=pipeline.train_callbacks,
                on_event=report.on_event,
            )  # fmt: skip
        before = read_evaluation(out, 0) or {}
        after = read_evaluation(out, summary["exported_step"]) or {}
        loggers.summary(**{f"final/{n}/{k}": r.plain()[k] for n, r in after.items() for k in ("micro", "macro")})
    written = summary.pop("written")
    out.note_written(written)
    evaluation = {
        n: {"before": before[n].plain() if n in before else None, "after": r.plain()} for n, r in after.items()
    }
    extra = {"subset": name, "summary": summary, "evaluation": evaluation, "memory": sharding.estimate.plain()}
    said = f"{format_count(summary['num_parameters'])} parameters, {summary['steps']:,} steps"
    for n, r in after.items():
        was = f"{before[n].micro:.3f} → " if n in before else ""
        said += f"; {n}: loss {was}{r.micro:.3f}, exact {r.exact_match:.1%}"
    said += f" → {out.uri}/model"
    warnings = list(sharding.warnings)
    if not after:
        warnings.append("nothing is held out, so this target was not evaluated; set heldout.share or .files")
    # Neither the card, which says where the corpus lay, nor files into which transformers writes its version.
    weights = sorted([f["name"], f["digest"]] for f in written if f["name"].endswith(".safetensors"))
    content = fingerprint([weights, tokenizer_fingerprint(tokens), evaluation])
    return Built(
        content, {"examples": plan.num_examples}, extra, warnings, {"target": seed}, summary["device"],
        placement.num_workers, max(summary["peak_memory_bytes"]), said,
    )  # fmt: skip
