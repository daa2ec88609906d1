"""What one worker does: restore, then train and score in turn until the last snapshot. Knows torch, not Ray.

The worker (`execution.training.RayWorkerContext`, or a test's) provides checkpoints, barriers and messages.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from s2l_ray.artifacts.snapshots import (
    Snapshot,
    missing_parts,
    read_snapshot,
    score_name,
    score_table,
    snapshot_folder,
    write_snapshot,
)
from s2l_ray.config.schema import ProxyConfig, TrajectoriesConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.training_order import TrainPlan, balance_by_length
from s2l_ray.errors import InternalError
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.engine import TorchEngine, device_name, peak_memory_bytes
from s2l_ray.lm.flops import ModelShape
from s2l_ray.lm.load import load_model, pad_token_id_of
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.score import NonFiniteScore, Scorer
from s2l_ray.lm.step import Stepper, StepResult, autocast_for
from s2l_ray.lm.weights import weights_fingerprint
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.storage.digests import FileDigest
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.scratch import scratch_folder

_SCORE_UNIT_ROWS = 32_768
"""Examples loaded at once for scoring: a small corpus is read directly, a large one streams through Ray Data."""


@dataclass(frozen=True)
class ProxyJob:
    """Everything that a worker needs; the same for all."""

    proxy: ProxyConfig
    trajectories: TrajectoriesConfig
    plan: TrainPlan
    snapshots: tuple[int, ...]
    """Optimiser steps after which the examples are scored."""
    seed: int
    tokenizer: Any
    tokens: Storage
    """Folder of the token parts."""
    out: Storage
    """Folder of the stage."""
    threads: int | None = None
    """CPU threads of a worker; None: torch's own choice."""


@dataclass
class TrainingCounters:
    """What was done, restarts up to their last checkpoint included."""

    steps: int = 0
    train_tokens: int = 0
    train_seconds: float = 0.0
    score_seconds: float = 0.0


def run_worker(job: ProxyJob, worker: WorkerContext) -> dict[str, Any]:
    """Returns the summary that ends up in the manifest. Raises NonFiniteLoss and NonFiniteScore on all ranks alike."""
    if job.threads:
        torch.set_num_threads(job.threads)
    model = load_model(job.proxy, job.tokenizer, job.seed)
    engine = TorchEngine(model, job.proxy, worker.device, worker.num_workers)
    autocast = autocast_for(worker.device, job.proxy.precision)
    batching = choose_batching(
        model, engine.loss, pad_id=pad_token_id_of(job.tokenizer), device=worker.device, autocast=autocast,
        agree=lambda yes: all(worker.all_gather(yes)),
    )  # fmt: skip
    if job.proxy.compile:
        engine.compile()
    step, counters = 0, TrainingCounters()
    with worker.restore() as found:
        if found is not None:
            folder, progress = found
            engine.load(folder)
            step, counters = progress["step"], TrainingCounters(**progress["tally"])
    restored_at = step
    stepper = Stepper(
        engine, job.proxy, total_steps=job.plan.total_steps, seed=job.seed, batching=batching, device=worker.device,
        autocast=autocast, rank=worker.rank, num_workers=worker.num_workers,
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
        is_snapshot = step in job.snapshots
        every = job.proxy.checkpoint_every_steps
        due = is_snapshot or (every and step % every == 0)
        if (worker.notice(step) or due) and step != restored_at:
            worker.save(f"step-{step:08d}", {"step": step, "tally": asdict(counters)}, engine.save)
        if is_snapshot:
            _snapshot(job, worker, scorer, model, step, counters)
        if step == job.plan.total_steps:
            break
        at, batch = next(batches)
        assert at == step, (at, step)
        started = time.perf_counter()
        result = stepper.step(step, batch)
        step += 1
        _count_step(job, worker, counters, step, result, time.perf_counter() - started)
    if worker.rank == 0:
        _save_model(model, job)
    worker.all_gather(None)
    return _summary(job, worker, model, counters, batching)


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
    """Score what is missing of this snapshot; every rank its share of the parts."""
    index = job.snapshots.index(step)
    found = None
    if worker.rank == 0:
        weights, complete = weights_fingerprint(model), read_snapshot(job.out, index)
        missing = missing_parts(job.out, index, weights, [part for part, _ in job.plan.parts])
        # Of other weights: from another course of this training, to which the other snapshots do not belong.
        found = (weights, missing, complete if complete and complete.weights == weights else None)
    weights, missing, complete = worker.broadcast(found)
    known = {} if complete is None else {f["name"]: FileDigest(f["size"], f["digest"]) for f in complete.files}
    missing = sorted({*missing, *_altered(job, worker, index, weights, missing, known)})
    if complete is not None and not missing:
        worker.emit(event="snapshot", snapshot=index, step=step, mean_loss_nats=complete.mean_loss_nats, reused=True)
        return
    started = time.perf_counter()
    try:
        _score_share(job, worker, scorer, index, weights, _share(job, worker, missing))
        fault = ""
    except NonFiniteScore as error:
        fault = str(error)  # raised on every rank below: one that stopped alone would leave the others waiting
    faults = [f for f in worker.all_gather(fault) if f]
    if faults:
        raise NonFiniteScore(faults[0])
    counters.score_seconds += time.perf_counter() - started
    done = _complete(job, worker, index, step, weights, known)
    if worker.rank == 0:
        write_snapshot(job.out, done)
        worker.emit(event="snapshot", snapshot=index, step=step, mean_loss_nats=done.mean_loss_nats, reused=False)
    worker.all_gather(None)


def _altered(
    job: ProxyJob, worker: WorkerContext, index: int, weights: str, missing: list[int], known: dict[str, FileDigest]
) -> list[int]:
    """Parts of a complete snapshot whose files are not what was written; every rank looks at its share."""
    there = [part for part, _ in job.plan.parts if part not in set(missing)] if known else []
    mine = []
    for part in there[worker.rank :: worker.num_workers]:
        name = score_name(index, weights, part)
        if job.out.digest(name) != known.get(name):
            mine.append(part)
    return [part for share in worker.all_gather(mine) for part in share]


def _share(job: ProxyJob, worker: WorkerContext, parts: list[int]) -> list[int]:
    """This rank's, so that all have about the same number of examples: they wait for the last one."""
    rows_of = dict(job.plan.parts)
    mine = balance_by_length(np.array([rows_of[part] for part in parts], dtype=np.int64), worker.num_workers)[
        worker.rank
    ]
    return [parts[i] for i in sorted(mine)]


def _score_share(
    job: ProxyJob, worker: WorkerContext, scorer: Scorer, index: int, weights: str, parts: list[int]
) -> None:
    rows_of = dict(job.plan.parts)
    folder = snapshot_folder(job.out, index).sub(weights)
    units = group_parts(parts, rows_of, _SCORE_UNIT_ROWS)
    for unit, examples in zip(units, worker.stream(job.tokens, units), strict=True):
        start = 0
        for part in unit:
            rows = rows_of[part]
            mine = examples.take(np.arange(start, start + rows))
            start += rows
            losses, counts = scorer(mine)
            folder.write_table(part_name(part), score_table(mine, index, losses, counts))
            worker.emit(event="scored", snapshot=index, examples=rows)


def group_parts(parts: list[int], rows_of: dict[int, int], max_rows: int) -> list[tuple[int, ...]]:
    """Consecutive parts, at most `max_rows` examples together (or one part)."""
    groups: list[tuple[int, ...]] = []
    current: list[int] = []
    rows = 0
    for part in parts:
        if current and rows + rows_of[part] > max_rows:
            groups.append(tuple(current))
            current, rows = [], 0
        current.append(part)
        rows += rows_of[part]
    return [*groups, tuple(current)] if current else groups


def _complete(
    job: ProxyJob, worker: WorkerContext, index: int, step: int, weights: str, known: dict[str, FileDigest]
) -> Snapshot:
    """All parts are there with all their rows? Every rank looks at its share: there may be tens of thousands.

    Args:
        known: digests of files of earlier; those of this process are in its records. Parts that an interrupted attempt
            wrote are in neither, and are read for it.
    """
    folder = snapshot_folder(job.out, index).sub(weights)
    sums: dict[int, float] = {}
    mine = job.plan.parts[worker.rank :: worker.num_workers]
    tables = folder.read_tables([part_name(part) for part, _ in mine], ["loss_nats"])
    for (part, expected), table in zip(mine, tables, strict=True):
        losses = table["loss_nats"].to_numpy()
        if len(losses) != expected:
            raise InternalError(f"{folder.uri}/{part_name(part)} has {len(losses)} rows, {expected} were to be scored")
        sums[part] = float(losses.sum(dtype=np.float64))
    for written in worker.all_gather(job.out.take_written()):
        known = known | {f["name"]: FileDigest(f["size"], f["digest"]) for f in written}
    names = [score_name(index, weights, part) for part, _ in mine]
    files = [{"name": name, **asdict(known.get(name) or job.out.digest(name))} for name in names]
    gathered = worker.all_gather((sums, files))
    of_part = {part: value for share, _ in gathered for part, value in share.items()}
    all_files = sorted((file for _, share in gathered for file in share), key=lambda f: str(f["name"]))
    rows = sum(n for _, n in job.plan.parts)
    # The mean is exact, in whatever order.
    return Snapshot(index, step, weights, rows, math.fsum(of_part.values()) / rows, all_files)


def _save_model(model: Any, job: ProxyJob) -> None:
    """The trained proxy as a Hugging Face folder (safetensors), with its tokenizer."""
    with scratch_folder() as folder:
        model.save_pretrained(folder)
        job.tokenizer.save_pretrained(folder)
        job.out.sub("model").upload_folder(folder)


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
