"""The loop of one worker: gradients of its share of the sample, at each snapshot. Uses torch, but not Ray.

The sample is divided into chunks in the order of the ids, with batches formed within a chunk, so a chunk's gradients
depend only on weights and sample, not on workers or on the order or parts of the corpus. Existing chunks are kept, so
that a lost worker costs only its current chunk.

Memory: the whole sample's tokens on every worker (5 bytes per token), and one unit of the corpus while collecting them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from s2l_ray.config.schema import ProxyConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_hex, array_to_ids
from s2l_ray.data.part_groups import group_parts, share_of_parts
from s2l_ray.data.sequences import first_rows, loss_counts, mean_over_sequences
from s2l_ray.data.token_examples import Examples
from s2l_ray.errors import InternalError
from s2l_ray.lm.embed import Embedder
from s2l_ray.lm.engine import device_name, peak_memory_bytes
from s2l_ray.lm.example_gradients import ExampleGradients, HeadGradients, LoraGradients
from s2l_ray.lm.exported import load_kept
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.lm.score import NonFiniteScore
from s2l_ray.lm.step import autocast_for
from s2l_ray.lm.vocabulary import pad_token_id_of
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.selection.signals import RESPONSE_EMBEDDING
from s2l_ray.storage.digests import columns_digest
from s2l_ray.storage.folder import Storage

CHUNK_EXAMPLES = 256
"""Unit of work and of resuming; 4 MB of gradients."""
_UNIT_ROWS = 32_768
"""Number of examples loaded at once."""


@dataclass(frozen=True)
class Weights:
    """The weights of one snapshot."""

    name: str
    """`start`, `middle` or `last`."""
    step: int
    files: tuple[str, ...]
    """Files in the folder of the proxy's stage; empty for the initial weights."""


@dataclass(frozen=True)
class GradientsJob:
    """Everything that a worker needs; the same for all workers."""

    kind: str
    """`head` or `lora`."""
    snapshots: tuple[Weights, ...]
    ids: np.ndarray
    """(m, 2) uint64 ids of the sample, in ascending order."""
    seed: int
    """Seed of the sketches."""
    proxy: ProxyConfig
    proxy_seed: int
    tokens_per_batch: int
    parts: tuple[tuple[int, int], ...]
    """(part, sequences) of the tokens."""
    tokenizer: Any
    model: Storage
    """Folder of the proxy's stage."""
    tokens: Storage
    """Folder of the token parts."""
    out: Storage
    """Folder of the stage: `<snapshot>/part-<chunk>.parquet`."""
    threads: int | None = None

    @property
    def num_chunks(self) -> int:
        return -(-len(self.ids) // CHUNK_EXAMPLES)


def run_pass(job: GradientsJob, worker: WorkerContext) -> dict[str, Any]:
    """Compute the gradients → the summary for the manifest. Raises NonFiniteScore on all ranks."""
    if job.threads:
        torch.set_num_threads(job.threads)
    missing: dict[str, list[int]] = {}
    if worker.rank == 0:
        worker.emit(event="ready", step=0)
        missing = {weights.name: _missing(job, weights) for weights in job.snapshots}
    missing = worker.broadcast(missing)
    sample = _collect(job, worker) if any(missing.values()) else None
    for weights in job.snapshots:
        if sample is None or not missing[weights.name]:
            continue
        fault = ""
        compute = _ready(job, weights, worker)
        try:
            for chunk in missing[weights.name][worker.rank :: worker.num_workers]:
                table = compute(_chunk_of(job, sample, chunk))
                job.out.write_table(f"{weights.name}/{part_name(chunk)}", table, compression="zstd")
                worker.emit(event="scored", examples=table.num_rows)
        except NonFiniteScore as error:
            fault = f"{weights.name} (step {weights.step:,}): {error}"
        # Raised on every rank, because the others would wait for one that stopped alone.
        faults = [f for f in worker.all_gather(fault) if f]
        if faults:
            raise NonFiniteScore(faults[0])
    return _summary(job, worker)


def _missing(job: GradientsJob, weights: Weights) -> list[int]:
    there = {entry.name for entry in job.out.list(weights.name)}
    return [chunk for chunk in range(job.num_chunks) if f"{weights.name}/{part_name(chunk)}" not in there]


def _summary(job: GradientsJob, worker: WorkerContext) -> dict[str, Any]:
    digests, dim = {}, 0
    names = [f"{weights.name}/{part_name(chunk)}" for weights in job.snapshots for chunk in range(job.num_chunks)]
    for name in names[worker.rank :: worker.num_workers]:
        table = job.out.read_table(name)
        digests[name], dim = columns_digest(table), table["gradient"].type.list_size
    gathered = worker.all_gather((digests, dim, job.out.take_written()))
    found = {name: digest for share, _, _ in gathered for name, digest in share.items()}
    return {
        "digests": [found[name] for name in names],
        "dim": max(dim for _, dim, _ in gathered),
        "written": [file for _, _, files in gathered for file in files],
        "device": device_name(worker.device),
        "peak_memory_bytes": peak_memory_bytes(worker.device),
    }


def _collect(job: GradientsJob, worker: WorkerContext) -> Examples:
    """Collect the sample's sequences on every rank, sorted by id; each rank reads its share of the corpus.

    Raises:
        InternalError: some of the sample is missing in the tokens.
    """
    rows_of = dict(job.parts)
    mine = share_of_parts([part for part, _ in job.parts], rows_of, worker.rank, worker.num_workers)
    units = group_parts(mine, rows_of, _UNIT_ROWS)
    wanted = {(int(high), int(low)) for high, low in job.ids}
    found = []
    for examples in worker.stream(job.tokens, units):
        near = np.flatnonzero(np.isin(examples.ids[:, 0], job.ids[:, 0]))
        rows = [row for row in near if (int(examples.ids[row, 0]), int(examples.ids[row, 1])) in wanted]
        found.append(examples.take(np.array(rows, dtype=np.int64)))
    gathered = [examples for share in worker.all_gather(found) for examples in share]
    sample = Examples.concatenate(gathered)
    # A stable sort, so that the sequences of one example keep their order.
    sample = sample.take(np.lexsort((sample.ids[:, 1], sample.ids[:, 0])))
    if not np.array_equal(sample.ids[first_rows(sample.ids)], job.ids):
        raise InternalError(
            f"{job.tokens.uri} holds only {len(first_rows(sample.ids)):,} of {len(job.ids):,} sampled examples, so "
            "the trajectories were made from other tokens; run `s2l run` on the configuration again"
        )
    return sample


def _chunk_of(job: GradientsJob, sample: Examples, chunk: int) -> Examples:
    bounds = np.append(first_rows(sample.ids), len(sample))  # (m + 1,)
    first = chunk * CHUNK_EXAMPLES
    return sample.take(np.arange(bounds[first], bounds[min(first + CHUNK_EXAMPLES, len(job.ids))]))


def _ready(job: GradientsJob, weights: Weights, worker: WorkerContext) -> Any:
    """The function that computes the table of examples with these weights."""
    model = load_kept(job.proxy, job.model, weights.files, job.tokenizer, job.proxy_seed).to(worker.device)
    loss, autocast = ResponseLoss(model), autocast_for(worker.device, job.proxy.precision)
    batching = choose_batching(
        model, loss, pad_id=pad_token_id_of(job.tokenizer, model.get_input_embeddings().num_embeddings),
        device=worker.device, autocast=autocast, agree=lambda yes: all(worker.all_gather(yes)),
    )  # fmt: skip
    how: dict[str, Any] = {"device": worker.device, "autocast": autocast}
    embed = Embedder(RESPONSE_EMBEDDING, loss, batching, tokens_per_batch=job.tokens_per_batch, **how)
    gradients_of: ExampleGradients
    if job.kind == "lora":
        gradients_of = LoraGradients(loss, batching, seed=job.seed, **how)
    else:
        gradients_of = HeadGradients(loss, batching, tokens_per_batch=job.tokens_per_batch, seed=job.seed, **how)
    return lambda examples: _table(examples, gradients_of(examples), embed(examples))


def _table(examples: Examples, gradients: np.ndarray, embeddings: np.ndarray) -> pa.Table:
    """Build a table with one row per example; several sequences are weighted by their response tokens.

    Raises:
        NonFiniteScore: a gradient is not finite; the message names the examples.
    """
    wrong = np.flatnonzero(~np.isfinite(gradients).all(axis=1))
    if len(wrong):
        shown = ", ".join(array_to_hex(examples.ids[wrong[:10]]))
        raise NonFiniteScore(
            f"{len(wrong)} gradients are not finite (examples {shown}). The proxy has diverged or overflows: lower "
            "proxy.learning_rate, or set proxy.precision=fp32"
        )
    first = first_rows(examples.ids)
    counts = loss_counts(examples.mask, examples.offsets)
    columns = [array_to_ids(examples.ids[first])]
    for values in (gradients, embeddings):
        means = mean_over_sequences(values, counts, first).astype(np.float32)
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(means.reshape(-1)), means.shape[1]))
    return pa.table(columns, names=["example_id", "gradient", "embedding"])
