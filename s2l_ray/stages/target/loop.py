"""What one target worker does: restore, evaluate, train, evaluate, export. Knows torch, not Ray."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from s2l_ray.artifacts.outputs import list_outputs
from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.engine import device_name, peak_memory_bytes
from s2l_ray.lm.flops import peak_flops
from s2l_ray.lm.load import pad_id_of
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.step import Stepper, StepResult
from s2l_ray.lm.worker import Host
from s2l_ray.stages.target.evaluate import Evaluator
from s2l_ray.stages.target.export import export
from s2l_ray.stages.target.job import TargetJob
from s2l_ray.stages.target.model import TargetModel, build_target

_MADE_HERE = ("model/", "evaluations/")


@dataclass
class Tally:
    """What was done, restarts up to their last checkpoint included."""

    steps: int = 0
    tokens: int = 0
    response_tokens: int = 0
    sum_squared_lengths: int = 0
    examples: int = 0
    train_seconds: float = 0.0


def fine_tune(job: TargetJob, host: Host) -> dict[str, Any]:
    """Returns the summary that ends up in the manifest. Raises Diverged on all ranks alike."""
    if job.threads:
        torch.set_num_threads(job.threads)
    built = build_target(job, host)
    engine = built.engine
    batching = choose_batching(
        built.model, engine.loss, pad_id=pad_id_of(job.tokenizer), device=host.device,
        agree=lambda yes: all(host.gather(yes)), pack=job.target.attention == "auto",
    )  # fmt: skip
    if job.target.compile:
        engine.compile()
    tally, step = Tally(), 0
    with host.restore() as found:
        if found is not None:
            folder, progress = found
            engine.load(folder)
            step, tally = progress["step"], Tally(**progress["tally"])
    if host.rank == 0:
        host.emit(event="ready", step=step)
    stepper = Stepper(
        engine, job.target, total_steps=job.plan.total_steps, seed=job.seed, batching=batching,
        device=host.device, rank=host.rank, num_workers=host.num_workers,
    )  # fmt: skip
    step, exported = _train(job, host, built, stepper, step, tally)
    if exported is None:
        exported = step
        export(job, host, built)
    memory = host.gather(peak_memory_bytes(host.device))
    summary = _summary(job, host, built, tally, step, exported, memory)
    return summary | {"padded_because": batching.reason or None}


def _train(
    job: TargetJob, host: Host, built: TargetModel, stepper: Stepper, step: int, tally: Tally
) -> tuple[int, int | None]:
    """From `step` to the end, or to where patience ends → (steps done, step of the weights exported on the way)."""
    target, total, restored_at = job.target, job.plan.total_steps, step
    evaluator = Evaluator(job, host, built, stepper.batching)
    batches = job.plan.batches(step, host.stream(job.tokens, [w.parts for w in job.plan.windows_from(step)]))
    while True:
        every = target.evaluate_every_steps
        if step in (0, total) or (every and step % every == 0):
            # The best so far is exported at once: no weights need be found again at the end.
            evaluator.evaluate(step, if_best=(lambda: export(job, host, built)) if target.keep_best and step else None)
        if step == total or (target.patience and evaluator.without_gain(step) >= target.patience):
            return step, evaluator.best_step(step) if target.keep_best else None
        if (host.notice(step) or step % job.checkpoint_steps == 0) and step != restored_at:
            host.save(f"step-{step:08d}", {"step": step, "tally": asdict(tally)}, built.engine.save)
        at, batch = next(batches)
        assert at == step, (at, step)
        started = time.perf_counter()
        result = stepper.step(step, batch)
        step += 1
        _count(tally, batch, result, time.perf_counter() - started)
        if host.rank == 0 and (step % target.log_every_steps == 0 or step == total):
            host.emit(event="train", step=step, **_figures(host, built, tally, result))


def _count(tally: Tally, batch: Examples, result: StepResult, seconds: float) -> None:
    tally.steps += 1
    tally.examples += len(batch)
    tally.tokens += result.num_tokens
    tally.response_tokens += result.num_response_tokens
    tally.sum_squared_lengths += int((batch.lengths**2).sum())
    tally.train_seconds += seconds


def _figures(host: Host, built: TargetModel, tally: Tally, result: StepResult) -> dict[str, float]:
    """Of the training so far, for the log."""
    figures = {
        "loss_nats": result.loss_nats,
        "grad_norm": result.grad_norm,
        "tokens_per_s": tally.tokens / tally.train_seconds,
        "tokens": tally.tokens,
        "peak_memory_bytes": peak_memory_bytes(host.device),
    }
    utilisation = _utilisation(host, built, tally)
    return figures | ({} if utilisation is None else {"mfu": utilisation})


def training_flops(built: TargetModel, tally: Tally) -> float:
    """Of all steps so far."""
    counts = (tally.tokens, tally.response_tokens, tally.sum_squared_lengths)
    whole = built.shape.training_flops(*counts)
    # Frozen weights need no gradient of their own: forward and the activations' half of backward.
    return whole * (2 / 3 if built.is_adapted else 1)


def _utilisation(host: Host, built: TargetModel, tally: Tally) -> float | None:
    """Model FLOPs utilisation: useful FLOPs (nothing recomputed, nothing padded) against the devices' peak."""
    peak = peak_flops(device_name(host.device))
    if peak is None or not tally.train_seconds:
        return None
    return training_flops(built, tally) / tally.train_seconds / (peak * host.num_workers)


def _summary(
    job: TargetJob, host: Host, built: TargetModel, tally: Tally, step: int, exported: int, memory: list[int]
) -> dict[str, Any]:
    return {
        "num_parameters": built.num_parameters,
        "num_trained_parameters": built.num_trained_parameters,
        "shape": asdict(built.shape),
        "steps": step,
        "exported_step": exported,
        "tally": asdict(tally),
        "flops": training_flops(built, tally),
        "mfu": _utilisation(host, built, tally),
        "device": device_name(host.device),
        "threads": torch.get_num_threads(),
        "peak_memory_bytes": memory,
        "zero_stage": job.zero_stage,
        # Here, where they were written, and not on the driver; of files from before an interruption none is noted.
        "written": [o.model_dump() for o in list_outputs(job.out, only=_MADE_HERE)] if host.rank == 0 else [],
    }
