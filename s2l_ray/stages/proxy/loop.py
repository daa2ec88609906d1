"""The loop of one worker: restore, then train and score in turn until the last snapshot. Uses torch, but not Ray.

The worker (`execution.training.RayWorkerContext`, or a test's) provides checkpoints, barriers and messages.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from s2l_ray.artifacts.snapshots import (
    missing_parts,
    read_snapshot,
    score_name,
    score_table,
    snapshot_folder,
    weights_folder,
)
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.part_groups import group_parts, share_of_parts
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.engine import TorchEngine, device_name, peak_memory_bytes
from s2l_ray.lm.flops import ModelShape
from s2l_ray.lm.load import load_model
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.score import NonFiniteScore, Scorer
from s2l_ray.lm.step import Stepper, StepResult, autocast_for
from s2l_ray.lm.vocabulary import pad_token_id_of
from s2l_ray.lm.weights import weights_fingerprint
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.stages.proxy.job import ProxyJob, complete_snapshot
from s2l_ray.stages.proxy.record import EpochRecorder
from s2l_ray.storage.behind import Behind
from s2l_ray.storage.digests import FileDigest
from s2l_ray.storage.scratch import scratch_folder

_SCORE_UNIT_ROWS = 32_768
"""Number of examples loaded at once for scoring: smaller corpora are read directly, larger ones streamed by Ray
Data."""


@dataclass
class TrainingCounters:
    """Work done so far, including that of earlier attempts up to their last checkpoints."""

    steps: int = 0
    train_tokens: int = 0
    train_seconds: float = 0.0
    score_seconds: float = 0.0


def run_worker(job: ProxyJob, worker: WorkerContext) -> dict[str, Any]:
    """Train the proxy and score the corpus → the summary for the manifest. Raises NonFiniteLoss and NonFiniteScore on
    all ranks."""
    if job.threads:
        torch.set_num_threads(job.threads)
    model = load_model(job.proxy, job.tokenizer, job.seed)
    autocast = autocast_for(worker.device, job.proxy.precision)
    in_bf16 = autocast is not contextlib.nullcontext
    engine = TorchEngine(model, job.proxy, worker.device, worker.num_workers, send_bf16=in_bf16)
    pad_id = pad_token_id_of(job.tokenizer, model.get_input_embeddings().num_embeddings)
    batching = choose_batching(
        model, engine.loss, pad_id=pad_id, device=worker.device, autocast=autocast,
        agree=lambda yes: all(worker.all_gather(yes)),
    )  # fmt: skip
    if job.proxy.compile:
        engine.compile()
    step, counters = 0, TrainingCounters()
    recorder = EpochRecorder(job, worker)
    with worker.restore() as found:
        if found is not None:
            folder, progress = found
            engine.load(folder)
            step, counters = progress["step"], TrainingCounters(**progress["tally"])
            recorder.restore(folder)
        else:
            recorder.begin()
    restored_at = step
    stepper = Stepper(
        engine, job.proxy, total_steps=job.plan.total_steps, seed=job.seed, batching=batching, device=worker.device,
        autocast=autocast, rank=worker.rank, num_workers=worker.num_workers, record=recorder.is_on,
    )  # fmt: skip
    scorer = Scorer(
        engine.loss, batching, tokens_per_batch=job.trajectories.tokens_per_batch, device=worker.device,
        autocast=autocast,
    )  # fmt: skip
    units = [w.parts for w in job.plan.windows_from(step)]
    batches = job.plan.batches(step, worker.stream(job.tokens, units))
    if worker.rank == 0:
        worker.emit(event="ready", step=step)
    while True:
        is_snapshot, every = step in job.index_of_step, job.proxy.checkpoint_every_steps
        due = is_snapshot or recorder.ends_epoch(step) or (every and step % every == 0)
        if (worker.notice(step) or due) and step != restored_at:
            _checkpoint(worker, engine, recorder, step, counters)
        if recorder.ends_epoch(step):
            recorder.finish_epoch(step)
        if is_snapshot:
            index = job.index_of_step[step]
            if worker.rank == 0 and index in job.kept:
                _save_model(model, job, weights_folder(index))
            _snapshot(job, worker, scorer, model, step, counters)
        if step == job.plan.total_steps:
            break
        at, batch = next(batches)
        assert at == step, (at, step)
        started = time.perf_counter()
        result = stepper.step(step, batch)
        recorder.add(step, batch, result.examples)
        step += 1
        _count_step(job, worker, counters, step, result, time.perf_counter() - started)
    if worker.rank == 0:
        _save_model(model, job, "model")
    worker.all_gather(None)
    summary = _summary(job, worker, model, counters, batching)
    # Scored snapshots are named after their weights; only this fingerprint ties recorded losses to their training.
    return summary | ({"weights": weights_fingerprint(model)} if recorder.is_on and worker.rank == 0 else {})


def _checkpoint(
    worker: WorkerContext, engine: TorchEngine, recorder: EpochRecorder, step: int, counters: TrainingCounters
) -> None:
    recorder.gather()

    def write(folder: Path) -> None:
        engine.save(folder)
        recorder.save(folder)

    worker.save(f"step-{step:08d}", {"step": step, "tally": asdict(counters)}, write)


def _count_step(
    job: ProxyJob, worker: WorkerContext, counters: TrainingCounters, step: int, result: StepResult, seconds: float
) -> None:
    counters.steps += 1
    counters.train_tokens += result.num_tokens
    counters.train_seconds += seconds
    if worker.rank == 0 and (step % job.proxy.log_every_steps == 0 or step == job.plan.total_steps):
        worker.emit(
            event="train",
            step=step,
            loss_nats=result.loss_nats,
            grad_norm=result.grad_norm,
            tokens_per_s=counters.train_tokens / counters.train_seconds,
        )


def _snapshot(
    job: ProxyJob, worker: WorkerContext, scorer: Scorer, model: torch.nn.Module, step: int, counters: TrainingCounters
) -> None:
    """Score what is missing in this snapshot; every rank scores its share of the parts."""
    index = job.index_of_step[step]
    found = None
    if worker.rank == 0:
        weights, complete = weights_fingerprint(model), read_snapshot(job.out, index)
        missing = missing_parts(job.out, index, weights, [part for part, _ in job.plan.parts])
        # It has other weights, so it belongs to another attempt at this training than the other snapshots.
        found = (weights, missing, complete if complete and complete.weights == weights else None)
    weights, missing, complete = worker.broadcast(found)
    known = {} if complete is None else {f["name"]: FileDigest(f["size"], f["digest"]) for f in complete.files}
    missing = sorted({*missing, *_altered(job, worker, index, weights, missing, known)})
    if complete is not None and not missing:
        worker.emit(event="snapshot", snapshot=index, step=step, mean_loss_nats=complete.mean_loss_nats, reused=True)
        return
    started = time.perf_counter()
    try:
        _score_share(
            job,
            worker,
            scorer,
            index,
            weights,
            share_of_parts(missing, dict(job.plan.parts), worker.rank, worker.num_workers),
        )
        fault = ""
    except NonFiniteScore as error:
        fault = str(error)  # raised on every rank below, because the others would wait for one that stopped alone
    faults = [f for f in worker.all_gather(fault) if f]
    if faults:
        raise NonFiniteScore(faults[0])
    counters.score_seconds += time.perf_counter() - started
    complete_snapshot(job, worker, index, weights, known)


def _altered(
    job: ProxyJob, worker: WorkerContext, index: int, weights: str, missing: list[int], known: dict[str, FileDigest]
) -> list[int]:
    """Find parts of a complete snapshot whose files have changed or are missing; every rank checks its share."""
    there = [part for part, _ in job.plan.parts if part not in set(missing)] if known else []
    mine = []
    for part in there[worker.rank :: worker.num_workers]:
        name = score_name(index, weights, part)
        if job.out.digest(name) != known.get(name):
            mine.append(part)
    return [part for share in worker.all_gather(mine) for part in share]


def _score_share(
    job: ProxyJob, worker: WorkerContext, scorer: Scorer, index: int, weights: str, parts: list[int]
) -> None:
    rows_of = dict(job.plan.parts)
    folder = snapshot_folder(job.out, index).sub(weights)
    units = group_parts(parts, rows_of, _SCORE_UNIT_ROWS)

    def write(part: int, table: pa.Table) -> None:
        folder.write_table(part_name(part), table)
        worker.emit(event="scored", snapshot=index, examples=table.num_rows)

    with Behind() as behind:  # compressing, writing and syncing a part would keep a GPU waiting
        for unit, examples in zip(units, worker.stream(job.tokens, units), strict=True):
            start = 0
            for part in unit:
                rows = rows_of[part]
                mine = examples.take(np.arange(start, start + rows))
                start += rows
                scores = scorer(mine)
                table = score_table(mine.ids, index, scores.losses, scores.counts, signals=scores.signals)
                behind(write, part, table)


def _save_model(model: Any, job: ProxyJob, name: str) -> None:
    """Save the proxy as a Hugging Face folder (safetensors), with its tokenizer."""
    with scratch_folder() as folder:
        model.save_pretrained(folder)
        job.tokenizer.save_pretrained(folder)
        job.out.sub(name).upload_folder(folder)


def _summary(
    job: ProxyJob, worker: WorkerContext, model: Any, counters: TrainingCounters, batching: Batching
) -> dict[str, Any]:
    return {
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "shape": asdict(ModelShape.of(model)),
        "steps": counters.steps,
        "train_tokens": counters.train_tokens,
        "train_seconds": counters.train_seconds,
        "score_seconds": counters.score_seconds,
        "device": device_name(worker.device),
        "threads": torch.get_num_threads(),
        "padded_because": batching.reason or None,
        "peak_memory_bytes": peak_memory_bytes(worker.device),
        "written": job.out.take_written(),
    }
