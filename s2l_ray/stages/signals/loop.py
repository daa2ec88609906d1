"""The loop of one worker: one pass over its share of the parts with a snapshot's weights. Uses torch, but not Ray.

Existing parts are kept, so that a lost worker costs only its current parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_hex, array_to_ids
from s2l_ray.data.part_groups import group_parts, share_of_parts
from s2l_ray.data.sequences import first_rows, loss_counts, mean_over_sequences
from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.embed import Embedder, without_prompts
from s2l_ray.lm.engine import device_name, peak_memory_bytes
from s2l_ray.lm.exported import load_kept
from s2l_ray.lm.load import ModelError
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.lm.score import NonFiniteScore, Scorer
from s2l_ray.lm.step import autocast_for
from s2l_ray.lm.vocabulary import pad_token_id_of
from s2l_ray.lm.worker import WorkerContext
from s2l_ray.selection.signals import LOSS, LOSS_UNCONDITIONAL, MIN_PROBABILITY
from s2l_ray.stages.reference import SCORES
from s2l_ray.storage.digests import columns_digest
from s2l_ray.storage.folder import Storage

_UNIT_ROWS = 32_768
"""Number of examples loaded at once."""


@dataclass(frozen=True)
class SignalsJob:
    """Everything that a worker needs; the same for all workers."""

    column: str
    """The column to compute: an embedding or the loss without the prompt, as in selection.signals, or SCORES."""
    model_config: TrainedModelConfig
    """The section `proxy` or `target`."""
    tokens_per_batch: int
    parts: tuple[tuple[int, int], ...]
    """(part, sequences) of the tokens."""
    seed: int
    """Seed of random initial weights."""
    tokenizer: Any
    model: Storage
    """Folder of the model's stage."""
    model_files: tuple[str, ...]
    """Files with the weights there; empty for the initial weights."""
    dim: int | None
    tokens: Storage
    """Folder of the token parts."""
    out: Storage
    """Folder of the stage's parts."""
    threads: int | None = None


def run_pass(job: SignalsJob, worker: WorkerContext) -> dict[str, Any]:
    """Run the pass → the summary for the manifest. Raises NonFiniteScore on all ranks."""
    if job.threads:
        torch.set_num_threads(job.threads)
    model = load_kept(job.model_config, job.model, job.model_files, job.tokenizer, job.seed).to(worker.device)
    loss, autocast = ResponseLoss(model), autocast_for(worker.device, job.model_config.precision)
    num_embeddings = model.get_input_embeddings().num_embeddings
    batching = choose_batching(
        model, loss, pad_id=pad_token_id_of(job.tokenizer, num_embeddings), device=worker.device, autocast=autocast,
        agree=lambda yes: all(worker.all_gather(yes)),
    )  # fmt: skip
    value_of = _value(job, loss, batching, num_embeddings, worker.device, autocast)
    there = set()
    if worker.rank == 0:
        worker.emit(event="ready", step=0)
        there = {entry.name for entry in job.out.list()}
    there, rows_of = worker.broadcast(there), dict(job.parts)
    missing = [part for part, _ in job.parts if part_name(part) not in there]
    mine = share_of_parts(missing, rows_of, worker.rank, worker.num_workers) if missing else []
    fault = ""
    try:
        _pass(job, worker, value_of, mine)
    except NonFiniteScore as error:
        fault = str(error)  # raised on every rank below, because the others would wait for one that stopped alone
    faults = [f for f in worker.all_gather(fault) if f]
    if faults:
        raise NonFiniteScore(faults[0])
    digests = {}
    for part, _ in job.parts[worker.rank :: worker.num_workers]:
        table = job.out.read_table(part_name(part))
        digests[part] = (table.num_rows, columns_digest(table))
    gathered = worker.all_gather((digests, job.out.take_written()))
    found = {part: of for share, _ in gathered for part, of in share.items()}
    return {
        "parts": [(part, *found[part]) for part in sorted(found)],
        "written": [file for _, files in gathered for file in files],
        "device": device_name(worker.device),
        "peak_memory_bytes": peak_memory_bytes(worker.device),
    }


def _value(
    job: SignalsJob,
    loss: ResponseLoss,
    batching: Batching,
    num_embeddings: int,
    device: torch.device,
    autocast: Callable[[], Any],
) -> Callable[[Examples], dict[str, np.ndarray]]:
    """The function that computes examples → column → (n,) or (n, d) floats."""
    how: dict[str, Any] = {"tokens_per_batch": job.tokens_per_batch, "device": device, "autocast": autocast}
    if job.column == SCORES:
        score = Scorer(loss, batching, **how, section=job.model_config.section)

        def scores(examples: Examples) -> dict[str, np.ndarray]:
            found = score(examples)
            return {LOSS: found.losses, **found.signals}

        return scores
    if job.column != LOSS_UNCONDITIONAL:
        embed = Embedder(job.column, loss, batching, **how, dim=job.dim, seed=job.seed)
        return lambda examples: {job.column: embed(examples)}
    known = (job.tokenizer.bos_token_id, job.tokenizer.eos_token_id)
    start = next((one for one in known if one is not None and one < num_embeddings), None)
    if start is None:
        raise ModelError(
            f"the loss without the prompt needs a token that begins a response, but the {job.model_config.section} has "
            "neither BOS nor EOS among its embeddings; set one in its tokenizer_config.json"
        )
    scorer = Scorer(loss, batching, **how, section=job.model_config.section)
    return lambda examples: {LOSS_UNCONDITIONAL: scorer(without_prompts(examples, start)).losses}


def _pass(
    job: SignalsJob, worker: WorkerContext, value_of: Callable[[Examples], dict[str, np.ndarray]], parts: list[int]
) -> None:
    rows_of = dict(job.parts)
    units = group_parts(parts, rows_of, _UNIT_ROWS)
    for unit, examples in zip(units, worker.stream(job.tokens, units), strict=True):
        start = 0
        for part in unit:
            mine = examples.take(np.arange(start, start + rows_of[part]))
            start += rows_of[part]
            job.out.write_table(
                part_name(part), _table(mine, value_of(mine), job.model_config.section), compression="zstd"
            )
            worker.emit(event="scored", examples=rows_of[part])


def _table(examples: Examples, columns: dict[str, np.ndarray], section: str) -> pa.Table:
    """Build a table with one row per example: sequences are weighted by their response tokens, minimum probabilities
    take the minimum, and embeddings are normalised again.

    Raises:
        NonFiniteScore: a value is not finite; the message names the examples.
    """
    first = first_rows(examples.ids)
    stored = [array_to_ids(examples.ids[first])]
    for column, values in columns.items():
        wrong = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if len(wrong):
            shown = ", ".join(array_to_hex(examples.ids[wrong[:10]]))
            raise NonFiniteScore(
                f"{len(wrong)} values of {column} are not finite (examples {shown}); "
                f"no selection could use them. The {section} has diverged or overflows: lower "
                f"{section}.learning_rate, or set {section}.precision=fp32"
            )
        stored.append(_stored(_of_examples(examples, column, values, first)))
    return pa.table(stored, names=["example_id", *columns])


def _of_examples(examples: Examples, column: str, values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Aggregate values of sequences (n,) or (n, d) to their examples, whose first rows are given."""
    if len(first) == len(examples):
        return values
    if column == MIN_PROBABILITY:
        return np.minimum.reduceat(values, first)
    counts = loss_counts(examples.mask, examples.offsets)
    if column == LOSS_UNCONDITIONAL:  # after a token that begins the response, its first one has a loss too
        counts = counts + examples.mask[examples.offsets[:-1]]
    means = mean_over_sequences(values.reshape(len(values), -1), counts, first)
    if values.ndim == 2:
        means = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-30)
    return means.reshape(len(first), *values.shape[1:])


def _stored(values: np.ndarray) -> pa.Array:
    """The values as stored: float32, but embeddings as float16."""
    if values.ndim == 1:
        return pa.array(values.astype(np.float32))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float16).reshape(-1)), values.shape[1])
