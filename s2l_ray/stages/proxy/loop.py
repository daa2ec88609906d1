"""What one worker does: restore, then train and score in turn until the last snapshot. Knows torch, not Ray.

The host (`execution.training.RayHost`, or a test's) provides checkpoints, barriers and messages.
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
from s2l_ray.data.training_order import TrainPlan, deal
from s2l_ray.errors import InternalError
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.engine import TorchEngine, device_name, peak_memory_bytes
from s2l_ray.lm.flops import ModelShape
from s2l_ray.lm.load import load_model, pad_id_of
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.score import NonFiniteScore, Scorer
from s2l_ray.lm.step import Stepper, StepResult, autocast_for
from s2l_ray.lm.weights import weights_fingerprint
from s2l_ray.lm.worker import Host
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
class Tally:
    """What was done, restarts up to their last checkpoint included."""

    steps: int = 0
    train_tokens: int = 0
    train_seconds: float = 0.0
    score_seconds: float = 0.0


def run_worker(job: ProxyJob, host: Host) -> dict[str, Any]:
    """Returns the summary that ends up in the manifest. Raises NonFiniteLoss and NonFiniteScore on all ranks alike."""
    if job.threads:
        torch.set_num_threads(job.threads)
    model = load_model(job.proxy, job.tokenizer, job.seed)
    engine = TorchEngine(model, job.proxy, host.device, host.num_workers)
    autocast = autocast_for(host.device, job.proxy.precision)
    batching = choose_batching(
        model, engine.loss, pad_id=pad_id_of(job.tokenizer), device=host.device, autocast=autocast,
        agree=lambda yes: all(host.gather(yes)),
    )  # fmt: skip
    if job.proxy.compile:
        engine.compile()
    step, tally = 0, Tally()
    with host.restore() as found:
        if found is not None:
            folder, progress = found
            engine.load(folder)
            step, tally = progress["step"], Tally(**progress["tally"])
    restored_at = step
    stepper = Stepper(
        engine, job.proxy, total_steps=job.plan.total_steps, seed=job.seed, batching=batching, device=host.device,
        autocast=autocast, rank=host.rank, num_workers=host.num_workers,
    )  # fmt: skip
    scorer = Scorer(
        engine.loss, batching, tokens_per_batch=job.trajectories.tokens_per_batch, device=host.device,
        autocast=autocast,
    )  # fmt: skip
    units = [w.parts for w in job.plan.windows_from(step)]
    batches = job.plan.batches(step, host.stream(job.tokens, units))
    if host.rank == 0:
        host.emit(event="ready", step=step)
    while True:
        is_snapshot = step in job.snapshots
        every = job.proxy.checkpoint_every_steps
        due = is_snapshot or (every and step % every == 0)
        if (host.notice(step) or due) and step != restored_at:
            host.save(f"step-{step:08d}", {"step": step, "tally": asdict(tally)}, engine.save)
        if is_snapshot:
            _snapshot(job, host, scorer, model, step, tally)
        if step == job.plan.total_steps:
            break
        at, batch = next(batches)
        assert at == step, (at, step)
        started = time.perf_counter()
        result = stepper.step(step, batch)
        step += 1
        _count_step(job, host, tally, step, result, time.perf_counter() - started)
    if host.rank == 0:
        _save_model(model, job)
    host.gather(None)
    return _summary(job, host, model, tally, batching)


def _count_step(job: ProxyJob, host: Host, tally: Tally, step: int, result: StepResult, seconds: float) -> None:
    tally.steps += 1
    tally.train_tokens += result.num_tokens
    tally.train_seconds += seconds
    if host.rank == 0 and (step % job.proxy.log_every_steps == 0 or step == job.plan.total_steps):
        host.emit(
            event="train",
            step=step,
            loss_nats=result.loss_nats,
            grad_norm=result.grad_norm,
            tokens_per_s=tally.train_tokens / tally.train_seconds,
        )


def _snapshot(job: ProxyJob, host: Host, scorer: Scorer, model: torch.nn.Module, step: int, tally: Tally) -> None:
    """Score what is missing of this snapshot; every rank its share of the parts."""
    index = job.snapshots.index(step)
    found = None
    if host.rank == 0:
        weights, complete = weights_fingerprint(model), read_snapshot(job.out, index)
        missing = missing_parts(job.out, index, weights, [part for part, _ in job.plan.parts])
        # Of other weights: from another course of this training, to which the other snapshots do not belong.
        found = (weights, missing, complete if complete and complete.weights == weights else None)
    weights, missing, complete = host.same(found)
    known = {} if complete is None else {f["name"]: FileDigest(f["size"], f["digest"]) for f in complete.files}
    missing = sorted({*missing, *_altered(job, host, index, weights, missing, known)})
    if complete is not None and not missing:
        host.emit(event="snapshot", snapshot=index, step=step, mean_loss_nats=complete.mean_loss_nats, reused=True)
        return
    started = time.perf_counter()
    try:
        _score_share(job, host, scorer, index, weights, _share(job, host, missing))
        fault = ""
    except NonFiniteScore as error:
        fault = str(error)  # raised on every rank below: one that stopped alone would leave the others waiting
    faults = [f for f in host.gather(fault) if f]
    if faults:
        raise NonFiniteScore(faults[0])
    tally.score_seconds += time.perf_counter() - started
    done = _complete(job, host, index, step, weights, known)
    if host.rank == 0:
        write_snapshot(job.out, done)
        host.emit(event="snapshot", snapshot=index, step=step, mean_loss_nats=done.mean_loss_nats, reused=False)
    host.gather(None)


def _altered(
    job: ProxyJob, host: Host, index: int, weights: str, missing: list[int], known: dict[str, FileDigest]
) -> list[int]:
    """Parts of a complete snapshot whose files are not what was written; every rank looks at its share."""
    there = [part for part, _ in job.plan.parts if part not in set(missing)] if known else []
    mine = []
    for part in there[host.rank :: host.num_workers]:
        name = score_name(index, weights, part)
        if job.out.digest(name) != known.get(name):
            mine.append(part)
    return [part for share in host.gather(mine) for part in share]


def _share(job: ProxyJob, host: Host, parts: list[int]) -> list[int]:
    """This rank's, so that all have about the same number of examples: they wait for the last one."""
    rows_of = dict(job.plan.parts)
    mine = deal(np.array([rows_of[part] for part in parts], dtype=np.int64), host.num_workers)[host.rank]
    return [parts[i] for i in sorted(mine)]


def _score_share(job: ProxyJob, host: Host, scorer: Scorer, index: int, weights: str, parts: list[int]) -> None:
    rows_of = dict(job.plan.parts)
    folder = snapshot_folder(job.out, index).sub(weights)
    units = group_parts(parts, rows_of, _SCORE_UNIT_ROWS)
    for unit, examples in zip(units, host.stream(job.tokens, units), strict=True):
        start = 0
        for part in unit:
            rows = rows_of[part]
            mine = examples.take(np.arange(start, start + rows))
            start += rows
            losses, counts = scorer(mine)
            folder.write_table(part_name(part), score_table(mine, index, losses, counts))
            host.emit(event="scored", snapshot=index, examples=rows)


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


def _complete(job: ProxyJob, host: Host, index: int, step: int, weights: str, known: dict[str, FileDigest]) -> Snapshot:
    """All parts are there with all their rows? Every rank looks at its share: there may be tens of thousands.

    Args:
        known: digests of files of earlier; those of this process are in its records. Parts that an interrupted attempt
            wrote are in neither, and are read for it.
    """
    folder = snapshot_folder(job.out, index).sub(weights)
    sums: dict[int, float] = {}
    mine = job.plan.parts[host.rank :: host.num_workers]
    tables = folder.read_tables([part_name(part) for part, _ in mine], ["loss_nats"])
    for (part, expected), table in zip(mine, tables, strict=True):
        losses = table["loss_nats"].to_numpy()
        if len(losses) != expected:
            raise InternalError(f"{folder.uri}/{part_name(part)} has {len(losses)} rows, {expected} were to be scored")
        sums[part] = float(losses.sum(dtype=np.float64))
    for written in host.gather(job.out.take_written()):
        known = known | {f["name"]: FileDigest(f["size"], f["digest"]) for f in written}
    names = [score_name(index, weights, part) for part, _ in mine]
    files = [{"name": name, **asdict(known.get(name) or job.out.digest(name))} for name in names]
    gathered = host.gather((sums, files))
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


def _summary(job: ProxyJob, host: Host, model: Any, tally: Tally, batching: Batching) -> dict[str, Any]:
    return {
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "shape": asdict(ModelShape.of(model)),
        "steps": tally.steps,
        "train_tokens": tally.train_tokens,
        "train_seconds": tally.train_seconds,
        "score_seconds": tally.score_seconds,
        "device": device_name(host.device),
        "threads": torch.get_num_threads(),
        "padded_because": batching.reason or None,
        "peak_memory_bytes": peak_memory_bytes(host.device),
        "written": job.out.take_written(),
    }
