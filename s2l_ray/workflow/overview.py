"""All of a run's evaluations side by side: metrics and averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s2l_ray.artifacts.models import EvaluationArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.config.evaluation import ConfidenceConfig
from s2l_ray.config.schema import S2LConfig
from s2l_ray.evaluation import statistics
from s2l_ray.evaluation.report import number_in, unit_of
from s2l_ray.evaluation.tasks import MATHS
from s2l_ray.workflow.differences import verdicts_of

_HEADLINES = ("correct", "rougeL", "bleu", "bertscore")


def overview(run: Run, config: S2LConfig) -> dict[str, Any]:
    """Collect model → task → metrics and shares, and each model's averages over the sets with verdicts.

    If a model has answered all six maths sets, the average is over those; otherwise over all sets with verdicts, which
    are named.
    """
    confidence = config.evaluation.confidence if config.evaluation else ConfidenceConfig()
    models: dict[str, Any] = {}
    for (model, task), evaluation in run.evaluations.items():
        made = EvaluationArtifact.of(evaluation)
        report = evaluation.report
        entry = {
            "figures": dict(evaluation.figures), "unit": report["unit"], "form": made.form, "engine": made.engine,
            "dtype": made.dtype, "device": made.device, "shares": made.shares, "title": report["task"]["title"],
            "num_questions": made.num_questions, "num_not_asked": report["num_not_asked"], "folder": evaluation.folder,
        }  # fmt: skip
        models.setdefault(model, {"tasks": {}})["tasks"][task] = entry
    for model, one in models.items():
        one["averages"] = _averages(run, model, one["tasks"], config.seed, confidence)
    return {"version": 1, "level": confidence.level, "models": models}


def _averages(
    run: Run, model: str, tasks: Mapping[str, Any], seed: int, confidence: ConfidenceConfig
) -> dict[str, Any] | None:
    judged = [task for task in sorted(tasks) if "correct" in tasks[task]["figures"]]
    sets = list(MATHS) if set(MATHS) <= set(judged) else judged
    if len(sets) < 2:
        return None
    right = {task: verdicts_of(run.evaluations[model, task]).right for task in sets}
    rng = statistics.generator(seed, model, "averages")
    made = statistics.averages(right, rng, confidence.resamples, confidence.level)
    return {"sets": sets, **{name: estimate._asdict() for name, estimate in made.items()}}


def overview_lines(whole: Mapping[str, Any]) -> list[str]:
    """The overview as lines of text, one for each model and task."""
    lines = []
    for model, one in whole["models"].items():
        for task, entry in one["tasks"].items():
            figures = [_shown(entry, name) for name in _HEADLINES if name in entry["figures"]]
            figures += [_shown(entry, name) for name in entry["figures"] if name.startswith("own/")]
            lines.append(f"  {model:<18} {task:<14} {', '.join(figures)}; {entry['num_questions']:,} questions")
        averages = one["averages"]
        if averages:
            told = " and ".join(
                f"{averages[name]['value']:.1%} ({averages[name]['low']:.1%} to {averages[name]['high']:.1%}) over {of}"
                for name, of in (("macro", f"{len(averages['sets'])} sets"), ("micro", "all questions"))
            )
            lines.append(f"  {model:<18} {'average':<14} {told}")
    return lines


def _shown(entry: Mapping[str, Any], name: str) -> str:
    figure = entry["figures"][name]
    unit = unit_of(name, entry["unit"])
    if figure["low"] is None:
        return f"{name} {number_in(unit, figure['value'])}"
    low, high = (number_in(unit, figure[end]) for end in ("low", "high"))
    return f"{name} {number_in(unit, figure['value'])} ({low} to {high})"


def overview_markdown(whole: Mapping[str, Any]) -> str:
    """The overview as a Markdown table of models and tasks."""
    tasks = sorted({task for one in whole["models"].values() for task in one["tasks"]})
    lines = ["# Evaluations", "", f"| model | {' | '.join(tasks)} | mean of the sets |"]
    lines.append("|---" * (len(tasks) + 2) + "|")
    for model, one in whole["models"].items():
        cells = []
        for task in tasks:
            entry = one["tasks"].get(task)
            name = None if entry is None else next((n for n in _HEADLINES if n in entry["figures"]), None)
            cells.append("" if entry is None or name is None else _shown(entry, name).removeprefix(f"{name} "))
        averages = one["averages"]
        cells.append(f"{averages['macro']['value']:.1%} (of {len(averages['sets'])})" if averages else "")
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def write_overview(run: Run, config: S2LConfig) -> dict[str, Any]:
    """Write `evaluation/report.json` and `.md`, which cover every model and task of the run."""
    whole = overview(run, config)
    run.storage.write_json("evaluation/report.json", whole)
    run.storage.write_bytes("evaluation/report.md", overview_markdown(whole).encode())
    return whole
