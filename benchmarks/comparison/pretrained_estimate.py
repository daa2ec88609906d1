"""Estimate the cost of a comparison with a pretrained model on an H100: tokens, floating-point operations, minutes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from comparison.training import Work
from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.flops import ModelShape

PEAK = 989e12
"""FLOP/s of an H100 in bf16, according to its data sheet."""
TRAINING, SCORING = 0.088, 0.13
"""Utilisations that gpu.py measured with Pythia-70M's shape, packed, at 65,536 tokens per micro-batch."""
DECODING_SECONDS = 0.025
"""Duration of a decoding step, whatever the batch size: the host launches the kernels of 30 layers. Assumed."""
OTHER_SECONDS = 1.5
"""Time per arm for copying the weights and grading. Assumed."""


@dataclass(frozen=True)
class Estimate:
    corpus: Work
    """Cost of one epoch of training on the corpus."""
    examples: int
    args: argparse.Namespace

    @staticmethod
    def of(model: Any, examples: Examples, args: argparse.Namespace) -> Estimate:
        return Estimate(Work.of_training(ModelShape.of(model), examples), len(examples), args)

    def arm(self, budget: float) -> Work:
        """Return the cost of training one target."""
        share = budget * self.args.epochs
        if self.args.steps is not None and budget:
            share = self.args.steps * self.args.batch / self.examples
        return Work(round(self.corpus.tokens * share), round(self.corpus.flops * share))

    def proxy(self) -> tuple[float, float]:
        """Return the FLOPs of the proxy's training, and of its passes over the corpus: the snapshots, three kinds of
        embeddings, and the responses without their prompts."""
        return self.corpus.flops * self.args.proxy_epochs, self.corpus.flops / 3 * (self.args.snapshots + 4)

    def text(self, budgets: Sequence[float], num_proxies: int) -> str:
        arms = [self.arm(budget) for budget in budgets]
        tokens, flops = sum(arm.tokens for arm in arms), sum(arm.flops for arm in arms)
        training, passes = self.proxy()
        asking = len(budgets) * (self.args.max_new_tokens * DECODING_SECONDS + OTHER_SECONDS)
        proxies = num_proxies * (training / TRAINING + passes / SCORING) / PEAK
        seconds = flops / TRAINING / PEAK + proxies + asking
        return (
            f"{len(budgets)} arms left: {tokens / 1e6:,.1f} million tokens, {flops / 1e15:,.2f} PFLOP of training, and "
            f"{num_proxies} proxies of {(training + passes) / 1e15:,.2f} PFLOP each. On an H100 this takes about "
            f"{seconds / 60:,.0f} minutes: training {flops / TRAINING / PEAK / 60:,.0f}, proxies {proxies / 60:,.0f}, "
            f"questions {asking / 60:,.0f}"
        )
