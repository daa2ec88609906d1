"""Judges trials by answers to test questions: `sweep.metric: evaluation.gsm8k.correct`.

Every trial's target answers only that one task of the section `evaluation`; `s2l evaluate` asks the others.
"""

from __future__ import annotations

from collections.abc import Callable

from s2l_ray.artifacts.models import EvaluationArtifact
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.evaluation import EvaluationConfig
from s2l_ray.config.load import ConfigError
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import shown
from s2l_ray.evaluation.answers import published
from s2l_ray.evaluation.metrics import figure_of_answers
from s2l_ray.evaluation.tasks import SUMMARY, tasks_of
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.evaluation.tasks import AskedTask, read_tasks
from s2l_ray.storage.folder import Storage
from s2l_ray.workflow.preflight import without_evaluation


def is_by_answers(config: S2LConfig) -> bool:
    """Whether trials are judged by answers rather than by held-out examples."""
    return figure_of_answers(config.sweep.metric) is not None


def asking(config: S2LConfig) -> S2LConfig:
    """The configuration with its section `evaluation` reduced to the task that decides the sweep; without that section
    if held-out examples decide."""
    figure = figure_of_answers(config.sweep.metric)
    if figure is None or config.evaluation is None:
        return without_evaluation(config)
    return config.model_copy(update={"evaluation": _only(config.evaluation, figure[0])})


def _only(asked: EvaluationConfig, task: str) -> EvaluationConfig:
    """The section reduced to one task: settings of other tasks would be refused as having no effect."""
    lengths = {k: v for k, v in asked.generation.max_new_tokens.items() if k in ("default", task)}
    generation = asked.generation.model_copy(update={"max_new_tokens": lengths})
    data = asked.data.model_copy(update={"files": {k: v for k, v in asked.data.files.items() if k == task}})
    custom = {k: v for k, v in asked.custom.items() if k == task}
    update = {"tasks": [task], "subsets": None, "generation": generation, "data": data, "custom": custom}
    return asked.model_copy(update=update)


def check_objective(config: S2LConfig) -> None:
    """Refuse a `sweep.metric` by which no trial could be judged.

    Raises:
        ConfigError: the task is not configured or has no such metric, or a scheduler would need it during training.
    """
    figure = figure_of_answers(config.sweep.metric)
    if figure is None:
        return
    here, (task, name) = f"sweep.metric={config.sweep.metric}", figure
    if config.evaluation is None:
        raise ConfigError(
            f"{here} judges trials by answers to {shown(task)}, but there is no section `evaluation` that says where "
            "its questions are; add one"
        )
    known = {one.name: one for one in tasks_of(config.evaluation.tasks, config.evaluation.custom)}
    if task not in known:
        raise ConfigError(
            f"{here} judges trials by answers to {shown(task)}, which is not one of evaluation.tasks "
            f"({', '.join(known)}); add it there, or name one of those"
        )
    is_summary = known[task].rule == SUMMARY
    if is_summary == (name in ("correct", "correct_published", "first")):
        fits = "bleu, rouge1, rouge2, rougeL or bertscore" if is_summary else "correct"
        raise ConfigError(f"{here}: answers to {task} have no such metric; use {fits}")
    if name == "correct_published" and task not in published.TASKS:
        raise ConfigError(
            f"{here}: there are published rules only for {', '.join(published.TASKS)}, so answers to {task} have no "
            "such metric; use correct"
        )
    if name == "first" and known[task].rule != "one_of_several":
        raise ConfigError(
            f"{here}: an answer to {task} is not one of several numbers, so none of them is the first; use correct"
        )
    if name == "bertscore" and config.evaluation.bertscore.model is None:
        raise ConfigError(f"{here}, but evaluation.bertscore.model is null, so it is not computed; name an encoder")
    if config.sweep.asha is not None:
        raise ConfigError(
            f"{here} is known only when a trial has ended, but sweep.asha needs it during training; remove "
            "sweep.asha, or use a held-out metric"
        )


def read_asked(config: S2LConfig, storage: Storage, say: Callable[[str], None]) -> tuple[AskedTask, ...]:
    """The task that decides, with its questions; empty if held-out examples decide.

    Raises:
        EvaluationError: its file cannot be read.
    """
    return tuple(read_tasks(asking(config), storage, say)) if is_by_answers(config) else ()


def answers_of(context: RunContext, asked: tuple[AskedTask, ...]) -> Stage | None:
    """The verdicts on the answers of the trial's target, the only target of its run; None if held-out examples
    decide."""
    from s2l_ray.workflow.stages import evaluate_models

    if not asked:
        return None
    questioning = RunContext(asking(context.config), context.runner, context.layout)
    [stage] = evaluate_models(questioning, asked)
    return stage


def value_of(config: S2LConfig, answers: Stage) -> float:
    """The value of the metric that decides.

    Raises:
        ConfigError: the answers do not have that metric.
    """
    figure = figure_of_answers(config.sweep.metric)
    assert figure is not None
    figures = EvaluationArtifact.of(answers).figures
    if figure[1] not in figures:
        raise ConfigError(
            f"{answers.folder} has no metric {figure[1]} (available: {', '.join(figures)}), so its trial cannot be "
            f"judged by sweep.metric={config.sweep.metric}; name one of those"
        )
    return float(figures[figure[1]]["value"])
