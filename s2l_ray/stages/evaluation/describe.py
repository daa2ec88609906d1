"""Describes an evaluation: its form, its headline, its warnings."""

from __future__ import annotations

from typing import Any

from s2l_ray.artifacts.models import GenerationArtifact
from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.evaluation.report import number_in
from s2l_ray.evaluation.scoring import NO_PROGRAM
from s2l_ray.stages.evaluation.tasks import AskedTask

_MANY_TRUNCATED = 0.1


def form_of(task: AskedTask) -> str:
    """The form that the task's passes amount to: cot, pot or hybrid."""
    return "hybrid" if len(task.passes) == 2 else task.passes[0]


def summary_line(report: dict[str, Any]) -> str:
    """The headline: `correct 52.1% (47.0% to 57.2%); 364 questions`."""
    names = [name for name in ("correct", "rougeL", "bleu", "bertscore") if name in report["figures"]]
    told = []
    for name in names:
        figure = report["figures"][name]
        low, high = (number_in(report["unit"], figure[end]) for end in ("low", "high"))
        told.append(f"{name} {number_in(report['unit'], figure['value'])} ({low} to {high})")
    return f"{', '.join(told)}; {report['num_questions']:,} questions"


def warnings_of(artifact: GenerationArtifact, config: EvaluationConfig) -> list[str]:
    found = []
    total = sum(artifact.finish.values())
    if artifact.finish.get("length", 0) > _MANY_TRUNCATED * total:
        found.append(
            f"{artifact.finish['length']:,} of {total:,} completions were cut off at the limit of new tokens and may "
            "lack their answer; raise evaluation.generation.max_new_tokens"
        )
    if artifact.num_not_rendered:
        found.append(
            f"{artifact.num_not_rendered:,} prompts do not fit in the model's window or cannot be rendered and "
            "were not asked; quarantine/ lists them"
        )
    if artifact.num_halved_batches:
        found.append(
            f"{artifact.num_halved_batches:,} batches did not fit in the device's memory and were generated in "
            "halves, which can change the text in bfloat16; lower evaluation.generation.tokens_per_batch"
        )
    if artifact.outcomes.keys() - {NO_PROGRAM} and config.sandbox.mode in ("external", "off"):
        found.append(f"programs ran without isolation (evaluation.sandbox.mode={config.sandbox.mode})")
    return found
