"""Estimates the cost of an evaluation (tokens, memory, FLOPs, hours) and tests the isolation. Loads no weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s2l_ray.config.evaluation import EvaluationConfig, GenerationConfig
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.evaluation.prompts import messages
from s2l_ray.evaluation.sandbox import ProbeReport, probe_node
from s2l_ray.lm.checks import meta_model
from s2l_ray.lm.flops import ModelShape
from s2l_ray.lm.generate import CacheShape, plan_batches, window_of
from s2l_ray.observability.progress import format_count, format_duration
from s2l_ray.stages.evaluation.models import AskedModel
from s2l_ray.stages.evaluation.tasks import AskedTask, sandbox_settings

_SAMPLE = 200
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class EvaluationEstimate:
    """The cost of an evaluation."""

    lines: list[str]
    """As lines of text."""
    facts: dict[str, Any]
    """As JSON data."""


def estimate_evaluation(
    config: S2LConfig, models: Sequence[AskedModel], tasks: Sequence[AskedTask], format: str
) -> EvaluationEstimate:
    """Estimate the cost of all answers, and test the isolation if there are programs.

    Args:
        format: the corpus's format, which determines how questions are rendered.

    Raises:
        ModelError: a model's config or tokenizer cannot be loaded.
    """
    asked = config.evaluation
    assert asked is not None
    lines, answers = _engine_lines(asked.generation, _on_gpu(config)), []
    for model, task in itertools.product(models, tasks):
        source = model.source
        loaded = source.load_tokenizer(), source.load_config()
        cost = task_cost(config, model.label, model.config, *loaded, task, format)
        lines += cost.lines
        answers.append({"model": model.label, "task": task.name, **cost.plain(config)})
    workers = config.resources.evaluation.workers or 1
    seconds = sum(one["seconds"] for one in answers) / workers
    lines.append(
        f"time          at most {format_duration(seconds)} with {workers} worker{'s' if workers > 1 else ''} "
        f"at {config.estimates.device_tflops:g} TFLOP/s each (estimates.device_tflops), if all completions use all "
        "their new tokens; decoding on GPUs is memory-bound and reaches only a fraction of that speed"
    )
    sandbox = None
    if any("pot" in task.passes for task in tasks):
        report = probe_node(sandbox_settings(asked, 1))
        lines.append(_sandbox_line(asked, report))
        sandbox = {"mode": asked.sandbox.mode, "node": report.node, "isolated": report.isolated, "fault": report.fault}
    facts = {"answers": answers, "seconds": seconds, "num_workers": workers, "sandbox": sandbox}
    return EvaluationEstimate(lines, facts)


def _engine_lines(asked: GenerationConfig, on_gpu: bool) -> list[str]:
    if asked.engine != "vllm" or not on_gpu:
        return []
    return ["engine        vLLM; nodes are checked for it once they are up, and refused if they lack it"]


@dataclass(frozen=True)
class TaskCost:
    """The cost of one model's answers to one task, if every completion used all its new tokens."""

    lines: list[str]
    """The estimate as lines of text."""
    num_questions: int
    tokens: float
    """Tokens of prompts and completions."""
    flops: float

    def seconds(self, config: S2LConfig) -> float:
        """Duration with one worker (seconds)."""
        return self.flops / (config.estimates.device_tflops * 1e12)

    def plain(self, config: S2LConfig) -> dict[str, Any]:
        """The cost as JSON data."""
        figures = {"num_questions": self.num_questions, "tokens": self.tokens, "flops": self.flops}
        return figures | {"seconds": self.seconds(config)}


def task_cost(
    config: S2LConfig, label: str, target: TargetConfig, tokenizer: Any, model_config: Any, task: AskedTask, format: str
) -> TaskCost:
    """Estimate the cost from the prompts of the first questions.

    Args:
        label: the model's name, for the text.
        target: the section that determines how questions are rendered.
        format: the corpus's format.
    """
    from s2l_ray.data.render import Renderer, options_of, resolve_style
    from s2l_ray.data.units import UnusableRow

    asked = config.evaluation
    assert asked is not None
    style = resolve_style(target.render, format, tokenizer)
    renderer = Renderer(tokenizer, style, 1 << 30, **options_of(target))
    sample = task.questions[:_SAMPLE]
    prompts = renderer.prompts([messages(question, task.passes[0], asked.program_stem) for question in sample])
    lengths = [len(ids) for ids in prompts if not isinstance(ids, UnusableRow)]
    if not lengths:
        return TaskCost([f"{label} {task.name}: none of the first {len(sample)} questions can be rendered"], 0, 0, 0)
    window, new = window_of(model_config), task.max_new_tokens
    too_long = sum(window is not None and length + new > window for length in lengths)
    completions = len(task.questions) * len(task.passes) * asked.generation.samples
    mean = sum(lengths) / len(lengths)
    rows = plan_batches(lengths, new, asked.generation.tokens_per_batch)[0]
    cache = CacheShape.of(model_config).bytes_per_token(_BYTES[dtype_of(config)])
    in_batch = len(rows) * (max(lengths) + new)
    shape = ModelShape.of(meta_model(model_config, target))
    whole = mean + new
    flops = shape.forward_flops(int(completions * whole), int(completions * new), int(completions * whole**2))
    lines = [
        f"{label:<13} {task.name}: {len(task.questions):,} questions, {' then '.join(task.passes)}, at most "
        f"{completions:,} completions of {new:,} new tokens after prompts of {mean:.0f}; "
        f"{format_count(completions * whole)} tokens, {flops:.1e} FLOPs; the cache takes {cache / 1e6:.3g} MB per "
        f"token, {in_batch * cache / 1e9:.2g} GB for a batch of {len(rows)}"
    ]
    if too_long:
        lines.append(
            f"note          {too_long} of the first {len(lengths)} prompts of {task.name} do not fit in the window "
            f"of {window:,} with {new:,} new tokens and would not be asked"
        )
    return TaskCost(lines, len(task.questions), completions * whole, float(flops))


def dtype_of(config: S2LConfig) -> str:
    """Data type of weights and cache."""
    assert config.evaluation is not None
    dtype = config.evaluation.generation.dtype
    return ("bfloat16" if _on_gpu(config) else "float32") if dtype == "auto" else dtype


def _on_gpu(config: S2LConfig) -> bool:
    return config.resources.device == "gpu" or bool(config.resources.evaluation.accelerator_type)


def _sandbox_line(asked: EvaluationConfig, report: ProbeReport) -> str:
    """The isolation on this machine, tested now; nodes are tested once they are up, before anything is generated."""
    level = f"Landlock {report.landlock_abi}, Linux {report.kernel}, {report.machine}"
    what = "isolates programs" if report.isolated else f"does not isolate programs ({report.fault})"
    return f"sandbox       mode {asked.sandbox.mode}: this machine, {report.node}, {what}; {level}"
