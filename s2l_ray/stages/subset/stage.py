"""Subset: a selector's inputs and a budget → the selected rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from s2l_ray.artifacts.models import (
    CorpusArtifact,
    ProxyArtifact,
    SignalsArtifact,
    SubsetArtifact,
    TrajectoriesArtifact,
)
from s2l_ray.artifacts.run import Run, RunError, part_rows
from s2l_ray.artifacts.stage import Stage, StageResult, StageSpec
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.selection.signals import (
    CLUSTERS,
    LOSS,
    PASSES,
    QUERY,
    SCALARS,
    TOKEN_ACCURACY,
    at_reference,
    missing_signals,
)
from s2l_ray.stages.competence import PREFIX
from s2l_ray.stages.reference import signal_stage_name
from s2l_ray.storage.folder import Storage

if TYPE_CHECKING:
    from s2l_ray.selection import HeldOutRecord


class SelectionReader:
    """Reads selectors' inputs from a run, when first needed and once for many budgets."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._reader: Any = None
        self._ordered: tuple[Any, Any] | None = None

    def sources(self) -> Any:
        """The artifacts to read; see subset.inputs.SubsetSources."""
        from s2l_ray.data.columns import Columns
        from s2l_ray.stages.subset.inputs import SubsetSources

        corpus, trajectories = self._run.stage("corpus"), self._run.stage("trajectories")
        made = CorpusArtifact.of(corpus)
        return SubsetSources(
            trajectories.storage, part_rows(trajectories), corpus.storage.sub("examples"),
            self._run.stage("clusters").storage, made.format,
            None if made.columns is None else Columns.from_plain(made.columns), list(made.facets),
            [snapshot["step"] for snapshot in ProxyArtifact.of(self._run.stage("proxy")).snapshots],
        )  # fmt: skip

    def order(self, config: S2LConfig, selector: str, max_budget: int) -> tuple[Any, Any]:
        """Order the examples with a selector → (selection.SelectionInputs, selection.Ordering); the last result is
        kept."""
        from s2l_ray.selection import evaluate_guard, order_examples
        from s2l_ray.stages.subset.inputs import InputsReader

        asked, seed = config.selection, config.seed_of("selection")
        options, reference = asked.options_of(selector), asked.reference
        query = _query(config, self._run, selector)
        key = selector, options, seed, reference, max_budget, None if query is None else query.content
        if self._ordered is None or self._ordered[0] != key:
            self._ordered = None  # so that two orderings are never in memory
            self._reader = self._reader or InputsReader(self.sources())
            passes = {need: stage.storage for need, stage in _passes(config, self._run, selector).items()}
            needs = asked.needs_of(selector)
            embedded = None if query is None else _query_part(query)
            inputs = self._reader.read(
                needs, reference.early_share, bool(options.guard.rules), passes, embedded, reference.model
            )
            guard = None
            if options.guard.rules:
                guard = evaluate_guard(inputs, options.guard, self._competence())
            ordering = order_examples(selector, inputs, seed, options, max_budget, guard)
            self._ordered = key, (inputs, ordering)
        return self._ordered[1]

    def _competence(self) -> HeldOutRecord | None:
        """The proxy's competence on held-out examples, in chronological order; None if nothing is held out."""
        from s2l_ray.selection import HeldOutRecord

        found = {SignalsArtifact.of(stage).step: stage for name, stage in self._run.stages.items()
                 if name.startswith(f"signals/{PREFIX}")}  # fmt: skip
        if not found:
            return None
        tables = {step: [stage.storage.read_table(f"parts/{part_name(part)}", columns=[LOSS, TOKEN_ACCURACY])
                         for part, _ in part_rows(stage)] for step, stage in sorted(found.items())}  # fmt: skip

        def mean(step: int, column: str) -> float:
            values = [table[column].to_numpy() for table in tables[step]]
            return float(sum(v.sum(dtype="float64") for v in values) / sum(len(v) for v in values))

        last = max(tables)
        on_corpus = self._reader.mean_of(f"{TOKEN_ACCURACY}@late") if self._has_scores() else None
        return HeldOutRecord([mean(step, LOSS) for step in tables], mean(last, TOKEN_ACCURACY), on_corpus)

    def _has_scores(self) -> bool:
        return TrajectoriesArtifact.of(self._run.stage("trajectories")).signals is not None


def subset_spec(
    config: S2LConfig, run: Run, selector: str, budget: int | float, reader: SelectionReader, say: Callable[[str], None]
) -> StageSpec:
    """Specify the stage: a selector's inputs and a budget → one subset."""
    from s2l_ray.selection import get_selector
    from s2l_ray.selection.quotas import resolve_budget
    from s2l_ray.stages.subset.build import build_subset

    asked, trajectories = config.selection, run.stage("trajectories")
    num_examples = trajectories.manifest.row_counts["trajectories"]
    count = resolve_budget(budget, num_examples)
    # Including the run's own budgets, so that a subset selected later that is not larger is nested in theirs.
    largest = max(resolve_budget(b, num_examples) for b in [budget, *asked.budgets, *run.config.selection.budgets])
    seed, options = config.seed_of("selection"), asked.options_of(selector)

    def order() -> tuple[Any, Any]:
        return reader.order(config, selector, largest)

    def build(out: Storage) -> StageResult:
        inputs, ordering = order()
        stats = build_subset(
            reader.sources(), inputs, ordering, options, count, out, wait_s=config.resources.capacity_wait_s, say=say
        )
        summary = f"{stats.num_chosen:,} of {stats.num_examples:,} examples → {out.uri_of(stats.files[0])}"
        guard = None if ordering.guard is None else ordering.guard.to_json()
        if guard:
            summary += f"; the guard drops {guard['num_dropped']:,}"
        artifact = SubsetArtifact(
            files=stats.files, per_source=stats.per_source, selector=selector, budget=budget,
            options=options.model_dump(mode="json"), notes=dict(ordering.notes),
            guard=None if guard is None else {key: guard[key] for key in ("num_dropped", "dropped_by_rule")},
            num_ineligible=stats.num_ineligible, weighted=stats.weighted,
            stages=None if ordering.stage is None else int(ordering.stage.max()) + 1,
        )  # fmt: skip
        return StageResult(
            stats.fingerprint, {"examples": stats.num_chosen}, artifact, stats.warnings, {"selection": seed},
            summary=summary,
        )  # fmt: skip

    settings = {"selector": selector, "budget": count, "seed": seed, **asked.settings_of(selector)}
    if getattr(get_selector(selector), "order_depends_on_budget", False):
        settings["largest_budget"] = largest
    name = f"subset/{asked.subset_name(selector, budget)}"
    return StageSpec(name, settings, _inputs(config, run, selector), build, folder=name, prepare=order)


def _inputs(config: S2LConfig, run: Run, selector: str) -> dict[str, str]:
    """The inputs: corpus and trajectories, which every subset's files need, and what the selector reads."""
    needs = config.selection.needs_of(selector)
    names = ["corpus", "trajectories", *(["clusters"] if CLUSTERS in needs else [])]
    inputs = {name: run.stage(name).content for name in names}
    if config.selection.reference.model == "target":
        needs = needs - set(at_reference(needs))
    scalars = sorted(need for need in needs if need.partition("@")[0] in SCALARS)
    if scalars:
        signals = TrajectoriesArtifact.of(run.stage("trajectories")).signals
        if signals is None:
            raise RunError(
                f"the selector {selector} reads {', '.join(scalars)}, which this run does not have at all points: only "
                "trajectories.source=snapshots computes it, and earlier versions of s2l_ray did not; start another run "
                "(run_dir)"
            )
        inputs["signals"] = signals
    if (query := _query(config, run, selector)) is not None:
        inputs["query"] = query.content
    return inputs | {stage.name: stage.content for stage in _passes(config, run, selector).values()}


def _query(config: S2LConfig, run: Run, selector: str) -> Stage | None:
    """The stage that embedded the user's examples of the task; None if the selector does not use them.

    Raises:
        MissingSignal: the examples were not embedded.
    """
    need = config.selection.query_need(selector)
    if need is None:
        return None
    name = signal_stage_name(config, run, f"{QUERY}:{need}")
    if name not in run.stages:
        raise missing_signals(f"the selector {selector}", [QUERY])
    return run.stages[name]


def _query_part(query: Stage) -> Any:
    from s2l_ray.stages.subset.inputs import QueryPart

    return QueryPart(query.storage, [part for part, _ in part_rows(query)], SignalsArtifact.of(query).column)


def _passes(config: S2LConfig, run: Run, selector: str) -> dict[str, Stage]:
    """Need → the stage that computed it with an extra pass.

    Raises:
        MissingSignal: a need was not computed.
    """
    found, missing = {}, []
    needs, of_target = config.selection.needs_of(selector), config.selection.reference.model == "target"
    for need in at_reference(needs):
        if of_target or need.partition("@")[0] in PASSES:
            name = signal_stage_name(config, run, need)
            if name in run.stages:
                found[need] = run.stages[name]
            else:
                missing.append(need)
    if missing:
        raise missing_signals(f"the selector {selector}", missing)
    return found
