"""The order of the stages, all in one file.

corpus → tokens → proxy → trajectories → clusters, then a subset for each selector and budget, the gradient check if
configured, and for each target its tokens, the held-out sets, the target itself, its evaluation on those sets, and its
answers to test questions. Stages registered by users come after the stage that they name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from s2l_ray.artifacts.chain import READS
from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.runner import StageRunner
from s2l_ray.artifacts.stage import Stage, StageSpec
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import UserError, shown
from s2l_ray.selection.quotas import check_budgets_fit
from s2l_ray.stages.clusters.stage import clusters_spec
from s2l_ray.stages.context import RunContext
from s2l_ray.stages.corpus.stage import check_stratum, corpus_spec
from s2l_ray.stages.evaluation.models import models_of
from s2l_ray.stages.evaluation.stage import Evaluation
from s2l_ray.stages.evaluation.tasks import AskedTask, read_tasks
from s2l_ray.stages.gradients.stage import check_spec, gradients_spec
from s2l_ray.stages.layout import has_room_beside_proxy
from s2l_ray.stages.proxy.stage import proxy_spec
from s2l_ray.stages.signals.competence import competence_specs
from s2l_ray.stages.signals.query import query_needs, query_spec
from s2l_ray.stages.signals.stage import passes_of, signals_spec
from s2l_ray.stages.subset.stage import SelectionReader, subset_spec
from s2l_ray.stages.tokens.stage import tokens_spec
from s2l_ray.stages.trajectories.stage import trajectories_spec
from s2l_ray.workflow.overview import write_overview
from s2l_ray.workflow.target_trainings import TargetTrainings

SpecMaker = Callable[[RunContext], StageSpec]

_EXTRA: dict[str, list[SpecMaker]] = {}


def register_stage(make: SpecMaker, after: str) -> None:
    """Have every run in this process build one more stage.

    Args:
        make: returns the stage's specification; the stages before it are in `context.run.stages`.
        after: `corpus`, `tokens`, `proxy`, `trajectories` or `clusters`; or `subset`, after all subsets.

    Raises:
        UserError: there is no such stage.
    """
    places = [*READS, "subset"]
    if after not in places:
        raise UserError(
            f"after={shown(after)} is not a stage that another one can follow, so it would never be built; "
            f"name one of {', '.join(places)}"
        )
    _EXTRA.setdefault(after, []).append(make)


def run_stages(context: RunContext, select_only: bool = False) -> None:
    """Build all stages, or only those up to the subsets."""
    at_once = 1 if select_only else context.layout.targets_at_once(context.config)
    with TargetTrainings(context, at_once) as trainings:

        def begin_full() -> None:
            """Start training the target on everything, which needs nothing from the proxy, at the same time as the
            proxy."""
            wanted = not select_only and FULL in context.config.target_subsets()
            if wanted and has_room_beside_proxy(context.layout.placements, at_once):
                trainings.begin(FULL)

        run_up_to_clusters(context, context.config.selection.budgets, before_proxy=begin_full)
        context.run.commit()
        subset_stages(context)
        if context.config.gradients is not None:
            gradient_stages(context)
        if select_only:
            return
        target_stages(context, trainings)
    if context.config.evaluation is not None and context.run.targets:
        evaluate_models(context, read_tasks(context.config, context.run.storage, context.progress.say))
        write_overview(context.run, context.config)


def run_up_to_clusters(
    context: RunContext,
    budgets: Sequence[int | float],
    where: str = "selection.budgets",
    selectors: Sequence[str] | None = None,
    reference: RunContext | None = None,
    before_proxy: Callable[[], None] = lambda: None,
    selecting: Sequence[S2LConfig] = (),
) -> None:
    """Build the stages that all selections share, and those that only these selectors read.

    Args:
        budgets: sizes of the subsets to select; one larger than the corpus is refused before the proxy is trained.
        where: name of the setting with the budgets, for messages.
        selectors: names of the selectors; None: those of the section `selection`.
        reference: context with the target that scores, if a target does; None: this context. The trials of a sweep have
            different targets but share that one.
        before_proxy: called as soon as everything needed to train on the full data exists.
        selecting: the configurations that select from these stages, whose columns are checked before the proxy is
            trained; none: the context's.
    """
    corpus = _ensure(context, corpus_spec(context, selecting))
    check_stratum(context.config, corpus, selecting)
    check_budgets_fit(where, budgets, corpus.manifest.row_counts["examples"])
    tokens = _ensure(context, tokens_spec(context, corpus, context.config.proxy))
    check_budgets_fit(where, budgets, tokens.manifest.row_counts["examples"])
    before_proxy()
    proxy = _ensure(context, proxy_spec(context, tokens))
    trajectories = _ensure(context, trajectories_spec(context, corpus, tokens, proxy))
    _ensure(context, clusters_spec(context, trajectories))
    selectors = context.config.selection.selectors if selectors is None else selectors
    for spec in competence_specs(context, selectors, corpus, tokens, proxy):
        context.runner.ensure(spec)
    signal_stages(context if reference is None else reference, selectors)


def signal_stages(context: RunContext, selectors: Sequence[str]) -> None:
    """Build the signals for which these selectors need extra passes; if the target is the reference, train it first."""
    passes, queries = passes_of(context.config, list(selectors)), query_needs(context.config, selectors)
    tokens, model = context.run.stage("tokens"), context.run.stage("proxy")
    if (passes or queries) and context.config.selection.reference.model == "target":
        model = target_stage(context, FULL)
        tokens = context.run.stage(f"target-tokens/{FULL}")
    for need in passes:
        context.runner.ensure(signals_spec(context, need, tokens, model))
    for need in queries:
        context.runner.ensure(query_spec(context, need, tokens, model))


def subset_stages(context: RunContext) -> None:
    """Build a subset for each selector and budget of the section `selection`."""
    selection, reader = context.config.selection, SelectionReader(context.run)
    for selector in selection.selectors:
        for budget in selection.budgets:
            subset_stage(context.config, context.run, context.runner, selector, budget, reader)
    _follow(context, "subset")


def subset_stage(
    config: S2LConfig,
    run: Run,
    runner: StageRunner,
    selector: str,
    budget: int | float,
    reader: SelectionReader | None = None,
) -> Stage:
    """Build one subset; pass the same `reader` for several budgets, so that inputs are read only once."""
    reader = reader or SelectionReader(run)
    return runner.ensure(subset_spec(config, run, selector, budget, reader, runner.progress.say))


def gradient_stages(context: RunContext) -> Stage:
    """Compute the gradients of a sample, and return the check that compares them by clusters and all existing
    subsets."""
    context.runner.ensure(gradients_spec(context))
    return context.runner.ensure(check_spec(context.config, context.run))


def target_stages(context: RunContext, trainings: TargetTrainings) -> list[Stage]:
    """Train one target for each of `target.subsets`."""
    names = context.config.target_subsets()
    for name in names:
        trainings.begin(name)
    return [trainings.finish(name) for name in names]


def target_stage(context: RunContext, name: str) -> Stage:
    """Fine-tune the target on the subset called `name`, or on everything (`full`), and evaluate it. This builds its
    tokens, the held-out sets, the target, and the scores of the model before and after training."""
    with TargetTrainings(context) as trainings:
        return trainings.finish(name)


def evaluate_models(
    context: RunContext,
    tasks: Sequence[AskedTask],
    model: str | None = None,
    again: bool = False,
    generates: bool = True,
) -> list[Stage]:
    """Have every model of `evaluation.subsets` answer every task, and judge the answers.

    Args:
        model: a hub id or folder to evaluate instead.
        again: judge answers again that have already been judged.
        generates: whether answers may be generated; False: only judge existing ones.
    """
    asked = context.config.evaluation
    assert asked is not None
    models = models_of(context.run, context.config, asked.subsets, model)
    with Evaluation(context, tasks, generates) as evaluation:
        return [stage for one in models for stage in evaluation.evaluate(one, again)]


def _ensure(context: RunContext, spec: StageSpec) -> Stage:
    """Build a stage, and those registered to follow it."""
    stage = context.runner.ensure(spec)
    _follow(context, spec.name)
    return stage


def _follow(context: RunContext, name: str) -> None:
    for make in _EXTRA.get(name, ()):
        context.runner.ensure(make(context))
