"""One rank of the ZeRO tests: runs the cases of a JSON file, writes what it saw. Started by test_zero.py, without Ray.

Usage: zero_worker.py CASES.json RANK NUM_WORKERS PORT OUT
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from s2l_ray.config.target import LoraConfig, TargetConfig
from s2l_ray.data.token_examples import Examples
from s2l_ray.lm import response_loss, zero_checkpoint
from s2l_ray.lm.adapters import add_adapters
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.step import Stepper
from s2l_ray.testing.tiny import random_examples, random_model

CPU = torch.device("cpu")
TOTAL_STEPS = 8
SHARD_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
"""DeepSpeed leaves parameters below 1e5 elements whole: all of a tiny model's."""


@dataclass
class Case:
    """One training run, or a part of one."""

    name: str
    shape: str = "llama"
    stage: int = 0
    """0: TorchEngine."""
    start: int = 0
    stop: int = TOTAL_STEPS
    lora: bool = False
    offload: str = "none"
    nvme_path: str | None = None
    precision: str = "fp32"
    send_bf16: bool = False
    user: dict[str, Any] = field(default_factory=dict)
    """DeepSpeed's configuration by the user."""
    recompute: bool = False
    pack: bool = True
    shard_all: bool = True
    chunk_elements: int = 2**23
    learning_rate: float = 3e-3
    pretrained: str | None = None
    """Folder of the model, which is built in shards."""
    load_from: str | None = None
    """Folder with the files of all workers."""
    save_at: int | None = None
    save_to: str | None = None
    """Each worker writes into a folder of its own below it, as on machines of their own."""
    evaluate_at: list[int] = field(default_factory=list)
    overflow_at: int | None = None
    """Before this step comes an update whose gradient is infinite on one worker."""


def batch_of(step: int) -> Examples:
    """Three batches in turn: of different numbers of micro-batches, and of one that leaves a worker without work."""
    return random_examples([7, 12, 1][step % 3], seed=step % 3)


def config_of(case: Case) -> TargetConfig:
    return TargetConfig(
        model="unused", learning_rate=case.learning_rate, max_length=100, tokens_per_microbatch=300, max_grad_norm=1.0,
        weight_decay=0.1, warmup_share=0.2, offload_optimizer=case.offload,  # type: ignore[arg-type]
        nvme_path=case.nvme_path,
    )  # fmt: skip


def prepared(model: Any, case: Case) -> Any:
    if case.lora:
        add_adapters(model, LoraConfig(rank=4, alpha=32), seed=0)
    if case.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def engine_of(case: Case, num_workers: int) -> Any:
    config = config_of(case)
    if case.stage == 0:
        from s2l_ray.lm.engine import TorchEngine

        model, bf16 = prepared(random_model(case.shape), case), case.precision == "bf16"
        return TorchEngine(model, config, CPU, num_workers, bf16=bf16, send_bf16=case.send_bf16)
    from s2l_ray.lm.zero import ZeroEngine, sharded_build
    from s2l_ray.lm.zero_config import make_zero_config

    precision: Any = case.precision
    user = case.user | (SHARD_ALL if case.shard_all else {})
    ds_config = make_zero_config(config, case.stage, precision, num_workers, config.max_grad_norm, user=user)
    if case.pretrained is None:
        model = prepared(random_model(case.shape), case)
    else:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        with sharded_build(ds_config):
            model = AutoModelForCausalLM.from_pretrained(case.pretrained, dtype=dtype)
            assert all(p.numel() == 0 for p in model.parameters())
            prepared(model, case)
    return ZeroEngine(model, config, CPU, num_workers, ds_config)


def evaluate(engine: Any, batching: Batching) -> list[float]:
    """The mean loss of a fixed batch, and the share of hits: outside of training, every worker the same."""
    engine.loss.eval()
    batch = batching.batch(random_examples(3, seed=99), np.arange(3))
    with torch.no_grad():  # in inference mode, weights that ZeRO-3 keeps whole would be inference tensors ever after
        _, nll, hits = engine.loss(batch, want_top1=True)
        _, again, _ = engine.loss(batch)
    torch.testing.assert_close(nll, again)
    return [nll.mean().item(), hits.float().mean().item()]


def overflow(engine: Any, batching: Batching, rank: int) -> bool:
    """→ an update with an infinite gradient on worker 0 gives infinity and changes nothing."""
    before = engine.whole_weights()
    batch = batching.batch(batch_of(0), np.arange(3))
    with engine.micro_batch(last=True):
        total, _ = engine.forward(batch)
        engine.backward(total * (float("inf") if rank == 0 else 1.0))
    norm, after = engine.update(1e-2), engine.whole_weights()
    return norm == float("inf") and (rank > 0 or all(torch.equal(before[n], after[n]) for n in before))


def run_case(case: Case, rank: int = 0, num_workers: int = 1) -> dict[str, Any]:
    response_loss.CHUNK_ELEMENTS["cpu"] = case.chunk_elements
    zero_checkpoint.FILE_BYTES = 20_000  # several files a worker
    engine = engine_of(case, num_workers)
    if case.load_from:
        engine.load(Path(case.load_from))
    batching = choose_batching(engine.loss.model, engine.loss, pad_id=0, device=CPU, pack=case.pack)
    assert batching.packed == case.pack
    stepper = Stepper(
        engine, config_of(case), total_steps=TOTAL_STEPS, seed=0, batching=batching, device=CPU,
        autocast=contextlib.nullcontext, rank=rank, num_workers=num_workers,
    )  # fmt: skip
    seen: dict[str, Any] = {"losses": [], "norms": [], "evaluations": {}, "overflow_refused": None}
    for step in range(case.start, case.stop):
        if step in case.evaluate_at:
            seen["evaluations"][step] = evaluate(engine, batching)
        if step == case.overflow_at:
            seen["overflow_refused"] = overflow(engine, batching, rank)
        if step == case.save_at:
            folder = Path(str(case.save_to)) / f"rank{rank}"
            folder.mkdir(parents=True)
            engine.save(folder)
        result = stepper.step(step, batch_of(step))
        seen["losses"].append(result.loss_nats)
        seen["norms"].append(result.grad_norm)
    seen["evaluations"]["end"] = evaluate(engine, batching)
    seen["whole"] = engine.whole_weights()
    return seen


def main() -> None:
    cases, rank, num_workers, port, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
    os.environ.update(DS_ACCELERATOR="cpu", LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=num_workers)
    results = {}
    for fields in json.loads(Path(cases).read_text()):
        case = Case(**fields)
        started = time.perf_counter()
        print("case", case.name, flush=True)
        results[case.name] = run_case(case, rank, num_workers)
        print(f"done in {time.perf_counter() - started:.1f} s", flush=True)
    torch.save(results, Path(out) / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
