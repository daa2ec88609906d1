"""Estimates the cost of the targets for `--dry-run`: steps, tokens, FLOPs, time, money, memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from s2l_ray.config.schema import S2LConfig
from s2l_ray.execution.placement import host_memory_bytes, local_cores
from s2l_ray.lm.flops import ModelShape
from s2l_ray.lm.memory import ModelSizes, meta_model
from s2l_ray.lm.sharding import WorkerMemory, choose_sharding
from s2l_ray.lm.zero_config import Precision
from s2l_ray.observability.progress import format_count, format_duration
from s2l_ray.selection.quotas import resolve_budget
from s2l_ray.workflow.speed import speed_of


@dataclass(frozen=True)
class CorpusSize:
    """Size of the corpus, as far as it is known."""

    num_examples: int
    tokens_per_example: float
    response_share: float


@dataclass(frozen=True)
class TargetCost:
    """Cost of training one target."""

    name: str
    """Name of what the target is trained on: `s2l-0.11`, `full`."""
    num_examples: int
    steps: int
    tokens: float
    flops: float
    seconds: float
    money: float | None
    """Price in the currency of `estimates.price_per_worker_hour`."""

    def line(self, price: float | None) -> str:
        """The cost as a line of text."""
        money = "" if self.money is None else f", {self.money:,.2f} at {price:g} per worker-hour"
        return (
            f"  {self.name:<12}  {self.num_examples:,} examples, {self.steps:,} steps, {format_count(self.tokens)} "
            f"tokens, {self.flops:.2e} FLOPs, about {format_duration(self.seconds)}{money}"
        )


def target_lines(config: S2LConfig, costs: list[TargetCost]) -> list[str]:
    """The costs of the targets as lines of text.

    Raises:
        ModelError: the target's config cannot be loaded.
        InsufficientMemoryError, ZeroConfigError: the run would be refused later.
    """
    target = config.target
    if target is None:
        return []
    model = meta_model(target)
    workers = config.resources.target.workers or 1
    given = config.estimates.worker_memory_gb
    on_gpu = config.resources.device == "gpu" or given is not None
    precision: Precision = target.precision if target.precision != "auto" else "bf16" if on_gpu else "fp32"
    sizes = ModelSizes.counted(model, target, precision, on_gpu)
    # The memory of GPUs is unknown before their nodes are up, unless it is configured.
    own = given * 1e9 if given else None if on_gpu else host_memory_bytes() / min(workers, local_cores())
    sharding = choose_sharding(sizes, target, workers, precision, on_gpu, WorkerMemory(own, None))
    lines = [
        f"target        {format_count(sizes.num_parameters)} parameters, {format_count(sizes.num_trained)} of them "
        f"trained; {sharding.describe()} of {workers} ({precision})"
    ]
    lines += [f"note          {warning}" for warning in sharding.warnings]
    return lines + [cost.line(config.estimates.price_per_worker_hour) for cost in costs]


def target_costs(config: S2LConfig, corpus: CorpusSize) -> list[TargetCost]:
    """The cost of each target in `target.subsets`.

    Raises:
        ModelError: the target's config cannot be loaded.
    """
    if config.target is None:
        return []
    shape = ModelShape.of(meta_model(config.target))
    return [_cost(config, corpus, name, shape) for name in config.target_subsets()]


def reference_cost(config: S2LConfig, corpus: CorpusSize, num_passes: int) -> TargetCost | None:
    """The cost of scoring with the target: fine-tuning it on everything, and one pass for each column that selectors
    need. None if the proxy is the reference.

    Raises:
        ModelError: the target's config cannot be loaded.
    """
    if config.selection.reference.model == "proxy" or config.target is None:
        return None
    shape = ModelShape.of(meta_model(config.target))
    training = _cost(config, corpus, "full", shape)
    tokens = corpus.num_examples * corpus.tokens_per_example
    one_pass = shape.forward_flops(
        int(tokens), int(tokens * corpus.response_share), int(tokens * corpus.tokens_per_example)
    )
    flops, workers = float(one_pass) * num_passes, config.resources.target.workers or 1
    seconds = training.seconds + flops / (speed_of(config).of(shape.attention_width) * workers)
    price = config.estimates.price_per_worker_hour
    money = None if price is None else seconds / 3600 * workers * price
    return replace(training, name="reference", flops=training.flops + flops, seconds=seconds, money=money)


def reference_lines(config: S2LConfig, reference: TargetCost | None, costs: list[TargetCost]) -> list[str]:
    """Lines of text with the cost of the reference, compared with what a subset saves."""
    if reference is None:
        return []
    lines = ["reference     the target, fine-tuned on everything, scores the corpus",
             reference.line(config.estimates.price_per_worker_hour)]  # fmt: skip
    smaller = [cost for cost in costs if cost.name != "full"]
    if smaller:
        least = min(smaller, key=lambda cost: cost.flops)
        lines.append(
            f"note          this exceeds the saving: a target on {least.name} takes {least.flops:.2e} FLOPs, and the "
            f"reference {reference.flops:.2e} before it. It pays off over several targets, or to compare selectors"
        )
    return lines


def steps_of(config: S2LConfig, name: str, corpus: CorpusSize) -> int:
    """Number of optimiser steps of the target trained on the subset called `name`."""
    target = config.target
    assert target is not None
    if target.max_steps is not None:
        return target.max_steps
    if target.max_tokens is not None:
        examples = _examples_of(config, name, corpus.num_examples)
        passes = target.max_tokens / (corpus.tokens_per_example * examples)
        return max(1, round(passes * -(-examples // target.global_batch_size)))
    over = corpus.num_examples if target.length == "same_steps" else _examples_of(config, name, corpus.num_examples)
    return max(1, round(target.epochs * -(-over // target.global_batch_size)))


def _examples_of(config: S2LConfig, name: str, num_examples: int) -> int:
    return num_examples if name == "full" else resolve_budget(config.subset_budgets()[name], num_examples)


def _cost(config: S2LConfig, corpus: CorpusSize, name: str, shape: ModelShape) -> TargetCost:
    assert config.target is not None
    workers = config.resources.target.workers or 1
    steps, length = steps_of(config, name, corpus), corpus.tokens_per_example
    examples = steps * config.target.global_batch_size
    tokens = examples * length
    flops = shape.training_flops(int(tokens), int(tokens * corpus.response_share), int(examples * length**2))
    flops_done = flops * (2 / 3 if config.target.lora else 1)
    seconds = speed_of(config).training_s(flops_done, steps, shape.attention_width, workers)
    price = config.estimates.price_per_worker_hour
    money = None if price is None else seconds / 3600 * workers * price
    return TargetCost(
        name, _examples_of(config, name, corpus.num_examples), steps, tokens, float(flops_done), seconds, money
    )
