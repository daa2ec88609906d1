"""The public verbs: what the commands do, from Python, with typed results.

Everything here, and the extension points in docs/extending.md, is stable; the rest of the package may change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s2l_ray.artifacts.results import Evaluation, GradientCheck, Subset, Target
from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.config import S2LConfig, list_recipes, load_config
from s2l_ray.observability.progress import Progress
from s2l_ray.reporting.sweep_results import present_sweep
from s2l_ray.sweeps.run import SweepResult
from s2l_ray.sweeps.run import sweep as _sweep
from s2l_ray.workflow import commands
from s2l_ray.workflow.commands import run
from s2l_ray.workflow.estimate import Estimate
from s2l_ray.workflow.estimate import estimate as _estimate
from s2l_ray.workflow.evaluate import EvaluationRequest, EvaluationResult, evaluate_run
from s2l_ray.workflow.gradients import compare_gradients

__all__ = [
    "Estimate",
    "Evaluation",
    "EvaluationResult",
    "GradientCheck",
    "Run",
    "S2LConfig",
    "Subset",
    "SweepResult",
    "Target",
    "estimate",
    "evaluate",
    "finetune",
    "gradients",
    "list_recipes",
    "load_config",
    "load_run",
    "run",
    "select",
    "sweep",
]


def select(
    run: Run | str,
    budget: int | float,
    selector: str | None = None,
    seed: int | None = None,
    stratify: bool | str | None = None,
    overrides: Sequence[str] = (),
    *,
    progress: Progress | None = None,
) -> Subset:
    """Select one more subset from a finished run. Trains nothing and starts no Ray.

    Args:
        run: the run, or its folder.
        budget: number of examples (int) or share of the corpus (float in (0, 1]).
        selector: name of the selector, as listed by `s2l selectors`; None takes the run's first.
        seed: seed of the selection; None uses the run's.
        stratify: whether to balance sources first, or the name of a facet to balance; None uses the run's setting.
        overrides: `selection.field=value`, such as `selection.allocation_exponent=0.5`.

    Raises:
        ConfigError, RunError, …: before anything is written.
    """
    return Subset.of(commands.select(run, budget, selector, seed, stratify, overrides, progress=progress))


def finetune(
    run: Run | str,
    subset: str | None = None,
    overrides: Sequence[str] = (),
    *,
    budget: int | float | None = None,
    selector: str | None = None,
    progress: Progress | None = None,
) -> Target:
    """Fine-tune the target on one subset of a finished selection, or on the full data, and evaluate it.

    Args:
        run: the run, or its folder.
        subset: `full`, or a subset's name (`s2l-0.11`), which is selected now if it does not exist; None: the subset
            given by `selector` and `budget`.
        overrides: `target.model=…` and other settings of `target`, `heldout.files`, `loggers`, `resources`,
            `estimates`. Settings of the selection cannot be changed here.
        budget: number of examples or share of the corpus; None uses the run's first.
        selector: name of the selector; None uses the run's first.
    """
    return commands.finetune(run, subset, overrides, budget=budget, selector=selector, progress=progress)


def sweep(
    config: S2LConfig | str,
    overrides: Sequence[str] = (),
    *,
    find_smallest: bool = False,
    within: float | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Try budgets, selectors, seeds and settings; fine-tune a target for each; write `sweep/` into the run's folder.

    Args:
        config: a recipe, a YAML file, a run's folder (to continue it), or the typed tree.
        overrides: `section.field=value`, as on the command line.
        find_smallest: predict the curve with the proxy's model, then confirm it with the target by bisection, for each
            selector.
        within: overrides `sweep.within`.

    Raises:
        ConfigError, PlacementError, …: before any trial starts.
    """
    return _sweep(
        config, overrides, find_smallest=find_smallest, within=within, progress=progress, present=present_sweep
    )


def evaluate(
    run: Run | str,
    subsets: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    *,
    form: str | None = None,
    limit: int | None = None,
    model: str | None = None,
    rescore: bool = False,
    compare: Sequence[str] = (),
    across_engines: bool = False,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Have the run's targets answer test questions, and score their answers; completed work is skipped.

    Args:
        run: the run, or its folder.
        subsets: which targets, named by what they were trained on, or `base`, the model before fine-tuning; None:
            those of `evaluation.subsets`.
        tasks: names of the tasks; None: those of `evaluation.tasks`.
        overrides: `evaluation.data.folder=…` and other settings of `evaluation`, `resources`, `estimates`.
        form: `cot`, `pot` or `hybrid`; None: `evaluation.form`.
        limit: at most this many questions of each task, the first by id.
        model: a hub id or folder to evaluate instead of the run's targets.
        rescore: score existing answers again; no Ray is started.
        compare: models to compare, every pair of them.
        across_engines: also compare text generated by different engines, dtypes or devices.
    """
    request = EvaluationRequest(
        subsets, tasks, form, limit, model, rescore, tuple(compare), across_engines, tuple(overrides)
    )
    return evaluate_run(run, request, progress=progress)


def gradients(run: Run | str, overrides: Sequence[str] = (), *, progress: Progress | None = None) -> GradientCheck:
    """Compare gradients within and across a run's clusters, and each subset's mean gradient with the corpus's.

    Args:
        run: the run, or its folder.
        overrides: `gradients.kind=lora` and other settings of `gradients`, `resources`, `estimates`.
    """
    return GradientCheck.of(compare_gradients(run, overrides, progress=progress))


def estimate(config: S2LConfig | str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Estimate:
    """Estimate what a run would cost: rows, tokens, steps, FLOPs, time, disk. Starts nothing and loads no weights.

    Args:
        config: a recipe's name, a YAML file, a mapping, or the typed tree.
        overrides: `section.field=value`, as on the command line.
    """
    given = config.model_dump(mode="json") if isinstance(config, S2LConfig) else config
    return _estimate(load_config(given, overrides))
