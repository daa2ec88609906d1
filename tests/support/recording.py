"""A proxy's training that records the losses of its epochs: the job, and one of several workers as a program.

    python -m tests.support.recording RANK WORKERS FOLDER DIES_AFTER

DIES_AFTER: optimiser step after which the process ends as if it were killed; -1: never.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist

from s2l_ray.artifacts.points import plan_points
from s2l_ray.config.schema import ProxyConfig, TrajectoriesConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.data.token_parts import TOKEN_SCHEMA
from s2l_ray.data.training_order import TrainPlan
from s2l_ray.lm.load import train_tokenizer
from s2l_ray.stages.proxy.job import ProxyJob
from s2l_ray.stages.proxy.loop import run_worker
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.local_worker import Died, LocalWorkerContext
from s2l_ray.testing.tiny import random_examples

PARTS = [(0, 24), (1, 24), (4, 24), (5, 17), (7, 9)]
NUM_EXAMPLES = sum(rows for _, rows in PARTS)
BATCH = 20
STEPS_PER_EPOCH = -(-NUM_EXAMPLES // BATCH)
PROXY: dict[str, Any] = {
    "from_config": {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "train_tokenizer": {"vocab_size": 280}, "max_length": 64, "epochs": 2, "global_batch_size": BATCH,
    "tokens_per_microbatch": 256, "render": "plain", "learning_rate": 3e-3, "log_every_steps": 1,
    "checkpoint_every_steps": 2,
}  # fmt: skip


def write_tokens(folder: Storage) -> None:
    """Parts of different sizes, one of whose examples is two sequences of one id."""
    for part, rows in PARTS:
        examples = random_examples(rows, seed=part, vocab=200, max_length=40)
        examples.ids[3] = examples.ids[2]
        cuts = list(zip(examples.offsets[:-1], examples.offsets[1:], strict=True))
        columns = {
            "example_id": array_to_ids(examples.ids),
            "source": pa.array([""] * rows),
            "input_ids": pa.array([examples.tokens[a:b].tolist() for a, b in cuts], pa.list_(pa.int32())),
            "response_mask": pa.array([examples.mask[a:b].tolist() for a, b in cuts], pa.list_(pa.bool_())),
        }
        folder.write_table(part_name(part), pa.table(columns).cast(TOKEN_SCHEMA))


def recording_job(folder: Path, source: str = "hybrid", steps: int | None = None, **proxy: Any) -> ProxyJob:
    """Two epochs of two windows each, whose borders lie within a batch; of `hybrid` two snapshots.

    Args:
        steps: optimiser steps, if not those of two epochs.
        proxy: settings to change.
    """
    tokens = Storage.open(folder / "tokens")
    if not tokens.exists(part_name(0)):
        write_tokens(tokens)
    config = ProxyConfig.model_validate(PROXY | proxy)
    plan = TrainPlan(tuple(PARTS), BATCH, steps or 2 * STEPS_PER_EPOCH, 0, window_rows=50)
    settings = {"source": source, "num_snapshots": 2 if source == "hybrid" else None, "tokens_per_batch": 1024}
    trajectories = TrajectoriesConfig.model_validate(settings)
    points = tuple(plan_points(trajectories, plan.total_steps, plan.steps_per_epoch))
    tokenizer = train_tokenizer(iter(["the quick brown fox jumps over the lazy dog"] * 9), 280)
    return ProxyJob(config, trajectories, plan, points, 0, tokenizer, tokens, Storage.open(folder / "out").recording())


class RecordingWorker(LocalWorkerContext):
    """One of several processes, or the only one; all of them share the folder of checkpoints."""

    def __init__(self, folder: Path, rank: int = 0, num_workers: int = 1, dies_after: int = -1) -> None:
        super().__init__(folder / "checkpoints")
        self.rank, self.num_workers, self._last = rank, num_workers, dies_after

    def emit(self, **event: Any) -> None:
        self.events.append(event)

    def notice(self, step: int) -> bool:
        if step == self._last:
            if self.num_workers == 1:
                raise Died
            self.all_gather(None)
            time.sleep(1)  # a process that is still in the call above would fail of the other's end
            os._exit(0)
        return False

    def broadcast(self, value: Any) -> Any:
        return self.all_gather(value)[0]

    def all_gather(self, value: Any) -> list[Any]:
        held = [value] * self.num_workers
        if self.num_workers > 1:
            dist.all_gather_object(held, value)
        return held

    def save(self, name: str, progress: dict[str, Any], write: Callable[[Path], None]) -> None:
        folder = self.checkpoints / name
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
        self.all_gather(None)
        if self.rank == 0:
            (folder / "progress.json").write_text(json.dumps(progress))
        self.all_gather(None)


def main() -> None:
    rank, num_workers, folder, dies_after = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_workers,
        timeout=datetime.timedelta(seconds=100),
    )  # fmt: skip
    run_worker(recording_job(folder), RecordingWorker(folder, rank, num_workers, dies_after))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
