"""Targets: tokens of a subset → fine-tuned model and its evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.artifacts.models import HeldOutArtifact, SubsetArtifact, TargetArtifact, TokensArtifact, replay_of
from s2l_ray.artifacts.run import part_rows
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.curriculum import CurriculumPlan
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.data.subset_marks import SubsetMarks
from s2l_ray.data.training_order import TrainPlan
from s2l_ray.evaluation.metrics import list_metrics
from s2l_ray.lm.identity import model_identity, pinned
from s2l_ray.observability.progress import format_count
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.reference import early_is_read, early_step
from s2l_ray.stages.tokenizer import open_tokenizer, tokenizer_fingerprint
from s2l_ray.stages.training import check_before_training, training_settings
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

FULL = "full"

_KEY_EXCLUDES = (
    "subsets", "length", "epochs", "max_steps", "max_tokens",  # the steps that they come to count
    "zero_stage", "offload_optimizer", "offload_parameters", "nvme_path", "deepspeed_config",
    "gradient_checkpointing", "attention", "checkpoints_to_keep", "max_shard_size",
)  # fmt: skip
"""How the same numbers are computed."""


def target_spec(
    context: RunContext, name: str, subset: Stage | None, tokens: Stage, corpus_tokens: Stage, heldout: Stage | None
) -> StageSpec:
    """Fine-tune the target on the subset called `name`, or on everything (`full`).

    Args:
        tokens: the subset's.
        corpus_tokens: the whole corpus's, whose number of sequences `target.length: same_steps` counts.
    """
    from s2l_ray.data.training_order import make_plan

    config, target = context.config, context.config.target
    assert target is not None
    seed = config.seed_of("target")
    steps = total_steps(target, tokens, corpus_tokens)
    plan = make_plan(part_rows(tokens), target.global_batch_size, target.epochs, steps, seed)

    chosen = None if subset is None else SubsetArtifact.of(subset)

    def build(out: Storage) -> StageResult:
        return _build(context, name, subset, tokens, heldout, plan, seed, out)

    settings = training_settings(target, context.layout.precision_of(target), seed)
    settings = {k: v for k, v in settings.items() if k not in _KEY_EXCLUDES} | {"total_steps": plan.total_steps}
    places, inputs = model_identity(target)
    settings |= places
    inputs["tokens"] = tokens.content
    if heldout is not None:
        inputs["heldout"] = heldout.content
    if subset is not None and chosen is not None and (chosen.weighted or chosen.stages is not None):
        inputs["subset"] = subset.content  # which weights and stages are part of
        if chosen.stages is not None:
            settings["replay"] = replay_of(chosen.options)
    return StageSpec(f"target/{name}", settings, inputs, build, folder=f"target/{name}", kind="target")


@dataclass(frozen=True)
class _Marks:
    """What a subset says of its examples beside their choice."""

    plan: TrainPlan | CurriculumPlan
    subset: Storage | None = None
    weighted: bool = False
    staged: bool = False
    said: str = ""
    """For people."""


def _marks(subset: Stage | None, tokens: Stage, plan: TrainPlan) -> _Marks:
    """Memory: 17 bytes a chosen example where there are stages."""
    chosen = None if subset is None else SubsetArtifact.of(subset)
    if subset is None or chosen is None or not (chosen.weighted or chosen.stages is not None):
        return _Marks(plan)
    said = ["examples weigh as many as they stand for"] if chosen.weighted else []
    if chosen.stages is None:
        return _Marks(plan, subset.storage, True, False, said[0])
    found = SubsetMarks.read(subset.storage, False, True)
    assert found.stages is not None
    counts = []
    names = [part_name(part) for part, _ in plan.parts]
    for table in tokens.storage.sub("parts").read_tables(names, ["example_id"]):
        stages = found.stages[found.rows_of(ids_to_array(table["example_id"]))]
        counts.append(tuple(np.bincount(stages, minlength=chosen.stages).tolist()))
    replay = replay_of(chosen.options) == "cumulative"
    staged = CurriculumPlan(plan, tuple(counts), replay)
    said.append(f"{len(staged.phases())} stages, each {'with those before it' if replay else 'alone'}")
    return _Marks(staged, subset.storage, chosen.weighted, True, "; ".join(said))


def _kept(config: S2LConfig, name: str, total_steps: int) -> tuple[int, ...]:
    """Of the target on everything, where selectors score by an early snapshot of it."""
    if name != FULL or config.selection.reference.model != "target" or not early_is_read(config):
        return ()
    step = early_step(config.selection.reference.early_share, total_steps)
    return (step,) if 0 < step < total_steps else ()


def total_steps(target: TargetConfig, tokens: Stage, corpus_tokens: Stage) -> int:
    """How long: so many steps, tokens, passes over the subset, or passes over the full data."""
    batch, sequences = target.global_batch_size, tokens.manifest.row_counts["sequences"]
    if target.max_steps is not None:
        return target.max_steps
    if target.max_tokens is not None:
        # By passes: an epoch's last batch is smaller, and a small subset's only one.
        return max(1, round(target.max_tokens / TokensArtifact.of(tokens).num_tokens * -(-sequences // batch)))
    over = corpus_tokens.manifest.row_counts["sequences"] if target.length == "same_steps" else sequences
    return max(1, round(target.epochs * -(-over // batch)))


def _build(
    context: RunContext,
    name: str,
    subset: Stage | None,
    tokens: Stage,
    heldout: Stage | None,
    plan: Any,
    seed: int,
    out: Storage,
) -> StageResult:
    from s2l_ray.execution.checkpoints import FOLDER, drop_unusable_checkpoints
    from s2l_ray.execution.train import run_training
    from s2l_ray.observability.loggers import Loggers
    from s2l_ray.stages.target.card import model_card
    from s2l_ray.stages.target.evaluate import read_evaluation
    from s2l_ray.stages.target.job import TargetJob
    from s2l_ray.stages.target.loop import fine_tune
    from s2l_ray.stages.target.report import TargetReport

    config, say = context.config, context.progress.say
    assert config.target is not None
    tokenizer = open_tokenizer(tokens)
    notes = check_before_training(config.target, tokenizer, tokens, heldout)
    drop_unusable_checkpoints(out, say)
    if not out.exists(FOLDER):  # from the start, and not from a checkpoint: nothing of an earlier one counts
        for folder in ("evaluations", "model", "snapshots"):
            out.delete_dir(folder)

    target, placement = config.target, context.layout.placements["target"]
    label = f"target/{name}"
    marks = _marks(subset, tokens, plan)
    precision = context.layout.precision_of(target)
    context.layout.wait_for_capacity("target", say)
    sharding = context.layout.sharding_of(config)
    facts = {"optimiser steps": f"{plan.total_steps:,} of {target.global_batch_size} examples", "seed": seed,
             "peak learning rate": target.learning_rate, "precision": precision}  # fmt: skip
    job = TargetJob(
        name=name, target=pinned(target), plan=marks.plan, seed=seed, tokenizer=tokenizer,
        tokens=tokens.storage.sub("parts"), heldout=None if heldout is None else heldout.storage,
        heldout_names=() if heldout is None else tuple(HeldOutArtifact.of(heldout).names),
        heldout_tokens_per_batch=config.heldout.tokens_per_batch, out=out,
        num_parameters=sharding.num_parameters, zero_stage=sharding.stage, zero_config=sharding.config,
        precision=precision, objective_set=config.sweep.heldout_set, objective_metric=config.sweep.metric,
        card=model_card(context.run, name, target, subset, facts), threads=placement.threads,
        kept=_kept(config, name, plan.total_steps), subset=marks.subset, weighted=marks.weighted,
        staged=marks.staged, metrics=tuple(list_metrics()),
    )  # fmt: skip
    if marks.said:
        say(f"[{label}] {marks.said}")
    say(
        f"[{label}] {plan.total_steps:,} steps of {target.global_batch_size} examples "
        f"({plan.total_steps / plan.steps_per_epoch:.3g} passes), {sharding.describe()}, on {placement.describe()}"
    )
    run = context.run
    logged = f"target/{out.path.rsplit('/', 1)[-1]}"  # with its key: other settings are another curve
    with Loggers(config.loggers, run.storage, config.name, logged, target.stored()) as loggers:
        with TargetReport(label, context.progress, context.metrics, loggers, plan.total_steps) as report:
            summary = run_training(
                fine_tune, job, out, placement, what=f"target ({name})", max_failures=config.resources.max_failures,
                wait_s=config.resources.capacity_wait_s, checkpoints_to_keep=target.checkpoints_to_keep,
                environment=sharding.environment(placement.device), watcher=context.watcher,
                process_group=sharding.stage > 0, on_event=report.on_event,
            )  # fmt: skip
        before = read_evaluation(out, 0) or {}
        after = read_evaluation(out, summary["exported_step"]) or {}
        loggers.summary(**{f"final/{n}/{k}": r.plain()[k] for n, r in after.items() for k in ("micro", "macro")})
    written = summary.pop("written")
    out.note_written(written)
    evaluation = {
        n: {"before": before[n].plain() if n in before else None, "after": r.plain()} for n, r in after.items()
    }
    artifact = TargetArtifact(subset=name, summary=summary, evaluation=evaluation, memory=sharding.estimate.plain())
    line = f"{format_count(summary['num_parameters'])} parameters, {summary['steps']:,} steps"
    for n, r in after.items():
        was = f"{before[n]['micro']:.3f} → " if n in before else ""
        line += f"; {n}: loss {was}{r['micro']:.3f}, exact {r['exact_match']:.1%}"
    line += f" → {out.uri}/model"
    warnings = [*sharding.warnings, *notes]
    if not after:
        warnings.append("nothing is held out, so this target was not evaluated; set heldout.share or .files")
    # Neither the card, which says where the corpus lay, nor files into which transformers writes its version.
    weights = sorted([f["name"], f["digest"]] for f in written if f["name"].endswith(".safetensors"))
    content = fingerprint([weights, tokenizer_fingerprint(tokens), evaluation])
    return StageResult(
        content, {"examples": plan.num_examples}, artifact, warnings, {"target": seed}, summary["device"],
        placement.num_workers, max(summary["peak_memory_bytes"]), line,
    )  # fmt: skip
