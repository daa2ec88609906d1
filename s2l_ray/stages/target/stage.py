"""Targets: tokens of a subset → fine-tuned model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from s2l_ray.artifacts.index import earlier_targets
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
from s2l_ray.evaluation.metrics import Metric, get_metric, list_metrics
from s2l_ray.lm.identity import model_identity, pinned
from s2l_ray.observability.progress import format_count
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.heldout_scores import HeldOutScores, heldout_sets
from s2l_ray.stages.reference import early_steps
from s2l_ray.stages.tokenizer import open_tokenizer, tokenizer_fingerprint
from s2l_ray.stages.training import check_before_training, training_settings
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

if TYPE_CHECKING:
    from s2l_ray.stages.target.job import TargetJob  # imports torch

FULL = "full"

_KEY_EXCLUDES = (
    "evaluate_every_steps",  # unless the training depends on it
    "subsets", "length", "epochs", "max_steps", "max_tokens",  # only the resulting number of steps counts
    "zero_stage", "offload_optimizer", "offload_parameters", "nvme_path", "deepspeed_config",
    "gradient_checkpointing", "attention", "checkpoints_to_keep", "max_shard_size",
)  # fmt: skip
"""Settings that do not change the results, or enter the key in another form."""


def target_spec(
    context: RunContext,
    name: str,
    subset: Stage | None,
    tokens: Stage,
    corpus_tokens: Stage,
    heldout: Stage | None,
    scores: HeldOutScores | None,
) -> StageSpec:
    """Specify the stage that fine-tunes the target on the subset called `name`, or on everything (`full`).

    A held-out set is an input only if the training monitors it (`keep_best`, `patience`). A curve or a sweep's
    scheduler only observes: it changes no weight of a training that runs to its end.

    Args:
        tokens: tokens of the subset.
        corpus_tokens: tokens of the whole corpus, whose number of sequences `target.length: same_steps` needs.
        scores: held-out scores that the workers may compute along with the training.
    """
    from s2l_ray.data.training_order import make_plan

    config, target = context.config, context.config.target
    assert target is not None
    seed = config.seed_of("target")
    steps = total_steps(target, tokens, corpus_tokens)
    plan = make_plan(part_rows(tokens), target.global_batch_size, target.epochs, steps, seed)

    chosen = None if subset is None else SubsetArtifact.of(subset)

    def build(out: Storage) -> StageResult:
        return _build(context, name, subset, tokens, heldout, scores, plan, seed, out)

    settings = training_settings(target, context.layout.precision_of(target), seed)
    settings = {k: v for k, v in settings.items() if k not in _KEY_EXCLUDES} | {"total_steps": plan.total_steps}
    deciding = deciding_set(target, heldout)
    places, inputs = model_identity(target)
    settings |= places
    inputs["tokens"] = tokens.content
    if deciding is not None and heldout is not None:
        settings["evaluate_every_steps"] = target.evaluate_every_steps
        inputs["heldout"] = HeldOutArtifact.of(heldout).content_of(deciding) or heldout.content
    if subset is not None and chosen is not None and (chosen.weighted or chosen.stages is not None):
        inputs["subset"] = subset.content  # whose content includes weights and stages
        if chosen.stages is not None:
            settings["replay"] = replay_of(chosen.options)
    return StageSpec(f"target/{name}", settings, inputs, build, folder=f"target/{name}", kind="target")


@dataclass(frozen=True)
class _Marks:
    """Weights and stages that a subset assigns to its examples."""

    plan: TrainPlan | CurriculumPlan
    subset: Storage | None = None
    weighted: bool = False
    staged: bool = False
    said: str = ""
    """Description for the user."""


def _marks(subset: Stage | None, tokens: Stage, plan: TrainPlan) -> _Marks:
    """Read the weights and stages of a subset. Memory: 17 bytes per selected example if there are stages."""
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
    """Steps whose weights are kept: only for the target on everything, if selectors score with an early snapshot of
    it."""
    return tuple(early_steps(config, total_steps)) if name == FULL else ()


def deciding_set(target: TargetConfig, heldout: Stage | None) -> str | None:
    """The held-out set that the training monitors, which is the first; None if it monitors none."""
    if heldout is None or not (target.keep_best or target.patience):
        return None
    return HeldOutArtifact.of(heldout).names[0]


def total_steps(target: TargetConfig, tokens: Stage, corpus_tokens: Stage) -> int:
    """Number of optimiser steps, from the configured steps, tokens, passes over the subset or passes over the full
    data."""
    batch, sequences = target.global_batch_size, tokens.manifest.row_counts["sequences"]
    if target.max_steps is not None:
        return target.max_steps
    if target.max_tokens is not None:
        # Computed from passes, because the last batch of an epoch, or the only one of a small subset, is smaller.
        return max(1, round(target.max_tokens / TokensArtifact.of(tokens).num_tokens * -(-sequences // batch)))
    over = corpus_tokens.manifest.row_counts["sequences"] if target.length == "same_steps" else sequences
    return max(1, round(target.epochs * -(-over // batch)))


def _build(
    context: RunContext,
    name: str,
    subset: Stage | None,
    tokens: Stage,
    heldout: Stage | None,
    scores: HeldOutScores | None,
    plan: Any,
    seed: int,
    out: Storage,
) -> StageResult:
    from s2l_ray.execution.checkpoints import FOLDER, drop_unusable_checkpoints
    from s2l_ray.execution.train import run_training
    from s2l_ray.observability.loggers import Loggers
    from s2l_ray.stages.target.loop import fine_tune
    from s2l_ray.stages.target.report import TargetReport

    config, say = context.config, context.progress.say
    assert config.target is not None
    tokenizer = open_tokenizer(tokens)
    notes = check_before_training(config.target, tokenizer, tokens, heldout)
    for warning in earlier_targets(context.run.storage, name):
        say(f"[target/{name}] {warning}")
    drop_unusable_checkpoints(out, say)
    if not out.exists(FOLDER):  # no checkpoint, so it starts over, and results of an earlier attempt do not count
        for folder in ("evaluations", "model", "snapshots"):
            out.delete_dir(folder)

    target, placement = config.target, context.layout.placements["target"]
    label = f"target/{name}"
    marks = _marks(subset, tokens, plan)
    context.layout.wait_for_capacity("target", say)
    sharding = context.layout.sharding_of(config)
    job = _job(context, name, subset, tokens, tokenizer, heldout, marks, seed, out)
    if scores is not None:
        job = replace(job, scoring=scores.beside_training(out))
    if marks.said:
        say(f"[{label}] {marks.said}")
    say(
        f"[{label}] {plan.total_steps:,} steps of {target.global_batch_size} examples "
        f"({plan.total_steps / plan.steps_per_epoch:.3g} passes), {sharding.describe()}, on {placement.describe()}"
    )
    run = context.run
    logged = f"target/{out.path.rsplit('/', 1)[-1]}"  # with its key, so that other settings get another curve
    with (
        Loggers(config.loggers, run.storage, config.name, logged, target.stored()) as loggers,
        TargetReport(label, context.progress, context.metrics, loggers, plan.total_steps) as report,
    ):
        summary = run_training(
            fine_tune, job, out, placement, what=f"target ({name})", max_failures=config.resources.max_failures,
            wait_s=config.resources.capacity_wait_s, checkpoints_to_keep=target.checkpoints_to_keep,
            environment=sharding.environment(placement.device), watcher=context.watcher,
            process_group=sharding.stage > 0, on_event=report.on_event,
        )  # fmt: skip
    written, made = summary.pop("written"), summary.pop("scores")
    out.note_written(written)
    if scores is not None:
        scores.accept(made, summary)
    artifact = TargetArtifact(subset=name, summary=summary, memory=sharding.estimate.plain())
    line = f"{format_count(summary['num_parameters'])} parameters, {summary['steps']:,} steps → {out.uri_of('model')}"
    warnings = [*sharding.warnings, *notes]
    if heldout is None:
        warnings.append("nothing is held out, so this target is not evaluated; set heldout.share or heldout.files")
    # Without the card, which says where the corpus was, and files that contain the version of transformers.
    weights = sorted([f["name"], f["digest"]] for f in written if f["name"].endswith(".safetensors"))
    content = fingerprint([weights, tokenizer_fingerprint(tokens)])
    return StageResult(
        content, {"examples": plan.num_examples}, artifact, warnings, {"target": seed}, summary["device"],
        placement.num_workers, max(summary["peak_memory_bytes"]), line,
    )  # fmt: skip


def _job(
    context: RunContext,
    name: str,
    subset: Stage | None,
    tokens: Stage,
    tokenizer: Any,
    heldout: Stage | None,
    marks: _Marks,
    seed: int,
    out: Storage,
) -> TargetJob:
    from s2l_ray.stages.target.card import model_card
    from s2l_ray.stages.target.job import TargetJob

    config, placement = context.config, context.layout.placements["target"]
    target, sharding = config.target, context.layout.sharding_of(config)
    assert target is not None
    precision = context.layout.precision_of(target)
    facts = {"optimiser steps": f"{marks.plan.total_steps:,} of {target.global_batch_size} examples", "seed": seed,
             "peak learning rate": target.learning_rate, "precision": precision}  # fmt: skip
    is_watched = heldout is not None and target.evaluate_every_steps is not None
    return TargetJob(
        name=name, target=pinned(target), plan=marks.plan, seed=seed, tokenizer=tokenizer,
        tokens=tokens.storage.sub("parts"), watched=heldout_sets(config, heldout) if heldout and is_watched else None,
        deciding_set=deciding_set(target, heldout), objective=_objective(context, heldout), scoring={}, out=out,
        num_parameters=sharding.num_parameters, zero_stage=sharding.stage, zero_config=sharding.config,
        precision=precision, card=model_card(context.run, name, target, subset, facts), threads=placement.threads,
        kept=_kept(config, name, marks.plan.total_steps), subset=marks.subset, weighted=marks.weighted,
        staged=marks.staged, metrics=tuple(list_metrics()),
    )  # fmt: skip


def _objective(context: RunContext, heldout: Stage | None) -> tuple[str, Metric] | None:
    """Held-out set and metric to report to a sweep's scheduler; None if there is none."""
    sweep = context.config.sweep
    if heldout is None or sweep.asha is None or context.watcher is None:
        return None
    return sweep.heldout_set or HeldOutArtifact.of(heldout).names[0], get_metric(sweep.metric)
