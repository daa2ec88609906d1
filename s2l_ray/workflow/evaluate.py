"""`s2l evaluate`: models answer test questions and are judged; what is complete is skipped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from s2l_ray.artifacts.results import Evaluation
from s2l_ray.artifacts.run import Run, load_run
from s2l_ray.artifacts.runner import StageRunner, open_runner
from s2l_ray.config.load import ConfigError, load_config
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import shown
from s2l_ray.evaluation.comparison import comparison_lines
from s2l_ray.execution.ray_metrics import RayMetrics
from s2l_ray.observability.progress import Progress
from s2l_ray.workflow.commands import find_selection, open_run
from s2l_ray.workflow.differences import check_evaluated, compare_evaluations
from s2l_ray.workflow.overview import overview_lines, write_overview

if TYPE_CHECKING:
    from s2l_ray.stages.context import RunContext

_SECTIONS = ("evaluation", "resources", "estimates")
_WAIT_FOR_OTHERS_S = 600.0


@dataclass
class EvaluationResult:
    """Result of an evaluation: the models' scored answers, and comparisons."""

    run: Run
    evaluations: list[Evaluation]
    overview: dict[str, Any]
    """Results of all models and tasks of the run, as in `evaluation/report.json`."""
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    """`first`, `second`, `tasks` and `averages` of each requested pair."""

    def figure(self, model: str, task: str, name: str = "correct") -> float:
        """Return one metric of a model on a task. Raises KeyError if there is none."""
        return float(self.overview["models"][model]["tasks"][task]["figures"][name]["value"])

    @property
    def lines(self) -> list[str]:
        """The results as lines of text."""
        told = overview_lines(self.overview)
        for one in self.comparisons:
            told += ["", *comparison_lines(one["first"], one["second"], one)]
        return told


@dataclass(frozen=True)
class EvaluationRequest:
    """What `s2l evaluate` was asked for beside the run's configuration."""

    subsets: Sequence[str] | None = None
    """Targets by what they were trained on, and `base`; None: those of the configuration."""
    tasks: Sequence[str] | None = None
    form: str | None = None
    limit: int | None = None
    model: str | None = None
    """A hub id or folder that is asked instead of the run's targets."""
    rescore: bool = False
    """Judge again, generate nothing."""
    compare: Sequence[str] = ()
    """Models by their labels, of which every pair is compared."""
    across_engines: bool = False
    """Compare what different engines, dtypes or devices have generated."""
    overrides: Sequence[str] = ()

    def config(self, config: S2LConfig) -> S2LConfig:
        """The run's configuration with what was asked for.

        Raises:
            ConfigError: it cannot be.
        """
        for override in self.overrides:
            if override.partition("=")[0].strip().split(".")[0] not in _SECTIONS:
                raise ConfigError(
                    f"{override!r}: `s2l evaluate` makes no target, so it changes only {', '.join(_SECTIONS)}; for the "
                    "rest use `s2l run` or `s2l finetune`"
                )
        if self.model is not None and self.subsets:
            raise ConfigError(
                f"--model {self.model} is evaluated instead of the run's targets, but --subset "
                f"{', '.join(self.subsets)} names some of them; give one or the other"
            )
        tree = config.model_dump(mode="json")
        if tree["evaluation"] is None:
            del tree["evaluation"]
        made = load_config(tree, [*self.overrides, *self._changes()])
        if made.evaluation is None:
            raise ConfigError(
                "the run has no section `evaluation`, so it is unknown which questions to ask: give --tasks with "
                "evaluation.data.folder=…, or evaluation.custom.… for your own questions"
            )
        return made

    def check_comparison(self) -> None:
        """Raises ConfigError for a comparison that nothing could come of, whatever the run has."""
        if self.across_engines and not self.compare:
            raise ConfigError(
                "--across-engines affects which models --compare may compare and would do nothing without --compare; "
                "add --compare full,s2l-0.11, or leave it out"
            )
        if self.compare and len(set(self.compare)) < 2:
            raise ConfigError(
                f"--compare {','.join(self.compare)} has nothing to compare {shown(self.compare[0])} with; name at "
                "least two different models"
            )

    def _changes(self) -> list[str]:
        given: dict[str, Any] = {"form": self.form, "limit": self.limit}
        given["tasks"] = None if self.tasks is None else f"[{', '.join(self.tasks)}]"
        given["subsets"] = None if self.subsets is None else f"[{', '.join(self.subsets)}]"
        return [f"evaluation.{name}={value}" for name, value in given.items() if value is not None]


def evaluate_run(run: Run | str, request: EvaluationRequest, *, progress: Progress | None = None) -> EvaluationResult:
    """Evaluate models of a run, or any other.

    Raises:
        EvaluationError, ConfigError, …: with what is wrong and what would do.
    """
    from s2l_ray.stages.evaluation.tasks import check_evaluation, read_tasks
    from s2l_ray.workflow.stages import evaluate_models

    request.check_comparison()
    opened = open_run(run)
    check_evaluation(request.config(opened.config), generates=not request.rescore)  # before the lock is waited for
    with open_runner(opened, progress or Progress(), RayMetrics(opened.config.name), _WAIT_FOR_OTHERS_S) as runner:
        find_selection(opened, reread=isinstance(run, str))
        config = request.config(opened.config)
        _check_labels(opened, config, request)
        tasks = read_tasks(config, opened.storage, runner.progress.say)
        with _context(config, runner, starts_ray=not request.rescore) as context:
            stages = evaluate_models(context, tasks, request.model, request.rescore, not request.rescore)
        whole = write_overview(opened, config)
    comparisons = compare_evaluations(opened, config, request.compare, request.across_engines)
    return EvaluationResult(opened, [Evaluation.of(stage) for stage in stages], whole, comparisons)


def _check_labels(opened: Run, config: S2LConfig, request: EvaluationRequest) -> None:
    """Refuse to compare what will not have been evaluated, before anything is generated.

    Raises:
        EvaluationError: a label that neither the run nor this command evaluates.
    """
    from s2l_ray.stages.evaluation.models import models_of

    if not request.compare:
        return
    assert config.evaluation is not None
    asked = models_of(opened, config, config.evaluation.subsets, request.model)
    check_evaluated(request.compare, {*(model for model, _ in opened.evaluations), *(one.label for one in asked)})


@contextlib.contextmanager
def _context(config: S2LConfig, runner: StageRunner, starts_ray: bool) -> Iterator[RunContext]:
    """For the block; judging alone needs no Ray."""
    from s2l_ray.execution.session import ray_session
    from s2l_ray.stages.context import RunContext
    from s2l_ray.stages.layout import Layout, lay_out

    if not starts_ray:
        yield RunContext(config, runner, Layout(config.resources, embedded=True))
        return
    with ray_session(config.resources):
        # Nobody is trained: whether the proxy or the target could be trained here does not matter.
        layout = lay_out(config, runner.progress.say, with_kmeans=False, roles=("evaluation",))
        yield RunContext(config, runner, layout)


def dry_run_lines(run: Run | str, request: EvaluationRequest) -> list[str]:
    """What `evaluate_run` would do; starts nothing.

    Raises:
        EvaluationError, ConfigError, ModelError, …: it would be refused.
    """
    from s2l_ray.artifacts.models import CorpusArtifact
    from s2l_ray.stages.evaluation.models import models_of
    from s2l_ray.stages.evaluation.tasks import check_evaluation, read_tasks
    from s2l_ray.workflow.evaluation_estimate import evaluation_lines

    request.check_comparison()
    opened = load_run(run) if isinstance(run, str) else run
    config = request.config(opened.config)
    check_evaluation(config, generates=not request.rescore)
    _check_labels(opened, config, request)
    assert config.evaluation is not None
    tasks = read_tasks(config, opened.storage, lambda text: None)
    models = models_of(opened, config, config.evaluation.subsets, request.model)
    format = CorpusArtifact.of(opened.stage("corpus")).rendered_format
    lines = evaluation_lines(config, models, tasks, format)
    there = [f"{model} {task}" for model, task in opened.evaluations]
    if there:
        lines.append(f"complete      {', '.join(there)} (skipped if their settings and inputs have not changed)")
    return [*lines, "Dry run: nothing was started."]
