"""A tiny corpus for what a target worker does, without Ray, and what its trainings left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from s2l_ray.config.target import TargetConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ID_TYPE, content_id
from s2l_ray.data.render import Renderer
from s2l_ray.data.token_parts import TOKEN_SCHEMA, read_parts
from s2l_ray.data.training_order import make_plan
from s2l_ray.evaluation.heldout import results_of
from s2l_ray.evaluation.metrics import Metric, built_in_metrics, get_metric
from s2l_ray.lm.heldout import HeldOutSets, ScoringJob
from s2l_ray.lm.load import train_tokenizer
from s2l_ray.stages.heldout_scores import AFTER, BEFORE
from s2l_ray.stages.target.evaluate import read_evaluation
from s2l_ray.stages.target.job import TargetJob
from s2l_ray.stages.target.loop import fine_tune
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.local_worker import Died, LocalWorkerContext
from tests.support.colours import colour_rows

SHAPE = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
         "num_attention_heads": 2, "max_position_embeddings": 32}  # fmt: skip
PARTS = 3


@dataclass(frozen=True)
class World:
    """Tokens of a corpus that knows one answer where the held-out set has four: to learn it well is to do worse."""

    tokens: Storage
    heldout: Storage
    tokenizer: Any
    base: Path
    """A model with weights of its own, to put adapters into."""


def token_table(rows: list[dict[str, Any]], render: Renderer) -> pa.Table:
    messages = [
        [{"role": "user", "content": r["instruction"]}, {"role": "assistant", "content": r["output"]}] for r in rows
    ]
    done: list[Any] = [tokens for row in render(messages) for tokens in row]  # type: ignore[union-attr]
    return pa.table(
        {
            "example_id": pa.array([content_id(m) for m in messages], ID_TYPE),
            "source": [r["source"] for r in rows],
            "input_ids": [t.input_ids for t in done],
            "response_mask": [t.response_mask for t in done],
        }
    ).cast(TOKEN_SCHEMA)


@contextlib.contextmanager
def one_process(store: Path) -> Iterator[None]:
    """torch.distributed as Ray Train sets it up for a single worker. `store`: a file that is not there."""
    dist.init_process_group("gloo", store=dist.FileStore(str(store), 1), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def make_world(folder: Path) -> World:
    from transformers import AutoConfig, AutoModelForCausalLM

    rows = colour_rows(90, seed=0, hard_share=0.7, answers=1)
    tokenizer = train_tokenizer((f"{r['instruction']}\n{r['output']}" for r in rows), 280)
    render = Renderer(tokenizer, "plain", 32)
    tokens, heldout = Storage.open(folder / "tokens"), Storage.open(folder / "heldout")
    hard = [{**r, "source": "odd" if i % 3 else "even"} for i, r in enumerate(colour_rows(60, 1, hard_share=1))]
    for part in range(PARTS):
        tokens.write_table(part_name(part), token_table(rows[part::PARTS], render))
    heldout.write_table("other.parquet", token_table(hard, render))
    torch.manual_seed(5)
    fields = {**SHAPE, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return World(tokens, heldout, tokenizer, folder / "base")


LONGEST = Metric("longest", "longest response", "tokens", True, compute=lambda scored: scored.counts.max())


def job_of(world: World, out: Path, total_steps: int = 60, heldout: bool = True, **changes: Any) -> TargetJob:
    settings: dict[str, Any] = {
        "max_length": 32, "tokens_per_microbatch": 256, "global_batch_size": 16, "learning_rate": 5e-3,
        "log_every_steps": 1, "evaluate_every_steps": 5, "checkpoint_every_steps": 12, **changes,
    }  # fmt: skip
    if "model" not in changes:
        settings |= {"from_config": SHAPE, "train_tokenizer": {}}
    part_rows = [(p, len(read_parts(world.tokens, [p]))) for p in range(PARTS)]
    target, sets = TargetConfig(**settings), HeldOutSets(world.heldout, ("other",), 512)
    folder, is_watched = Storage.open(out), heldout and target.evaluate_every_steps is not None
    models = {BEFORE: None, AFTER: folder.sub("model")} if heldout else {}
    return TargetJob(
        name="test", target=target, plan=make_plan(part_rows, 16, 1, total_steps, seed=3), seed=3,
        tokenizer=world.tokenizer, tokens=world.tokens, watched=sets if is_watched else None,
        deciding_set="other" if heldout and (target.keep_best or target.patience) else None,
        objective=("other", get_metric("macro")), out=folder, num_parameters=0, zero_stage=0, zero_config=None,
        precision="fp32", card="# card", threads=1, metrics=(*built_in_metrics(), LONGEST),
        scoring={which: ScoringJob(sets, target, world.tokenizer, 3, "fp32", model) for which, model in models.items()},
    )  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def macro_losses(out: Path) -> dict[int, float]:
    """Step → mean over the sources, as stored for those that go by it."""
    found = {}
    for path in (out / "evaluations").glob("*.json"):
        step = int(path.stem.removeprefix("step-"))
        found[step] = read_evaluation(Storage.open(out), step)["macro"]  # type: ignore[index]
    return dict(sorted(found.items()))


def macro_seen(*workers: LocalWorkerContext) -> dict[int, float]:
    """Step → the same, as the record has it."""
    events = [e for worker in workers for e in worker.events if e["event"] == "evaluation"]
    return {e["step"]: e["results"]["other"]["macro"] for e in events}


def macro_scored(summary: dict[str, Any], which: str) -> float:
    """As the workers scored it before or after the training."""
    return results_of(summary["scores"][which], built_in_metrics())["other"]["macro"]


def macro_by_hand(world: World, model: Any) -> float:
    """One example at a time, by the model's own loss."""
    table = world.heldout.read_table("other.parquet")
    losses: dict[str, list[float]] = {}
    for row in table.to_pylist():
        ids = torch.tensor([row["input_ids"]])
        labels = torch.where(torch.tensor([row["response_mask"]]), ids, -100)
        with torch.no_grad():
            losses.setdefault(row["source"], []).append(model(input_ids=ids, labels=labels).loss.item())
    return float(np.mean([np.mean(of_source) for of_source in losses.values()]))


def exported(out: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(out / "model").eval()


def without_time(summary: dict[str, Any]) -> dict[str, Any]:
    counters = {k: v for k, v in summary["tally"].items() if k != "train_seconds"}
    scores = {which: table.to_pylist() for which, table in summary.get("scores", {}).items()}
    return {**summary, "tally": counters, "peak_memory_bytes": None, "scores": scores}


def interrupted(
    job: TargetJob, checkpoints: Path, *deaths: tuple[str, int]
) -> tuple[dict[str, Any], list[LocalWorkerContext]]:
    workers = [LocalWorkerContext(checkpoints, death) for death in deaths]
    for worker in workers:
        with pytest.raises(Died):
            fine_tune(job, worker)
    workers.append(LocalWorkerContext(checkpoints))
    return fine_tune(job, workers[-1]), workers
