"""Trains one model and scores with it, in bf16 on a GPU or in fp32 on a CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.data.curriculum import CurriculumPlan
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.training_order import TrainPlan, make_plan
from s2l_ray.lm.engine import TorchEngine
from s2l_ray.lm.flops import ModelShape
from s2l_ray.lm.load import load_model
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.score import Scorer, Scores
from s2l_ray.lm.step import Stepper
from s2l_ray.lm.vocabulary import pad_token_id_of

CPU = torch.device("cpu")
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Work:
    """Number of tokens processed, and of floating-point operations."""

    tokens: int = 0
    flops: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.flops + other.flops)

    @staticmethod
    def of_scoring(shape: ModelShape, examples: Examples) -> Work:
        return Work(int(examples.offsets[-1]), shape.forward_flops(*_counts(examples)))

    @staticmethod
    def of_training(shape: ModelShape, examples: Examples) -> Work:
        return Work(int(examples.offsets[-1]), shape.training_flops(*_counts(examples)))


def _counts(examples: Examples) -> tuple[int, int, int]:
    """Return the number of tokens and of response tokens, and the sum of squared lengths."""
    return int(examples.offsets[-1]), int(examples.mask.sum()), int((examples.lengths.astype(np.int64) ** 2).sum())


class Training:
    """One model in training; the caller decides when it takes its steps."""

    def __init__(
        self,
        config: TrainedModelConfig,
        tokenizer: Any,
        plan: TrainPlan | CurriculumPlan,
        seed: int,
        tokens_per_batch: int,
        *,
        device: torch.device = CPU,
        model: Any = None,
        record: bool = False,
    ) -> None:
        """Args: model: the model to train; None: load the one that the configuration names. record: return the losses
        of each step's examples."""
        self.model = load_model(config, tokenizer, seed) if model is None else model
        self.attention = self.model.config._attn_implementation
        engine = TorchEngine(self.model, config, device, 1, bf16=device.type == "cuda")
        pad_id = pad_token_id_of(tokenizer, self.model.get_input_embeddings().num_embeddings)
        batching = choose_batching(self.model, engine.loss, pad_id=pad_id, device=device)
        self.plan, self.train_seconds, self.work = plan, 0.0, Work()
        self.shape = ModelShape.of(self.model)
        self._stepper = Stepper(
            engine, config, total_steps=plan.total_steps, seed=seed, batching=batching, device=device, record=record
        )
        self.scorer = Scorer(engine.loss, batching, tokens_per_batch=tokens_per_batch, device=device)

    def steps(self, examples: Examples) -> Iterator[tuple[int, Array, Array]]:
        """Yield (steps done, ids (n,), losses (n,)) after each step; ids and losses are its examples', if recorded."""
        windows = (examples for _ in self.plan.windows_from(0))
        for step, batch in self.plan.batches(0, windows):
            started = time.perf_counter()
            seen = self._stepper.step(step, batch).examples
            self.train_seconds += time.perf_counter() - started
            self.work += Work.of_training(self.shape, batch)
            rows = np.zeros(0, np.int64) if seen is None else seen.rows
            yield step + 1, batch.ids[rows, 1].astype(np.int64), np.zeros(0) if seen is None else seen.losses

    def finish(self, examples: Examples) -> Training:
        """Run all steps."""
        for _ in self.steps(examples):
            pass
        return self

    def expected_flops(self, examples: Examples) -> float:
        """Return the floating-point operations that all steps on these examples will take."""
        of_one = Work.of_training(self.shape, examples).flops / len(examples)
        return of_one * self.plan.global_batch_size * self.plan.total_steps

    def scores(self, examples: Examples) -> Scores:
        """Return each example's loss, and whether its whole response is the model's first choice, in the given
        order."""
        found = self.scorer.score(examples, self.scorer.plan(examples.lengths), want_exact=True)
        assert found.exact is not None
        order = np.argsort(found.rows)
        return Scores(found.rows[order], found.losses[order], found.counts[order], found.exact[order])

    def for_generation(self) -> Any:
        """Return the model with the attention that it generates with: packed attention has no cache."""
        self.model.set_attn_implementation(self.attention)
        return self.model


def whole_corpus_plan(num: int, model: TrainedModelConfig, max_steps: int | None, seed: int) -> TrainPlan:
    """Plan training with every epoch in a single window, because all examples are in memory anyway."""
    plan = make_plan([(0, num)], model.global_batch_size, model.epochs, max_steps or model.max_steps, seed)
    return TrainPlan(plan.parts, plan.global_batch_size, plan.total_steps, seed, window_rows=num)


def plan_of(chosen: Examples, model: TrainedModelConfig, steps: int | None, seed: int) -> TrainPlan | CurriculumPlan:
    """Plan training as in `s2l finetune`: stage by stage if the examples have stages."""
    base = whole_corpus_plan(len(chosen), model, steps, seed)
    if chosen.stages is None:
        return base
    return CurriculumPlan(base, (tuple(np.bincount(chosen.stages).tolist()),), cumulative=True)
