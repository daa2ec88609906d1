"""The lines at the end of a run: what was done and where the results are, for first-time users."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from datetime import datetime

from s2l_ray.artifacts.manifest import StageManifest
from s2l_ray.artifacts.models import HeldOutArtifact, ProxyArtifact, SubsetArtifact, TargetArtifact
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.selection_work import scores_with_target, whole_work
from s2l_ray.artifacts.stage import Stage
from s2l_ray.observability.progress import format_count, format_duration
from s2l_ray.reporting.costs import is_free
from s2l_ray.reporting.facts_worth import MetricFacts, Score, Worth
from s2l_ray.reporting.main_subset import main_subset
from s2l_ray.reporting.numbers import compact, figure
from s2l_ray.reporting.worth import gather_worth, verdict_lines
from s2l_ray.text.display import aligned, printable
from s2l_ray.workflow.overview import overview, overview_lines

_WIDTH = 80
"""Width of a narrow terminal (characters)."""


def summary_lines(run: Run) -> list[str]:
    """The summary, about ten lines."""
    corpus, tokens, proxy = run.stage("corpus"), run.stage("tokens"), run.stage("proxy")
    counts, made = corpus.manifest.row_counts, ProxyArtifact.of(proxy)
    seconds = _seconds_of([s.manifest for s in run.stages.values() if not s.reused])
    clusters = run.stage("clusters").manifest.row_counts["clusters"]
    bad = counts["quarantined"] + tokens.manifest.row_counts["quarantined"]
    lines = [
        "",
        f"Done in {format_duration(seconds)}: {run.config.name}",
        f"  Read      {counts['examples']:,} examples ({counts['duplicates']:,} exact duplicates found, "
        f"{bad:,} unusable rows set aside).",
        f"  Trained   a small proxy model ({format_count(made.summary['num_parameters'])} parameters) on all of them "
        f"and recorded every example's loss {len(made.snapshots)} times.",
        f"  Grouped   examples whose losses fall in a similar way into {clusters} clusters.",
    ]
    lines[-2:-2] = cut_lines(run)
    lines += ["  Chose     these subsets:"] * bool(run.subsets)
    by_selector: dict[str, list[Stage]] = {}
    for stage in run.subsets.values():
        by_selector.setdefault(SubsetArtifact.of(stage).selector, []).append(stage)
    for selector, stages in by_selector.items():
        sizes = ", ".join(f"{s.manifest.row_counts['examples']:,}" for s in stages)
        file = SubsetArtifact.of(stages[0]).files[0]
        if len(stages) > 1:
            where = run.storage.pattern_of(f"subset/{selector}-*/{file}")
        else:
            where = stages[0].storage.uri_of(file)
        lines.append(f"    {selector:<18} {sizes} examples: {where}")
    if run.targets:
        return [
            *map(printable, lines),
            *target_lines(run),
            *evaluation_lines(run),
            f"  Look at it:    s2l inspect {printable(shlex.quote(run.uri))}",
        ]
    if run.subsets:
        lines.append("  Train on one of these files instead of the whole corpus; each has a Parquet copy.")
    free = [selector for selector in by_selector if is_free(selector)]
    if 0 < len(free) < len(by_selector):
        lines.append(f"  For comparison, selected without the proxy: {', '.join(free)}.")
    lines += [
        f"  Look at it:    s2l inspect {shlex.quote(run.uri)}",
        f"  Another size:  s2l select {shlex.quote(run.uri)} --budget 0.3",
    ]
    return [printable(line) for line in lines]


def _seconds_of(made: Sequence[StageManifest]) -> float:
    """Time from the first stage's start to the last one's end, since some are built in parallel."""
    if not made:
        return 0.0
    started, finished = (
        [datetime.fromisoformat(getattr(manifest, name)) for manifest in made] for name in ("started_at", "finished_at")
    )
    return (max(finished) - min(started)).total_seconds()


def evaluation_lines(run: Run) -> list[str]:
    """The targets' results on test questions, if any were asked."""
    if not run.evaluations:
        return []
    told = overview_lines(overview(run, run.config))
    return ["  Judged    by answers to test questions:", *(printable(f"  {line}") for line in told)]


def cut_lines(run: Run) -> list[str]:
    """How many examples were truncated at which length, for each stage that truncated some."""
    told = []
    for name, stage in run.stages.items():
        is_tokens = name == "tokens" or name.startswith("target-tokens/")
        cut = {name: stage.manifest.row_counts.get("cut", 0)} if is_tokens else {}
        if name == "heldout":
            cut = {f"heldout: {of}": count for of, count in HeldOutArtifact.of(stage).cut.items()}
        length = stage.manifest.settings.get("max_length")
        told += [f"{count:,} at {length} tokens ({of})" for of, count in cut.items() if count]
    if not told:
        return []
    return [f"  Truncated examples longer than max_length: {', '.join(told)}."]


def target_lines(run: Run) -> list[str]:
    """The fine-tuned targets: what each was trained on, its cost, and its results with intervals."""
    worth = gather_worth(run, main_subset(run))
    lines = ["  Fine-tuned the target:", *_indented(_cost_rows(run))]
    if worth is not None:
        seeds = f" and {worth.num_seeds} seeds" if worth.num_seeds > 1 else ""
        lines += [f"  On examples that no model was trained on, with 95 % intervals over examples{seeds}:"]
        for held_out in worth.sets:
            lines += _indented(_score_rows(worth, held_out))
        names = {label: label for label in [*run.subsets, *(m.label for m in worth.models)]}
        if worth.num_seeds == 1:
            lines.append("  One seed: how much this varies between seeds is unknown.")
        for line in verdict_lines(worth, main_subset(run), names):
            lines += textwrap.wrap(printable(line), _WIDTH, initial_indent="  ", subsequent_indent="    ")
    return [*lines, *_selection_lines(run), f"  The models:    {printable(run.storage.pattern_of('target/*/model'))}"]


def _indented(rows: list[list[str]]) -> list[str]:
    return ["    " + line for line in aligned(rows)]


def _cost_rows(run: Run) -> list[list[str]]:
    rows = [["trained on", "examples", "steps", "tokens", "FLOPs"]]
    for name, stage in run.targets.items():
        summary = TargetArtifact.of(stage).summary
        rows.append(
            [
                name,
                f"{stage.manifest.row_counts['examples']:,}",
                f"{summary['steps']:,}",
                format_count(summary["tally"]["tokens"]),
                compact(summary["flops"]),
            ]
        )
    return rows


def _score_rows(worth: Worth, held_out: str) -> list[list[str]]:
    """A heading, and one line per model."""
    metrics = [m for m in worth.metrics if any(s.metric == m.key and s.heldout_set == held_out for s in worth.scores)]
    found = {(s.metric, s.label): s for s in worth.scores if s.heldout_set == held_out and s.source is None}
    num = next(iter(found.values())).num_examples
    rows = [[f"{held_out} ({num:,})", *(f"{m.label} ({m.unit})" for m in metrics)]]
    for model in worth.models:
        rows.append([model.label, *(_score(found.get((m.key, model.label)), m) for m in metrics)])
    return rows


def _score(score: Score | None, metric: MetricFacts) -> str:
    """A value with its interval: `0.403 (0.381 to 0.425)`."""
    if score is None:
        return ""
    told, number = score.estimate, figure(score.estimate.value, metric).removesuffix("\u00a0%")
    if told.low is None or told.high is None:
        return number
    low, high = (figure(bound, metric).removesuffix("\u00a0%") for bound in (told.low, told.high))
    return f"{number} ({low} to {high})"


def _selection_lines(run: Run) -> list[str]:
    """The cost of the selection, to compare with the targets' costs."""
    if "proxy" not in run.stages or "tokens" not in run.stages:
        return []
    work = whole_work(run)
    took = f"{format_count(work.tokens)} tokens and {compact(work.flops)} FLOPs"
    of_target = ", including the target that scores" if scores_with_target(run) else ""
    return [f"  Selecting took {took}, once for all targets{of_target}."]
