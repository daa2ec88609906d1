"""The section “What is it worth?”."""

from __future__ import annotations

from s2l_ray.artifacts.index import FULL
from s2l_ray.reporting.charts import worth as charts
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_worth import Difference, MetricFacts, Worth
from s2l_ray.reporting.intervals import MIN_EXAMPLES, Estimate
from s2l_ray.reporting.numbers import figure, signed
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table
from s2l_ray.reporting.sentences import counted
from s2l_ray.text.display import capitalised

_MAX_SETS = 6


def worth_section(facts: Facts, draw: Drawing) -> Section | None:
    worth = facts.worth
    if worth is None:
        return None
    steps = {m.steps for m in worth.models}
    seeds = (
        f"Lines are 95\u00a0% bootstrap intervals over held-out examples and {worth.num_seeds} seeds."
        if worth.num_seeds > 1
        else "Lines are 95\u00a0% bootstrap intervals over held-out examples; one seed, so the spread over seeds is "
        "unknown."
    )
    trained = f"The same target, {steps.pop():,} optimiser steps on each subset" if len(steps) == 1 else (
        "The same target, trained on each subset")  # fmt: skip
    how = f"{trained}, measured on examples that no model was trained on. {seeds}"
    figures = [
        Figure(
            "Held-out results of every model",
            [draw.svg(charts.scores(worth, m, draw.names), f"{m.label} by set and model") for m in worth.metrics],
            _best_lines(worth, draw) + _more_line(worth), _scores_table(worth, draw),
        )
    ]  # fmt: skip
    for title, baselines in _baselines(worth, draw):
        found = [d for d in worth.differences if d.baseline in baselines]
        svgs = [
            draw.svg(charts.differences(worth, m, baselines, draw.names), f"{title}: {m.label}") for m in worth.metrics
        ]
        caption = f"{counted(d.verdict for d in found)} {_about_intervals(found)}"
        figures.append(Figure(title, svgs, caption, _differences_table(found, worth, draw)))
    figures += _source_figures(worth, draw)
    return Section("worth", "What is it worth?", how, figures)


def _about_intervals(found: list[Difference]) -> str:
    few = sorted({d.num_examples for d in found if d.estimate.low is None})
    if not few:
        return "An interval that contains zero does not show a difference."
    return f"There are no intervals for sets of fewer than {MIN_EXAMPLES} examples, so nothing is told apart there."


def _more_line(worth: Worth) -> str:
    if not worth.num_more:
        return ""
    targets = f"{worth.num_more} more targets are" if worth.num_more > 1 else "One more target is"
    return f" {targets} not shown: the full data, the main subset and its size come first, then the smallest subsets."


def _baselines(worth: Worth, draw: Drawing) -> list[tuple[str, list[str]]]:
    """(title, baselines) of each comparison: with the full data, and with random subsets of the same size."""
    found = list(dict.fromkeys(d.baseline for d in worth.differences))
    random = [b for b in found if b != FULL]
    to = draw.name(random[0]) if len(random) == 1 else "the random subset of the same size"
    both = [("Difference to the full data, paired by example", [FULL])] if FULL in found else []
    return both + ([(f"Difference to {to}, paired by example", random)] if random else [])


def _best_lines(worth: Worth, draw: Drawing) -> str:
    """Which model leads on each set and metric, as far as paired intervals say so."""
    if len(worth.models) < 2:
        return "Only one target was trained, so there is nothing to compare it with."
    leaders = {(one.metric, one.heldout_set): one.label for one in worth.leaders}
    values = {(s.metric, s.heldout_set, s.label): s.estimate.value for s in worth.scores if s.source is None}
    said = []
    for metric in worth.metrics:
        for held_out in worth.sets[:_MAX_SETS]:
            label = leaders.get((metric.key, held_out))
            if label is None:
                said.append(f"{metric.label} on “{held_out}”: no model can be distinguished from all of the others")
                continue
            word = "most" if metric.more_is_better else "lowest"
            value = figure(values[metric.key, held_out, label], metric)
            said.append(
                f"{word} {metric.label} on “{held_out}”: {draw.name(label)} ({value}), distinguishable from all others"
            )
    text = "; ".join(said)
    return f"{capitalised(text)}."


def _scores_table(worth: Worth, draw: Drawing) -> Table:
    metrics = {m.key: m for m in worth.metrics}
    rows = [
        [draw.name(s.label), s.heldout_set, metrics[s.metric].label, f"{s.num_examples:,}",
         figure(s.estimate.value, metrics[s.metric]), _interval(s.estimate, metrics[s.metric])]
        for s in worth.scores if s.source is None
    ]  # fmt: skip
    return Table(["trained on", "held-out set", "figure", "examples", "value", "95\u00a0% interval"], rows, 3)


def _interval(told: Estimate, metric: MetricFacts) -> str:
    if told.low is None or told.high is None:
        return "too few examples"
    return f"{figure(told.low, metric)} to {figure(told.high, metric)}"


def _differences_table(found: list[Difference], worth: Worth, draw: Drawing) -> Table:
    metrics = {m.key: m for m in worth.metrics}
    rows = []
    for d in found:
        m, told = metrics[d.metric], d.estimate
        between = "too few examples" if told.low is None or told.high is None else (
            f"{signed(told.low, m)} to {signed(told.high, m)}")  # fmt: skip
        rows.append(
            [
                draw.name(d.label),
                draw.name(d.baseline),
                d.heldout_set,
                m.label,
                signed(told.value, m),
                between,
                d.verdict,
            ]
        )
    headings = ["trained on", "against", "held-out set", "figure", "difference", "95\u00a0% interval", "verdict"]
    return Table(headings, rows, 4)


def _source_figures(worth: Worth, draw: Drawing) -> list[Figure]:
    """Loss by source, on the first set that has several."""
    metric = worth.metrics[0]
    for held_out in worth.sets:
        found = [s for s in worth.scores if s.source and (s.metric, s.heldout_set) == (metric.key, held_out)]
        sources = list(dict.fromkeys(s.source for s in found if s.source))
        if not sources:
            continue
        svgs = [
            draw.svg(charts.source_scores(worth, metric, held_out, source, draw.names), f"{metric.label} on {source}")
            for source in sources
        ]
        rows = [
            [s.source or "", draw.name(s.label), f"{s.num_examples:,}", figure(s.estimate.value, metric),
             _interval(s.estimate, metric)] for s in found
        ]  # fmt: skip
        caption = f"{len(sources)} sources of “{held_out}”, highest loss first."
        table = Table(["source", "trained on", "examples", metric.label, "95\u00a0% interval"], rows, 2)
        return [
            Figure(
                f"{capitalised(metric.label)} by source, on “{held_out}”",
                svgs,
                caption,
                table,
                panels=sources,
            )
        ]
    return []
