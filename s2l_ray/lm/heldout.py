"""Score held-out sets with a model, while it trains and when it is finished. Plain torch, no Ray.

Both use `score_set`, so that a held-out loss means the same everywhere. A sequence's loss depends only on the weights
and the set, because batches are made from the whole set, however many workers share them.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from s2l_ray.config.target import TargetConfig
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.token_parts import to_examples
from s2l_ray.evaluation.heldout import score_table
from s2l_ray.lm.engine import device_name, peak_memory_bytes
from s2l_ray.lm.load import load_model
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.lm.score import NonFiniteScore, Scorer, Scores
from s2l_ray.lm.vocabulary import pad_token_id_of
from s2l_ray.lm.worker import Alone, Peers
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.scratch import scratch_folder


@dataclass(frozen=True)
class HeldOutSets:
    """Tokens of held-out sets."""

    folder: Storage
    names: tuple[str, ...]
    tokens_per_batch: int

    def read(self, name: str) -> tuple[Examples, np.ndarray]:
        """Read a set: its sequences, and (N,) names of their sources."""
        table = self.folder.read_table(f"{name}.parquet")
        return to_examples(table), table["source"].to_numpy(zero_copy_only=False)


@dataclass(frozen=True)
class ScoringJob:
    """Job to score held-out sets with a finished model; the same for all workers."""

    sets: HeldOutSets
    target: TargetConfig
    tokenizer: Any
    seed: int
    """Seed of random weights."""
    precision: str
    """fp32 or bf16."""
    model: Storage | None
    """Folder of the exported fine-tuned model; None: the model before training."""
    zero_config: dict[str, Any] | None = None
    """DeepSpeed's configuration for ZeRO-3, if no worker holds the whole model."""
    num_parameters: int = 0
    threads: int | None = None


_DIVERGED = "the target has diverged or overflows; lower target.learning_rate, or set target.precision=fp32"
_WRONG_BASE = "the model overflows before anything is trained; set target.precision=fp32, or correct its configuration"


def score_set(
    scorer: Scorer,
    worker: Peers,
    name: str,
    examples: Examples,
    sources: np.ndarray,
    why_not_finite: str = _DIVERGED,
) -> pa.Table:
    """Score one set on all workers; each of them gets its rows (evaluation.heldout.SCORE_SCHEMA).

    Raises:
        NonFiniteScore: a loss is not finite.
    """
    batches = scorer.plan(examples.lengths)
    # All workers make the same number of passes, because they fetch sharded weights together.
    empty = np.zeros(0, dtype=np.int64)
    batches += [empty] * (-len(batches) % worker.num_workers)
    own = scorer.score(examples, batches[worker.rank :: worker.num_workers], want_exact=True)
    scores: list[Scores] = worker.all_gather(own)
    order = np.argsort(np.concatenate([s.rows for s in scores]))
    losses, counts = (np.concatenate([getattr(s, c) for s in scores])[order] for c in ("losses", "counts"))
    exact = np.concatenate([s.exact for s in scores if s.exact is not None])[order]
    wrong = int((~np.isfinite(losses)).sum())
    if wrong:
        raise NonFiniteScore(f"{wrong} of {len(losses)} held-out losses ({name}) are not finite: {why_not_finite}")
    return score_table(name, examples.ids, sources, losses, counts, exact)


def score_model(job: ScoringJob, worker: Peers) -> pa.Table:
    """Score all sets of a job, and free the model afterwards; every worker must call it, and gets the rows.

    Raises:
        ModelError: the model cannot be loaded.
        NonFiniteScore: a loss is not finite.
    """
    if job.threads:
        torch.set_num_threads(job.threads)
    try:
        return _score_all(job, worker)
    finally:
        release_memory()


def score_models(jobs: dict[str, ScoringJob], worker: Peers) -> dict[str, Any]:
    """Score several models, one after another; every worker must call it.

    Returns:
        `tables` by job name (on rank 0), `device`, and `peak_memory_bytes` of all workers.
    """
    tables: dict[str, pa.Table] = {}
    for name, job in jobs.items():
        table = score_model(job, worker)
        tables |= {name: table} if worker.rank == 0 else {}
    memory = worker.all_gather(peak_memory_bytes(worker.device))
    return {"tables": tables, "device": device_name(worker.device), "peak_memory_bytes": memory}


class SetScorer:
    """Scores held-out sets one after another in its own process, and keeps a model for its next set.

    Args:
        device: `cpu` or `gpu`.
    """

    def __init__(self, device: str) -> None:
        self._alone = Alone(torch.device("cuda" if device == "gpu" else "cpu"))
        self._model: str | None = None
        self._scorer: Scorer | None = None

    def run(self, item: tuple[str, ScoringJob, str]) -> dict[str, Any]:
        """Score a set.

        Args:
            item: name of the model, its job, and name of the set.

        Returns:
            `table`, `device`, `peak_memory_bytes`.
        """
        model, job, name = item
        if job.threads:
            torch.set_num_threads(job.threads)
        if self._scorer is None or model != self._model:
            self._scorer, self._model = None, None
            release_memory()
            self._scorer, self._model = _scorer_of(job, self._alone), model
        table = _score_sets(job, self._scorer, self._alone, (name,))
        device = self._alone.device
        return {"table": table, "device": device_name(device), "peak_memory_bytes": peak_memory_bytes(device)}


def _score_all(job: ScoringJob, worker: Peers) -> pa.Table:
    return _score_sets(job, _scorer_of(job, worker), worker, job.sets.names)


def _score_sets(job: ScoringJob, scorer: Scorer, worker: Peers, names: tuple[str, ...]) -> pa.Table:
    why = _WRONG_BASE if job.model is None else _DIVERGED
    with torch.no_grad():
        return pa.concat_tables([score_set(scorer, worker, name, *job.sets.read(name), why) for name in names])


def _scorer_of(job: ScoringJob, worker: Peers) -> Scorer:
    with torch.no_grad():
        loss = _loss_of(job, worker)
        pad_id = pad_token_id_of(job.tokenizer, loss.model.get_input_embeddings().num_embeddings)
        batching = choose_batching(
            loss.model, loss, pad_id=pad_id, device=worker.device,
            agree=lambda yes: all(worker.all_gather(yes)), pack=job.target.attention == "auto",
        )  # fmt: skip
    return Scorer(loss, batching, tokens_per_batch=job.sets.tokens_per_batch, device=worker.device)


def release_memory() -> None:
    """Free the memory of unused models, whose modules refer to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _loss_of(job: ScoringJob, worker: Peers) -> ResponseLoss:
    dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
    if job.zero_config is None:
        return ResponseLoss(_load(job, dtype).requires_grad_(False).to(worker.device))
    from s2l_ray.lm.zero import sharded_build, sharded_loss

    zero_config = job.zero_config | {"train_batch_size": worker.num_workers}
    is_random = job.model is None and (job.target.from_config is not None or job.target.random_weights)
    with sharded_build(zero_config, job.num_parameters if is_random else None):
        model = _load(job, dtype)
    return sharded_loss(model, worker.device, zero_config)


def _load(job: ScoringJob, dtype: torch.dtype) -> Any:
    target = job.target
    attention = None if target.attention == "auto" else target.attention

    def before_training() -> Any:
        # Random weights are drawn in fp32, as for training; other data types would give different numbers.
        first = dtype if job.zero_config else torch.float32
        return load_model(target, job.tokenizer, job.seed, first, attention).to(dtype)

    if job.model is None:
        return before_training()
    with _local_folder(job.model) as folder:
        if target.lora is not None and target.lora.export == "adapter":
            import peft

            return peft.PeftModel.from_pretrained(before_training(), str(folder)).get_base_model()
        own = {"model": str(folder), "from_config": None, "random_weights": False, "revision": None, "gguf_file": None}
        return load_model(target.model_copy(update=own), job.tokenizer, job.seed, dtype, attention)


@contextlib.contextmanager
def _local_folder(model: Storage) -> Iterator[Path]:
    """Yield the model's folder on this machine, which is a copy if the model is in an object store."""
    if model.is_local:
        yield model.local_path()
        return
    with scratch_folder() as folder:
        for entry in model.list():
            Path(folder, entry.name).write_bytes(model.read_bytes(entry.name))
        yield folder
