"""Optimiser steps of the proxy or a target. Plain torch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.data.example_id import array_to_hex
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.training_order import balance_by_length
from s2l_ray.errors import UserError
from s2l_ray.lm.batches import Batch, Batching
from s2l_ray.lm.engine import Engine
from s2l_ray.lm.response_loss import mean_per_example
from s2l_ray.lm.schedule import learning_rate


class DivergedError(UserError, RuntimeError):
    """Error for losses or gradients that are not finite, on all workers alike; restarting would not help."""


class NonFiniteLoss(DivergedError):
    """Error that stops training before an update that would have ruined the weights."""


@dataclass(frozen=True)
class ExampleLosses:
    """Losses of the examples in one worker's share of the global batch."""

    rows: np.ndarray
    """(n,) int64, rows in the global batch."""
    losses: np.ndarray
    """(n,) float32, mean over the response tokens (nats), before the update and including any dropout."""
    counts: np.ndarray
    """(n,) int32, response tokens."""


@dataclass(frozen=True)
class StepResult:
    """Figures of one optimiser step."""

    loss_nats: float
    """Mean over the response tokens of the global batch."""
    grad_norm: float
    num_tokens: int
    num_response_tokens: int
    examples: ExampleLosses | None = None
    """Losses of this worker's share, if they are recorded."""


class Stepper:
    """Runs optimiser steps on this worker's share of the global batches.

    Gradients are those of the mean loss over all response tokens of the global batch, whatever the number of workers
    and micro-batches. If examples have weights, each token's loss is multiplied by its example's weight, and the sum is
    still divided by the number of tokens, so weights with mean 1 leave the effective step unchanged on average.
    """

    def __init__(
        self,
        engine: Engine,
        config: TrainedModelConfig,
        *,
        total_steps: int,
        seed: int,
        batching: Batching,
        device: torch.device,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        rank: int = 0,
        num_workers: int = 1,
        record: bool = False,
    ) -> None:
        """Create a stepper; with `record`, steps also return the losses of their examples."""
        self.engine, self.config = engine, config
        self.total_steps, self.seed, self.batching = total_steps, seed, batching
        self.device, self.autocast, self.rank, self.num_workers = device, autocast, rank, num_workers
        self.record = record

    def step(self, step: int, global_batch: Examples) -> StepResult:
        """Run one optimiser step.

        Raises:
            NonFiniteLoss: the loss or the gradient norm is not finite; on all workers alike, before the update.
        """
        self.engine.loss.train()
        # Dropout's randomness is a function of (seed, step, worker), so no RNG state has to be restored.
        torch.manual_seed(hash((self.seed, step, self.rank)) % 2**63)
        lr = learning_rate(step, self.total_steps, self.config.learning_rate, self.config.warmup_share)
        total = _count_loss_tokens(global_batch)
        loss_sum, losses = self._passes(global_batch, total)
        grad_norm = self.engine.clip(self.config.max_grad_norm)
        means = [mean_per_example(of.nll, of.batch).float() for of in losses] if self.record else []
        both = torch.stack([loss_sum, loss_sum.new_zeros(()) if grad_norm is None else grad_norm.double()])
        if self.num_workers > 1:
            dist.all_reduce(both[:1])
        loss, norm = both.tolist()  # the step's one wait for the device
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._stop(step, _nonfinite_ids(losses), loss, norm)
        examples = _example_losses(losses, torch.cat(means)) if means else None
        late = self.engine.update(lr)  # engines that know the norm only now do not update if it is not finite
        norm = norm if late is None else late
        if not math.isfinite(norm):
            self._stop(step, _nonfinite_ids(losses), loss, norm)
        return StepResult(loss / total, norm, int(global_batch.offsets[-1]), total, examples)

    def _passes(self, global_batch: Examples, total: int) -> tuple[torch.Tensor, list[_Losses]]:
        """Run forward and backward passes over this worker's share; return the sum and the micro-batches' losses."""
        shares = balance_by_length(global_batch.lengths, self.num_workers)
        budget = self.config.tokens_per_microbatch
        mine = global_batch.take(shares[self.rank])
        micro = self.batching.plan(mine.lengths, budget)
        passes = max(1, len(micro))
        if self.engine.lockstep:
            # Every worker has the whole global batch, so it can compute the number of the others' passes.
            passes = max(passes, *(len(self.batching.plan(global_batch.lengths[s], budget)) for s in shares))
        # A worker with fewer micro-batches participates with a gradient of 0.
        micro += [np.zeros(0, dtype=np.int64)] * (passes - len(micro))
        loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        losses = []
        for i, rows in enumerate(micro):
            batch = self.batching.batch(mine, rows).to(self.device)
            with self.engine.micro_batch(last=i == passes - 1):
                with self.autocast():
                    total_nll, nll = self.engine.forward(batch)
                # Engines average over workers, but the mean is over the tokens of all workers.
                self.engine.backward(total_nll * (self.num_workers / total))
            loss_sum += total_nll.detach().double()
            losses.append(_Losses(batch, nll, mine.ids[rows], shares[self.rank][rows]))
        return loss_sum, losses

    def _stop(self, step: int, nonfinite_ids: list[str], loss: float, norm: float) -> None:
        gathered: list[list[str]] = [nonfinite_ids]
        if self.num_workers > 1:
            gathered = [[] for _ in range(self.num_workers)]
            dist.all_gather_object(gathered, nonfinite_ids)
        ids = [i for worker in gathered for i in worker]
        where = f"examples {', '.join(ids[:20])}" if ids else "not because of single examples: the gradients overflowed"
        here = self.config.section
        raise NonFiniteLoss(
            f"loss {loss}, gradient norm {norm} at optimiser step {step} ({where}); the update was not made, so the "
            f"weights are those of the previous step. Lower {here}.learning_rate, raise {here}.warmup_share, or remove "
            "those examples"
        )


@dataclass(frozen=True)
class _Losses:
    """Losses of a micro-batch."""

    batch: Batch
    nll: torch.Tensor
    """(R,) losses of its response tokens."""
    ids: np.ndarray
    """(B, 2) uint64, example ids, for the message if the step's sum is not finite."""
    rows: np.ndarray
    """(B,) rows in the global batch."""


def _example_losses(losses: list[_Losses], means: torch.Tensor) -> ExampleLosses:
    """Combine the micro-batches' losses; `means` (n,) are their examples' mean losses, in order."""
    counts = np.concatenate([of.batch.counts for of in losses])
    return ExampleLosses(np.concatenate([of.rows for of in losses]), means.cpu().numpy(), counts.astype(np.int32))


def _nonfinite_ids(losses: list[_Losses]) -> list[str]:
    """Return the ids of examples whose loss is not finite."""
    found: list[str] = []
    for of in losses:
        wrong = np.flatnonzero(~np.isfinite(mean_per_example(of.nll, of.batch).cpu().numpy()))
        found += array_to_hex(of.ids[wrong])
    return found


def _count_loss_tokens(examples: Examples) -> int:
    """Count the response tokens that have a loss; a response token at the start of its example has none."""
    return int(examples.mask.sum() - examples.mask[examples.offsets[:-1]].sum())


def autocast_for(device: torch.device, precision: str) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Return a factory of autocast contexts: none for fp32, and for `auto` on CPUs; otherwise bf16."""
    if precision == "fp32" or (precision == "auto" and device.type == "cpu"):
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
