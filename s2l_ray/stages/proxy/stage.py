"""Proxy: tokens → the trained proxy and losses at T snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from s2l_ray.artifacts.models import ProxyArtifact, TokensArtifact
from s2l_ray.artifacts.points import PlanError, Point, middle_point
from s2l_ray.artifacts.run import part_rows
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import InternalError
from s2l_ray.lm.identity import model_identity, pinned
from s2l_ray.observability.progress import format_count
from s2l_ray.selection.signals import PASSES, snapshot_index
from s2l_ray.stages.competence import watches_competence
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.reference import asked_selections
from s2l_ray.stages.tokenizer import open_tokenizer
from s2l_ray.stages.training import check_before_training, training_settings
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage

if TYPE_CHECKING:
    from s2l_ray.data.training_order import TrainPlan
    from s2l_ray.stages.proxy.job import ProxyJob  # imports torch


def proxy_spec(context: RunContext, tokens: Stage) -> StageSpec:
    """Specify the stage: tokens → losses at T snapshots and the trained proxy."""
    from s2l_ray.artifacts.points import plan_points
    from s2l_ray.data.training_order import make_plan

    config = context.config
    proxy, seed = config.proxy, config.seed_of("proxy")
    plan = make_plan(part_rows(tokens), proxy.global_batch_size, proxy.epochs, proxy.max_steps, seed)
    points = tuple(plan_points(config.trajectories, plan.total_steps, plan.steps_per_epoch))
    _check_used(config, len(points))
    _check_passes(config, points)

    def build(out: Storage) -> StageResult:
        return _build(context, tokens, plan, points, seed, out)

    settings = training_settings(proxy, context.layout.precision_of(proxy), seed)
    settings["trajectories"] = config.trajectories.settings
    places, inputs = model_identity(proxy)
    settings |= places
    inputs["tokens"] = tokens.content
    return StageSpec("proxy", settings, inputs, build)


def _check_used(config: S2LConfig, recorded: int) -> None:
    """Refuse `clusters.num_snapshots` if there are fewer losses, whose number may depend on the epochs and thus the
    corpus."""
    used = config.clusters.num_snapshots
    if used is not None and used > recorded:
        raise PlanError(
            f"clusters.num_snapshots={used} asks for more than the {recorded} losses of each example that are recorded "
            f"(trajectories.source={config.trajectories.source}); lower it, or train longer"
        )


def _check_passes(config: S2LConfig, points: Sequence[Point]) -> None:
    """Refuse extra passes at points without weights: losses computed in the course of an epoch belong to no
    snapshot."""
    for need, index in _passes(config, points):
        epoch = None if index is None else points[index].epoch
        if epoch is not None:
            source, snapshot = config.trajectories.source, need.partition("@")[2]
            cure = "use selection.reference.snapshot=late, or" if source == "hybrid" else "use"
            raise PlanError(
                f"{need} needs the proxy's weights at the {snapshot} of the {len(points)} recorded losses, but with "
                f"trajectories.source={source} that one was computed by training in epoch {epoch + 1}, which keeps "
                f"no weights; {cure} trajectories.source=snapshots"
            )


def _passes(config: S2LConfig, points: Sequence[Point]) -> Iterator[tuple[str, int | None]]:
    """Yield (need that takes an extra pass, its point; None: not recorded) for all configured selectors."""
    steps = [point.step for point in points]
    for name, asked in asked_selections(config):
        if asked.reference.model != "proxy":
            continue
        for need in sorted(asked.needs_of(name)):
            column, _, snapshot = need.partition("@")
            if column in PASSES:
                yield need, snapshot_index(snapshot, len(steps), steps, asked.reference.early_share)


def _build(
    context: RunContext, tokens: Stage, plan: TrainPlan, points: tuple[Point, ...], seed: int, out: Storage
) -> StageResult:
    from s2l_ray.artifacts.snapshots import lost_part, read_snapshot
    from s2l_ray.execution.checkpoints import FOLDER, drop_unusable_checkpoints
    from s2l_ray.stages.proxy.job import ProxyJob

    config, say = context.config, context.progress.say
    tokenizer = open_tokenizer(tokens)
    warnings = check_before_training(config.proxy, tokenizer, tokens)
    drop_unusable_checkpoints(out, say)
    lost = lost_part(out, len(points), [part for part, _ in plan.parts])
    if lost and out.exists(FOLDER):
        # The checkpoints may be later than that snapshot, in which case it would never be scored again.
        say(f"[proxy] {lost} is missing or damaged; training starts over, to score it again.")
        out.delete_dir(FOLDER)
    placement = context.layout.placements["proxy"]
    proxy = pinned(config.proxy).model_copy(update={"precision": context.layout.precision_of(config.proxy)})
    job = ProxyJob(
        proxy, config.trajectories, plan, points, seed, tokenizer,
        tokens.storage.sub("parts"), out, placement.threads, _kept(config, points),
    )  # fmt: skip
    say(
        f"[proxy] {plan.total_steps:,} steps of {config.proxy.global_batch_size} examples, "
        f"{_said(points)}, on {placement.describe()}"
    )
    context.layout.wait_for_capacity("proxy", say)
    summary = _train(context, job, out)
    taken = [read_snapshot(out, i) for i in range(len(points))]
    complete = [s for s in taken if s is not None]
    for written in (summary.pop("written"), *(s.files for s in complete)):
        out.note_written(written)
    if len(complete) != len(points):
        raise InternalError(f"{len(points)} snapshots were requested, but {len(complete)} are complete in {out.uri}")
    flops = _flops(summary, tokens, plan, len(job.index_of_step))
    first, last = complete[0].mean_loss_nats, complete[-1].mean_loss_nats
    line = (
        f"{format_count(summary['num_parameters'])} parameters, {plan.total_steps:,} steps; mean loss "
        f"{first:.3f} → {last:.3f} nats/token over {_said(points)}"
    )
    artifact = ProxyArtifact(snapshots=[s.plain() for s in complete], flops=flops, summary=summary)
    weights = [[summary["weights"]]] if job.index_of_epoch else []
    content = fingerprint([[s.step, s.weights, s.num_examples, s.mean_loss_nats] for s in complete] + weights)
    return StageResult(
        content, {"scores": sum(s.num_examples for s in complete)}, artifact, warnings, {"proxy": seed},
        summary["device"], placement.num_workers, summary["peak_memory_bytes"], line,
    )  # fmt: skip


def _train(context: RunContext, job: ProxyJob, out: Storage) -> dict[str, Any]:
    """Train on the workers → rank 0's summary. If losses computed by training are gone, training starts over, once."""
    from s2l_ray.execution.checkpoints import FOLDER
    from s2l_ray.execution.train import run_training
    from s2l_ray.stages.proxy.loop import run_worker
    from s2l_ray.stages.proxy.record import RecordedLossesGone
    from s2l_ray.stages.proxy.report import ProxyReport

    resources = context.config.resources

    def once() -> dict[str, Any]:
        with ProxyReport(context.progress, context.metrics, job.plan, job.points) as report:
            return run_training(
                run_worker, job, out, context.layout.placements["proxy"], what="proxy",
                max_failures=resources.max_failures, wait_s=resources.capacity_wait_s, on_event=report.on_event,
            )  # fmt: skip

    try:
        return once()
    except RecordedLossesGone as error:
        context.progress.say(f"[proxy] {error}; training starts over.")
        out.delete_dir(FOLDER)
        return once()


def _said(points: Sequence[Point]) -> str:
    """The points in words: `12 snapshots`, or `the losses of 3 epochs and 2 snapshots`."""
    epochs = sum(point.epoch is not None for point in points)
    scored = len(points) - epochs
    parts = [f"the losses of {epochs} epoch{'s' * (epochs > 1)}"] if epochs else []
    return " and ".join([*parts, f"{scored} snapshot{'s' * (scored > 1)}"] if scored else parts)


def _kept(config: S2LConfig, points: Sequence[Point]) -> tuple[int, ...]:
    """Scored points whose weights a selector, the gradient check or the check of guards will need. The last weights are
    kept anyway, and the initial ones can be rebuilt."""
    kept = {index for _, index in _passes(config, points) if index is not None}
    middle = middle_point(points) if config.gradients is not None or watches_competence(config) else None
    kept |= set() if middle is None else {middle}
    last = len(points) - 1
    return tuple(sorted(i for i in kept if i != last and points[i].step and points[i].epoch is None))


def _flops(summary: dict[str, Any], tokens: Stage, plan: Any, num_snapshots: int) -> dict[str, float]:
    """FLOPs of the whole stage, without repeated work after restarts."""
    from s2l_ray.lm.flops import ModelShape

    counts = TokensArtifact.of(tokens)
    one_pass = (counts.num_tokens, counts.num_response_tokens, counts.sum_squared_lengths)
    shape, epochs = ModelShape(**summary["shape"]), plan.total_steps / plan.steps_per_epoch
    return {
        "training": shape.training_flops(*one_pass) * epochs,
        "scoring": float(shape.forward_flops(*one_pass) * num_snapshots),
    }
