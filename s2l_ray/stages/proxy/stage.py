"""Proxy and trajectories: tokens → losses at T snapshots → the N × T matrix."""

from __future__ import annotations

from typing import Any, Literal

from s2l_ray.artifacts.run import part_rows
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.model import RENDER_FIELDS, TrainedModelConfig
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import InternalError
from s2l_ray.lm.identity import model_identity, pinned
from s2l_ray.observability.progress import format_count
from s2l_ray.stages.capacity import make_room
from s2l_ray.stages.tokens.stage import open_tokenizer
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from s2l_ray.workflow.pipeline import Built, Pipeline


def proxy_stage(pipeline: Pipeline, config: S2LConfig, tokens: Stage) -> Stage:
    """Tokens → losses at T snapshots and the trained proxy."""
    from s2l_ray.artifacts.snapshots import snapshot_steps
    from s2l_ray.data.training_order import make_plan

    proxy, seed = config.proxy, config.seed_of("proxy")
    plan = make_plan(part_rows(tokens), proxy.global_batch_size, proxy.epochs, proxy.max_steps, seed)
    snapshots = snapshot_steps(
        plan.total_steps, config.trajectories.num_snapshots, config.trajectories.include_step_zero
    )

    def build(out: Storage) -> Built:
        return _build_proxy(pipeline, config, tokens, plan, snapshots, seed, out)

    settings = training_settings(proxy, pipeline.placements["proxy"].device, seed)
    settings["trajectories"] = config.trajectories.model_dump(mode="json", exclude={"examples_per_part"})
    places, inputs = model_identity(proxy)
    settings |= places
    inputs["tokens"] = tokens.manifest.content_fingerprint
    return pipeline.stage("proxy", settings, inputs, build)


_NOT_NUMBERS = {"log_every_steps", "checkpoint_every_steps", "compile", "seed", "precision", *RENDER_FIELDS}


def training_settings(model: TrainedModelConfig, device: str, seed: int) -> dict[str, Any]:
    """What a training's numbers depend on.

    What changes none stays out: a run may be resumed on other machines, with another number of workers.
    """
    precision = precision_of(model, device)
    return model.stored(exclude=_NOT_NUMBERS) | {"precision": precision, "seed": seed}


def precision_of(model: TrainedModelConfig, device: str) -> Literal["fp32", "bf16"]:
    """What `auto` means on this device."""
    return model.precision if model.precision != "auto" else ("bf16" if device == "gpu" else "fp32")


def _build_proxy(
    pipeline: Pipeline, config: S2LConfig, tokens: Stage, plan: Any, snapshots: list[int], seed: int, out: Storage
) -> Built:
    from s2l_ray.artifacts.snapshots import lost_part, read_snapshot
    from s2l_ray.execution.checkpoints import FOLDER, drop_unusable_checkpoints
    from s2l_ray.execution.training import run_on_workers
    from s2l_ray.stages.proxy.loop import ProxyJob, run_worker
    from s2l_ray.stages.proxy.report import ProxyReport

    drop_unusable_checkpoints(out, pipeline.progress.say)
    lost = lost_part(out, len(snapshots), [part for part, _ in plan.parts])
    if lost and out.exists(FOLDER):
        # The checkpoints may lie behind that snapshot, and then nothing would score it again.
        pipeline.progress.say(f"[proxy] {lost} is gone; the training begins anew, to score it again.")
        out.delete_dir(FOLDER)
    placement = pipeline.placements["proxy"]
    job = ProxyJob(
        pinned(config.proxy), config.trajectories, plan, tuple(snapshots), seed, open_tokenizer(tokens),
        tokens.storage.sub("parts"), out, placement.threads,
    )  # fmt: skip
    pipeline.progress.say(
        f"[proxy] {plan.total_steps:,} steps of {config.proxy.global_batch_size} examples, "
        f"{len(snapshots)} snapshots, on {placement.describe()}"
    )
    make_room(pipeline, "proxy")
    with ProxyReport(pipeline.progress, pipeline.metrics, plan, len(snapshots)) as report:
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
    said = (
        f"{format_count(summary['num_parameters'])} parameters, {plan.total_steps:,} steps; mean loss "
        f"{first:.3f} → {last:.3f} nats/token over {len(complete)} snapshots"
    )
    extra = {"snapshots": [s.plain() for s in complete], "flops": flops, "summary": summary}
    content = fingerprint([[s.step, s.weights, s.num_examples, s.mean_loss_nats] for s in complete])
    return Built(
        content, {"scores": sum(s.num_examples for s in complete)}, extra, seeds={"proxy": seed}, said=said,
        device=summary["device"], num_devices=placement.num_workers, peak_memory_bytes=summary["peak_memory_bytes"],
    )  # fmt: skip


def _flops(summary: dict[str, Any], tokens: Stage, plan: Any, num_snapshots: int) -> dict[str, float]:
    """Of the whole stage, restarts not counted."""
    from s2l_ray.lm.flops import ModelShape

    counts = tokens.manifest.extra
    one_pass = (counts["num_tokens"], counts["num_response_tokens"], counts["sum_squared_lengths"])
    shape, epochs = ModelShape(**summary["shape"]), plan.total_steps / plan.steps_per_epoch
    return {
        "training": shape.training_flops(*one_pass) * epochs,
        "scoring": float(shape.forward_flops(*one_pass) * num_snapshots),
    }


def trajectories_stage(pipeline: Pipeline, config: S2LConfig, tokens: Stage, proxy: Stage) -> Stage:
    """Losses of T snapshots → the N × T matrix."""
    from s2l_ray.artifacts.snapshots import Snapshot
    from s2l_ray.stages.trajectories.build import build_trajectories

    snapshots = [Snapshot(**s) for s in proxy.manifest.extra["snapshots"]]

    def build(out: Storage) -> Built:
        rows = part_rows(tokens)
        with pipeline.progress.stage("trajectories", sum(n for _, n in rows), "examples") as bar:
            parts = build_trajectories(
                tokens.storage.sub("parts"), rows, proxy.storage, snapshots, out, pipeline.parallelism,
                on_rows=lambda rows: bar.update(advance=rows),
            )  # fmt: skip
        extra = {"parts": [[p["part"], p["rows"]] for p in parts.parts], "num_snapshots": parts.num_snapshots}
        said = f"{parts.num_examples:,} trajectories of {parts.num_snapshots} losses, none missing, none doubled"
        return Built(parts.fingerprint, {"trajectories": parts.num_examples}, extra, said=said)

    # The corpus too: the matrix carries the sources, which the tokens' fingerprint does not see.
    inputs = {s.name: s.manifest.content_fingerprint for s in (pipeline.run.stage("corpus"), tokens, proxy)}
    return pipeline.stage("trajectories", {}, inputs, build)
