"""One optimiser step of the proxy, and the learning-rate schedule. Plain torch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from s2l_ray.config.schema import ProxyConfig
from s2l_ray.corpus.example_id import array_to_hex
from s2l_ray.lm.batches import collate, token_budget_batches
from s2l_ray.lm.response_loss import ResponseLoss, mean_per_example
from s2l_ray.proxy.plan import deal
from s2l_ray.tokens.examples import Examples


class NonFiniteLoss(RuntimeError):
    """Training stopped before an update that would have ruined the weights."""


@dataclass(frozen=True)
class StepResult:
    loss_nats: float
    """Mean over the response tokens of the global batch."""
    grad_norm: float
    num_tokens: int
    num_response_tokens: int


def learning_rate(step: int, total_steps: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up, cosine decay to 0; `step` counts from 0. A function of the step alone: nothing to restore."""
    warmup = round(total_steps * warmup_share)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def make_optimizer(model: nn.Module, config: ProxyConfig) -> torch.optim.AdamW:
    """Weight decay on matrices only, as usual."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    on_gpu = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=on_gpu)


class Stepper:
    """Runs optimiser steps on this worker's share of the global batches.

    Gradients are those of the mean loss over all response tokens of the global batch, whatever the number of workers
    and micro-batches.
    """

    def __init__(
        self,
        loss_module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: ProxyConfig,
        *,
        total_steps: int,
        seed: int,
        pad_id: int,
        device: torch.device,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]],
        rank: int = 0,
        num_workers: int = 1,
    ) -> None:
        self.module, self.optimizer, self.config = loss_module, optimizer, config
        self.total_steps, self.seed, self.pad_id = total_steps, seed, pad_id
        self.device, self.autocast, self.rank, self.num_workers = device, autocast, rank, num_workers

    def step(self, step: int, global_batch: Examples) -> StepResult:
        """Raises NonFiniteLoss on every worker alike, before the update."""
        self.module.train()
        # Dropout's randomness is a function of (seed, step, worker): no RNG state need be restored.
        torch.manual_seed(hash((self.seed, step, self.rank)) % 2**63)
        lr = learning_rate(step, self.total_steps, self.config.learning_rate, self.config.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        mine = global_batch.take(deal(global_batch.lengths, self.num_workers)[self.rank])
        total = _count_loss_tokens(global_batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum, suspects = self._backward(mine, total)
        grad_norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.max_grad_norm)
        both = torch.stack([loss_sum.to(torch.float64), grad_norm.to(torch.float64)])
        if self.num_workers > 1:
            dist.all_reduce(both[:1])
        if not torch.isfinite(both).all():
            self._stop(step, suspects, both)
        self.optimizer.step()
        return StepResult(float(both[0]) / total, float(grad_norm), int(global_batch.offsets[-1]), total)

    def _backward(self, mine: Examples, total: int) -> tuple[torch.Tensor, list[str]]:
        loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        suspects: list[str] = []
        micro = list(token_budget_batches(mine.lengths, self.config.tokens_per_microbatch))
        if not micro:  # fewer examples than workers: take part in the all-reduce with a gradient of 0
            micro = [np.zeros(0, dtype=np.int64)]
        for i, rows in enumerate(micro):
            last = i == len(micro) - 1
            sync = contextlib.nullcontext() if last or self.num_workers == 1 else self.module.no_sync()  # type: ignore[operator]
            with sync:
                nll = self._nll(mine, rows, suspects)
                # DDP averages over workers; the mean is over the tokens of all of them.
                (nll.sum() * (self.num_workers / total)).backward()
                loss_sum += nll.detach().sum().double()
        return loss_sum, suspects

    def _nll(self, mine: Examples, rows: np.ndarray, suspects: list[str]) -> torch.Tensor:
        if len(rows) == 0:
            empty = torch.zeros((1, 1), dtype=torch.int64, device=self.device)
            one = torch.zeros(1, dtype=torch.int64, device=self.device)
            return self.module(empty, one, one) * 0.0
        batch = collate(mine, rows, self.pad_id).to(self.device)
        with self.autocast():
            nll = self.module(batch.input_ids, batch.positions, batch.targets)
        if not torch.isfinite(nll.detach().sum()):
            mean, _ = mean_per_example(nll.detach(), batch)
            wrong = np.flatnonzero(~np.isfinite(mean.cpu().numpy()))
            suspects += array_to_hex(mine.ids[rows[wrong]])
        return nll

    def _stop(self, step: int, suspects: list[str], both: torch.Tensor) -> None:
        gathered: list[list[str]] = [[] for _ in range(self.num_workers)]
        if self.num_workers > 1:
            dist.all_gather_object(gathered, suspects)
        else:
            gathered = [suspects]
        ids = [i for worker in gathered for i in worker]
        where = f"examples {', '.join(ids[:20])}" if ids else "no single example: the gradients overflowed"
        raise NonFiniteLoss(
            f"loss {float(both[0])}, gradient norm {float(both[1])} at optimiser step {step} ({where}); the update was "
            "not made, the weights are those of the step before. Lower proxy.learning_rate, raise proxy.warmup_share, "
            "or take those examples out"
        )


def _count_loss_tokens(examples: Examples) -> int:
    """Response tokens that have a loss: a response token that opens its example has none."""
    return int(examples.mask.sum() - examples.mask[examples.offsets[:-1]].sum())


def autocast_for(device: torch.device, precision: str) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """bf16 autocast on GPUs unless fp32 is asked for; nothing on CPUs."""
    if precision == "fp32" or (precision == "auto" and device.type == "cpu"):
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def wrap(model: Any, device: torch.device, num_workers: int, compile: bool) -> tuple[ResponseLoss, nn.Module]:
    """(loss module for scoring, the same under DDP for training)."""
    loss = ResponseLoss(model.to(device))
    if compile:
        model.base_model.compile(dynamic=True)
    if num_workers == 1:
        return loss, loss
    from torch.nn.parallel import DistributedDataParallel

    ids = [device.index] if device.type == "cuda" else None
    return loss, DistributedDataParallel(loss, device_ids=ids, gradient_as_bucket_view=True)
