"""The loop of one target worker: restore, train with evaluations, export, score. Uses torch, but not Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from s2l_ray.artifacts.outputs import list_outputs
from s2l_ray.artifacts.snapshots import target_weights_folder
from s2l_ray.data.subset_marks import SubsetMarks
from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.engine import device_name, peak_memory_bytes
from s2l_ray.lm.flops import peak_flops
from s2l_ray.lm.heldout import release_memory, score_model
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.step import Stepper, StepResult
from s2l_ray.lm.vocabulary import pad_token_id_of
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.stages.heldout_scores import AFTER, BEFORE
from s2l_ray.stages.target.evaluate import Evaluator
from s2l_ray.stages.target.export import export
from s2l_ray.stages.target.job import TargetJob
from s2l_ray.stages.target.model import TargetModel, build_target

_MADE_HERE = ("model/", "evaluations/", "snapshots/")


@dataclass
class TrainingCounters:
    """Work done so far, including that of earlier attempts up to their last checkpoints."""

    steps: int = 0
    tokens: int = 0
    response_tokens: int = 0
    sum_squared_lengths: int = 0
    examples: int = 0
    train_seconds: float = 0.0


def fine_tune(job: TargetJob, worker: WorkerContext) -> dict[str, Any]:
    """Fine-tune the target → the summary for the manifest, with the held-out `scores` in addition. Raises DivergedError
    on all ranks."""
    if job.threads:
        torch.set_num_threads(job.threads)
    scores = _scored(job, worker, BEFORE)
    summary = _train_and_export(job, worker)
    release_memory()
    return summary | {"scores": scores | _scored(job, worker, AFTER)}


def _scored(job: TargetJob, worker: WorkerContext, which: str) -> dict[str, Any]:
    """Score one model → {its name: its table} on rank 0."""
    if which not in job.scoring:
        return {}
    table = score_model(job.scoring[which], worker)
    return {which: table} if worker.rank == 0 else {}


def _train_and_export(job: TargetJob, worker: WorkerContext) -> dict[str, Any]:
    built = build_target(job, worker)
    engine = built.engine
    pad_id = pad_token_id_of(job.tokenizer, built.model.get_input_embeddings().num_embeddings)
    batching = choose_batching(
        built.model, engine.loss, pad_id=pad_id, device=worker.device,
        agree=lambda yes: all(worker.all_gather(yes)), pack=job.target.attention == "auto",
    )  # fmt: skip
    if job.target.compile:
        engine.compile()
    counters, step = TrainingCounters(), 0
    with worker.restore() as found:
        if found is not None:
            folder, progress = found
            engine.load(folder)
            step, counters = progress["step"], TrainingCounters(**progress["tally"])
    if worker.rank == 0:
        worker.emit(event="ready", step=step)
    stepper = Stepper(
        engine, job.target, total_steps=job.plan.total_steps, seed=job.seed, batching=batching,
        device=worker.device, rank=worker.rank, num_workers=worker.num_workers,
    )  # fmt: skip
    step, exported = _train(job, worker, built, stepper, step, counters)
    if exported is None:
        exported = step
        export(job, worker, built)
    memory = worker.all_gather(peak_memory_bytes(worker.device))
    summary = _summary(job, worker, built, counters, step, exported, memory)
    return summary | {"padded_because": batching.reason or None}


def _train(
    job: TargetJob, worker: WorkerContext, built: TargetModel, stepper: Stepper, step: int, counters: TrainingCounters
) -> tuple[int, int | None]:
    """Train from `step` to the end, or until `patience` stops it → (steps done, step of weights exported meanwhile)."""
    target, total, restored_at = job.target, job.plan.total_steps, step
    evaluator = Evaluator(job, worker, built, stepper.batching)
    loaded: Iterator[Examples] = worker.stream(job.tokens, [w.parts for w in job.plan.windows_from(step)])
    if job.subset is not None:
        loaded = SubsetMarks.read(job.subset, job.weighted, job.staged).attach(loaded)
    batches = job.plan.batches(step, loaded)
    while True:
        if evaluator.is_due(step, restored_at):
            # The best weights so far are exported immediately, so that they need not be recovered at the end.
            evaluator.evaluate(step, if_best=(lambda: export(job, worker, built)) if target.keep_best else None)
        if step in job.kept:
            export(job, worker, built, target_weights_folder(step))
        if step == total or (target.patience and evaluator.without_gain(step) >= target.patience):
            return step, evaluator.best_step(step) if target.keep_best else None
        if (worker.notice(step) or step % job.checkpoint_steps == 0) and step != restored_at:
            worker.save(f"step-{step:08d}", {"step": step, "tally": asdict(counters)}, built.engine.save)
        at, batch = next(batches)
        assert at == step, (at, step)
        started = time.perf_counter()
        result = stepper.step(step, batch)
        step += 1
        _count(counters, batch, result, time.perf_counter() - started)
        if worker.rank == 0 and (step % target.log_every_steps == 0 or step == total):
            worker.emit(event="train", step=step, **_figures(worker, built, counters, result))


def _count(counters: TrainingCounters, batch: Examples, result: StepResult, seconds: float) -> None:
    counters.steps += 1
    counters.examples += len(batch)
    counters.tokens += result.num_tokens
    counters.response_tokens += result.num_response_tokens
    counters.sum_squared_lengths += int((batch.lengths**2).sum())
    counters.train_seconds += seconds


def _figures(
    worker: WorkerContext, built: TargetModel, counters: TrainingCounters, result: StepResult
) -> dict[str, float]:
    """Figures on the training so far, for the log."""
    figures = {
        "loss_nats": result.loss_nats,
        "grad_norm": result.grad_norm,
        "tokens_per_s": counters.tokens / counters.train_seconds,
        "tokens": counters.tokens,
        "peak_memory_bytes": peak_memory_bytes(worker.device),
    }
    utilisation = _utilisation(worker, built, counters)
    return figures | ({} if utilisation is None else {"mfu": utilisation})


def training_flops(built: TargetModel, counters: TrainingCounters) -> float:
    """FLOPs of all steps so far."""
    counts = (counters.tokens, counters.response_tokens, counters.sum_squared_lengths)
    whole = built.shape.training_flops(*counts)
    # Frozen weights need no gradients themselves: only the forward pass and the activations' half of the backward pass.
    return whole * (2 / 3 if built.is_adapted else 1)


def _utilisation(worker: WorkerContext, built: TargetModel, counters: TrainingCounters) -> float | None:
    """Model FLOPs utilisation: useful FLOPs (without recomputation and padding) as a share of the devices' peak."""
    peak = peak_flops(device_name(worker.device))
    if peak is None or not counters.train_seconds:
        return None
    return training_flops(built, counters) / counters.train_seconds / (peak * worker.num_workers)


def _summary(
    job: TargetJob,
    worker: WorkerContext,
    built: TargetModel,
    counters: TrainingCounters,
    step: int,
    exported: int,
    memory: list[int],
) -> dict[str, Any]:
    return {
        "num_parameters": built.num_parameters,
        "num_trained_parameters": built.num_trained_parameters,
        "shape": asdict(built.shape),
        "steps": step,
        "exported_step": exported,
        "tally": asdict(counters),
        "flops": training_flops(built, counters),
        "mfu": _utilisation(worker, built, counters),
        "device": device_name(worker.device),
        "threads": torch.get_num_threads(),
        "peak_memory_bytes": memory,
        "zero_stage": job.zero_stage,
        # Listed here, where they were written, because files from before an interruption are not noted anywhere.
        "written": [o.model_dump() for o in list_outputs(job.out, only=_MADE_HERE)] if worker.rank == 0 else [],
    }
