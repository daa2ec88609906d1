"""How good the subsets are: the targets' metrics with intervals, paired differences, and the verdict in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from s2l_ray.artifacts.index import FULL
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.evaluation.metrics import Metric, get_metric
from s2l_ray.reporting.evaluations import HeldOutSet, Key, compared_metrics, read_sets
from s2l_ray.reporting.facts_worth import Difference, Leader, MetricFacts, ModelFacts, Score, Worth
from s2l_ray.reporting.intervals import (
    BETTER,
    MIN_EXAMPLES,
    estimate,
    means_over_seeds,
    resampled_means,
    verdict,
)
from s2l_ray.reporting.numbers import figure, signed
from s2l_ray.reporting.sentences import listed, told_apart

Array = np.ndarray[Any, np.dtype[Any]]

MAX_MODELS = 10
MAX_SOURCES = 12
_VERDICT_SETS = 2


def gather_worth(run: Run, main: str | None) -> Worth | None:
    """Results of at most MAX_MODELS targets; None if none was trained or evaluated.

    Args:
        main: the report's main subset.
    """
    every = _chosen_models(run, main)
    models = every[:MAX_MODELS]
    seeds = {label: _by_seed(run, label) for label in models}
    evaluations = {
        Key(label, seed): evaluation
        for label, by_seed in seeds.items()
        for seed, stage in by_seed.items()
        if (evaluation := run.heldout_evaluation(stage)) is not None
    }
    sets = read_sets(evaluations) if evaluations else []
    if not sets:
        return None
    total = run.stage("trajectories").manifest.row_counts["trajectories"]
    facts = [_model(run, label, list(by_seed.values()), total) for label, by_seed in seeds.items()]
    metrics = [metric_facts(m) for m in compared_metrics()]
    num_seeds, num_more = min(len(s) for s in seeds.values()), len(every) - len(models)
    worth = Worth(metrics, [s.name for s in sets], facts, [], [], [], num_seeds, num_more)
    keys = {label: [Key(label, seed) for seed in by_seed] for label, by_seed in seeds.items()}
    baselines = {label: _baselines(run, label, list(keys)) for label in keys}
    for made in sets:
        for metric in compared_metrics():
            _compare(made, metric, keys, baselines, main, worth)
    return worth


def metric_facts(metric: Metric) -> MetricFacts:
    return MetricFacts(**metric.facts(detailed=False))


def _chosen_models(run: Run, main: str | None) -> list[str]:
    """The full data, the main subset and those of its budget first, then the others by size; at every size, selectors
    are in the same order."""
    labels = [name for name, stage in run.targets.items() if run.heldout_evaluation(stage) is not None]
    budget = None if main is None else run.subsets[main].manifest.extra.get("budget")
    same = [n for n in labels if n in run.subsets and run.subsets[n].manifest.extra.get("budget") == budget]
    first = [n for n in [FULL, *([main] if main else []), *same] if n in labels]
    selectors = list(dict.fromkeys(_selector(run, n) for n in [*first, *labels]))
    others = sorted(
        (n for n in labels if n not in first),
        key=lambda n: (_size(run, n), selectors.index(_selector(run, n)), labels.index(n)),
    )
    return list(dict.fromkeys(first + others))


def _selector(run: Run, label: str) -> str:
    return str(run.subsets[label].manifest.extra["selector"]) if label in run.subsets else label.partition("-")[0]


def _size(run: Run, label: str) -> int:
    return run.targets[label].manifest.row_counts["examples"]


def _by_seed(run: Run, label: str) -> dict[int, Stage]:
    """The targets of this name that were evaluated."""
    found = sorted(run.seeds_of(label).items())
    return {seed: stage for seed, stage in found if run.heldout_evaluation(stage) is not None}


def _model(run: Run, label: str, stages: list[Stage], total: int) -> ModelFacts:
    manifests = [stage.manifest for stage in stages]
    count = manifests[0].row_counts["examples"]
    summary = manifests[0].extra["summary"]
    selector = _selector(run, label)
    return ModelFacts(
        label, selector, count, count / max(1, total), len(stages), summary["steps"],
        summary["tally"]["tokens"], float(np.mean([m.extra["summary"]["flops"] for m in manifests])),
        float(np.mean([m.device_seconds for m in manifests])),
    )  # fmt: skip


def _compare(
    made: HeldOutSet,
    metric: Metric,
    keys: dict[str, list[Key]],
    baselines: dict[str, list[str]],
    main: str | None,
    worth: Worth,
) -> None:
    """Add to `worth` the figures of all models on one set, by source too, and their differences to the baselines."""
    columns = [key for group in keys.values() for key in group]
    groups = [[columns.index(key) for key in group] for group in keys.values()]
    labels = list(keys)

    def add(each: Array, drawn: Array, num: int, source: str | None) -> tuple[Array, Array]:
        """Figures of the models and their resamples → of the subsets, over seeds."""
        resampled = means_over_seeds(drawn, groups)
        values = np.array([each[group].mean() for group in groups])
        for i, label in enumerate(labels):
            told = estimate(values[i], resampled[:, i], num)
            worth.scores.append(Score(metric.column, made.name, label, num, told, source))
        return values, resampled

    num = len(made.ids)
    values, resampled = add(made.values(metric, columns), made.resampled(metric, columns), num, None)
    for i, label in enumerate(labels):
        for baseline in baselines[label]:
            j = labels.index(baseline)
            told = estimate(values[i] - values[j], resampled[:, i] - resampled[:, j], num)
            words = verdict(told, metric.more_is_better)
            worth.differences.append(Difference(metric.column, made.name, label, baseline, num, told, words))
    best = int(np.argmax(values) if metric.more_is_better else np.argmin(values))
    leads = [
        estimate(values[best] - values[j], resampled[:, best] - resampled[:, j], num)
        for j in range(len(labels)) if j != best
    ]  # fmt: skip
    if leads and all(verdict(lead, metric.more_is_better) == BETTER for lead in leads):
        worth.leaders.append(Leader(metric.column, made.name, labels[best]))
    if not metric.is_mean:  # such a metric cannot be computed for a single source
        return
    sources, sums = np.array(made.sources), made.sums(metric, columns)
    for name in _hardest_sources(made, sources, keys.get(main or "") or next(iter(keys.values()))):
        rows = sources == name
        counts = made.counts[rows]
        add(sums[rows].sum(axis=0) / counts.sum(), resampled_means(sums[rows], counts), len(counts), name)


def _hardest_sources(made: HeldOutSet, sources: Array, keys: list[Key]) -> list[str]:
    """At most MAX_SOURCES sources, those with the highest loss first; empty if there is only one source."""
    names, codes = np.unique(sources, return_inverse=True)
    if len(names) < 2:
        return []
    losses = made.sums(get_metric("micro"), keys).mean(axis=1)
    means = np.bincount(codes, losses) / np.bincount(codes, made.counts)
    return [str(names[i]) for i in np.argsort(-means, kind="stable")[:MAX_SOURCES]]


def _baselines(run: Run, label: str, labels: list[str]) -> list[str]:
    """The full data, and the random choice of the same budget."""
    baselines = [] if label == FULL else [FULL]
    subset = run.subsets.get(label)
    if subset is not None and subset.manifest.extra["selector"] != "random":
        baselines.append(f"random-{subset.manifest.extra['budget']!r}")
    return [b for b in baselines if b in labels]


def verdict_lines(worth: Worth | None, main: str | None, names: dict[str, str]) -> list[str]:
    """At most four sentences on the main subset against each baseline on the first sets, naming every metric.

    Args:
        names: label → name for readers.
    """
    if worth is None:
        return []
    label = main if any(d.label == main for d in worth.differences) else None
    if label is None:
        label = next((d.label for d in worth.differences), None)
    lines = []
    for heldout_set in worth.sets[:_VERDICT_SETS]:
        for baseline in dict.fromkeys(d.baseline for d in worth.differences if d.label == label):
            told = [
                d for d in worth.differences if (d.label, d.baseline, d.heldout_set) == (label, baseline, heldout_set)
            ]
            if told:
                lines.append(_sentence(worth, told, names))
    return lines


def _sentence(worth: Worth, told: list[Difference], names: dict[str, str]) -> str:
    """`On “balanced”, S2L 20 % is better than the full data in held-out loss (…), but worse in exact matches (…).`"""
    metrics = {m.key: m for m in worth.metrics}
    by_word: dict[str, list[str]] = {}
    for difference in told:
        by_word.setdefault(difference.verdict, []).append(_measured(worth, difference, metrics[difference.metric]))
    first = told[0]
    if first.num_examples < MIN_EXAMPLES:
        return _too_few(first, names)
    baseline = "the full data" if first.baseline == FULL else names[first.baseline]
    said = told_apart({word: f"in {listed(measured)}" for word, measured in by_word.items()}, baseline)
    return f"On “{first.heldout_set}”, {names[first.label]} {said}."


def _too_few(difference: Difference, names: dict[str, str]) -> str:
    baseline = "the full data" if difference.baseline == FULL else names[difference.baseline]
    return (
        f"On “{difference.heldout_set}”, {difference.num_examples} examples are too few to tell "
        f"{names[difference.label]} from {baseline}."
    )


def _measured(worth: Worth, difference: Difference, metric: MetricFacts) -> str:
    """`held-out loss (0.403 against 0.670; −0.267, 95 % −0.301 to −0.233)`"""
    values = {s.label: s.estimate.value for s in worth.scores
              if (s.metric, s.heldout_set, s.source) == (metric.key, difference.heldout_set, None)}  # fmt: skip
    numbers = f"{figure(values[difference.label], metric)} against {figure(values[difference.baseline], metric)}"
    told = difference.estimate
    if told.low is None or told.high is None:
        return f"{metric.label} ({numbers})"
    low, high = (signed(bound, metric).removesuffix("\u00a0points") for bound in (told.low, told.high))
    return f"{metric.label} ({numbers}; {signed(told.value, metric)}, 95\u00a0% interval {low} to {high})"
