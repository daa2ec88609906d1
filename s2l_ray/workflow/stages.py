"""The order of the stages, all in one file.

corpus → tokens → proxy → trajectories → clusters, then a subset for each selector and budget, the gradient check where
it is asked for, and for each target its tokens, the held-out sets, the target itself, its evaluation on those sets, and
its answers to test questions. Stages that are registered from outside come after the one they name.
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
    """Have every run of this process build one more stage.

    Args:
        make: gives its specification; the stages before it are in `context.run.stages`.
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
    """All stages, or those up to the subsets."""
    at_once = 1 if select_only else context.layout.targets_at_once(context.config)
    with TargetTrainings(context, at_once) as trainings:

        def begin_full() -> None:
            """The target on everything needs nothing of the proxy, beside which it trains."""
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
) -> None:
    """What all selections share, and what these selectors read beside it.

    Args:
        budgets: what will be chosen from it; more than there is is refused before the proxy is trained.
        where: the setting that holds them.
        selectors: None: those of the selection.
        reference: whose target it is that scores, where one does; None: this configuration's own. Trials of a sweep
            differ in their targets and share that one.
        before_proxy: called when all that a training on everything needs is there.
    """
    corpus = _ensure(context, corpus_spec(context))
    check_stratum(context.config, corpus)
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
    """What takes a pass of its own for these selectors; of the target on everything, which is trained for it."""
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
    """A subset for each selector and budget of the selection."""
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
    """One subset. `reader`: one for many budgets."""
    reader = reader or SelectionReader(run)
    return runner.ensure(subset_spec(config, run, selector, budget, reader, runner.progress.say))


def gradient_stages(context: RunContext) -> Stage:
    """Gradients of a sample, and what they say of clusters and of all subsets that there are; gives the latter."""
    context.runner.ensure(gradients_spec(context))
    return context.runner.ensure(check_spec(context.config, context.run))


def target_stages(context: RunContext, trainings: TargetTrainings) -> list[Stage]:
    """One target for each of `target.subsets`."""
    names = context.config.target_subsets()
    for name in names:
        trainings.begin(name)
    return [trainings.finish(name) for name in names]


def target_stage(context: RunContext, name: str) -> Stage:
    """Fine-tune the target on the subset called `name`, or on everything (`full`), and evaluate it: its tokens, the
    held-out sets, the training, and the scores of the model before and after it."""
    with TargetTrainings(context) as trainings:
        return trainings.finish(name)


def evaluate_models(
    context: RunContext,
    tasks: Sequence[AskedTask],
    model: str | None = None,
    again: bool = False,
    generates: bool = True,
) -> list[Stage]:
    """Every model of `evaluation.subsets` answers every task, and is judged.

    Args:
        model: a hub id or folder that is asked instead.
        again: judge again what was judged.
        generates: False: only judge what was generated before.
    """
    asked = context.config.evaluation
    assert asked is not None
    models = models_of(context.run, context.config, asked.subsets, model)
    with Evaluation(context, tasks, generates) as evaluation:
        return [stage for one in models for stage in evaluation.evaluate(one, again)]


def _ensure(context: RunContext, spec: StageSpec) -> Stage:
    """The stage, and those that are registered to follow it."""
    stage = context.runner.ensure(spec)
    _follow(context, spec.name)
    return stage


def _follow(context: RunContext, name: str) -> None:
    for make in _EXTRA.get(name, ()):
        context.runner.ensure(make(context))
