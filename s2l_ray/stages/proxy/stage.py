"""Proxy: tokens → the trained proxy and losses at T snapshots."""

from __future__ import annotations

from typing import Any

from s2l_ray.artifacts.models import ProxyArtifact, TokensArtifact
from s2l_ray.artifacts.run import part_rows
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.errors import InternalError
from s2l_ray.lm.identity import model_identity, pinned
from s2l_ray.observability.progress import format_count
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.tokenizer import open_tokenizer
from s2l_ray.stages.training import training_settings
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage


def proxy_spec(context: RunContext, tokens: Stage) -> StageSpec:
    """Tokens → losses at T snapshots and the trained proxy."""
    from s2l_ray.artifacts.snapshots import snapshot_steps
    from s2l_ray.data.training_order import make_plan

    config = context.config
    proxy, seed = config.proxy, config.seed_of("proxy")
    plan = make_plan(part_rows(tokens), proxy.global_batch_size, proxy.epochs, proxy.max_steps, seed)
    snapshots = snapshot_steps(
        plan.total_steps, config.trajectories.num_snapshots, config.trajectories.include_step_zero
    )

    def build(out: Storage) -> StageResult:
        return _build(context, tokens, plan, snapshots, seed, out)

    settings = training_settings(proxy, context.layout.placements["proxy"].device, seed)
    settings["trajectories"] = config.trajectories.model_dump(mode="json", exclude={"examples_per_part"})
    places, inputs = model_identity(proxy)
    settings |= places
    inputs["tokens"] = tokens.content
    return StageSpec("proxy", settings, inputs, build)


def _build(context: RunContext, tokens: Stage, plan: Any, snapshots: list[int], seed: int, out: Storage) -> StageResult:
    from s2l_ray.artifacts.snapshots import lost_part, read_snapshot
    from s2l_ray.execution.checkpoints import FOLDER, drop_unusable_checkpoints
    from s2l_ray.execution.training import run_on_workers
    from s2l_ray.stages.proxy.loop import ProxyJob, run_worker
    from s2l_ray.stages.proxy.report import ProxyReport

    config, say = context.config, context.progress.say
    drop_unusable_checkpoints(out, say)
    lost = lost_part(out, len(snapshots), [part for part, _ in plan.parts])
    if lost and out.exists(FOLDER):
        # The checkpoints may lie behind that snapshot, and then nothing would score it again.
        say(f"[proxy] {lost} is gone or damaged; the training begins anew, to score it again.")
        out.delete_dir(FOLDER)
    placement = context.layout.placements["proxy"]
    job = ProxyJob(
        pinned(config.proxy), config.trajectories, plan, tuple(snapshots), seed, open_tokenizer(tokens),
        tokens.storage.sub("parts"), out, placement.threads,
    )  # fmt: skip
    say(
        f"[proxy] {plan.total_steps:,} steps of {config.proxy.global_batch_size} examples, "
        f"{len(snapshots)} snapshots, on {placement.describe()}"
    )
    context.layout.wait_for_capacity("proxy", say)
    with ProxyReport(context.progress, context.metrics, plan, len(snapshots)) as report:
        summary = run_on_workers(
            run_worker, job, out, placement, what="proxy", max_failures=config.resources.max_failures,
            wait_s=config.resources.capacity_wait_s, on_event=report.on_event,
        )  # fmt: skip
    taken = [read_snapshot(out, i) for i in range(len(snapshots))]
    complete = [s for s in taken if s is not None]
    for written in (summary.pop("written"), *(s.files for s in complete)):
        out.note_written(written)
    if len(complete) != len(snapshots):
        raise InternalError(f"{len(snapshots)} snapshots were asked for, {len(complete)} are complete in {out.uri}")
    flops = _flops(summary, tokens, plan, len(snapshots))
    first, last = complete[0].mean_loss_nats, complete[-1].mean_loss_nats
    line = (
        f"{format_count(summary['num_parameters'])} parameters, {plan.total_steps:,} steps; mean loss "
        f"{first:.3f} → {last:.3f} nats/token over {len(complete)} snapshots"
    )
    artifact = ProxyArtifact(snapshots=[s.plain() for s in complete], flops=flops, summary=summary)
    content = fingerprint([[s.step, s.weights, s.num_examples, s.mean_loss_nats] for s in complete])
    return StageResult(
        content, {"scores": sum(s.num_examples for s in complete)}, artifact, seeds={"proxy": seed}, summary=line,
        device=summary["device"], num_devices=placement.num_workers, peak_memory_bytes=summary["peak_memory_bytes"],
    )  # fmt: skip


def _flops(summary: dict[str, Any], tokens: Stage, plan: Any, num_snapshots: int) -> dict[str, float]:
    """Of the whole stage, restarts not counted."""
    from s2l_ray.lm.flops import ModelShape

    counts = TokensArtifact.of(tokens)
    one_pass = (counts.num_tokens, counts.num_response_tokens, counts.sum_squared_lengths)
    shape, epochs = ModelShape(**summary["shape"]), plan.total_steps / plan.steps_per_epoch
    return {
        "training": shape.training_flops(*one_pass) * epochs,
        "scoring": float(shape.forward_flops(*one_pass) * num_snapshots),
    }
