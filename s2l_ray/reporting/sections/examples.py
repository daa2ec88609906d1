"""The sections “Read the examples” and “What was set aside?”."""

from __future__ import annotations

import math

from s2l_ray.reporting.charts import contents as charts
from s2l_ray.reporting.facts import Facts, GuardFacts
from s2l_ray.reporting.numbers import loss, percent
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table
from s2l_ray.text.display import capitalised

FIRST_EXAMPLES = 20
"""Number of rows that are in the page as text; JavaScript adds the others."""


def examples_section(facts: Facts, draw: Drawing) -> Section | None:
    if not facts.examples:
        return None
    cut = sum(e.num_cut > 0 for e in facts.examples)
    how = (
        f"Of each cluster, by last loss: the easiest, the median and the hardest example, chosen and left out. "
        f"{len(facts.examples):,} of {facts.num_examples or 0:,} examples"
        + (f"; {cut} of them are cut." if cut else ".")
    )
    low, high = min(min(e.losses) for e in facts.examples), max(max(e.losses) for e in facts.examples)
    rows = [
        {"id": e.id, "cluster": e.cluster, "why": e.why, "chosen": e.is_chosen, "source": e.source, "topic": e.topic,
         "tokens": f"{e.tokens:,}", "first": loss(e.losses[0]), "last": loss(e.losses[-1]),
         "line": _line(e.losses, low, high), "turns": [list(turn) for turn in e.turns], "cut": e.num_cut}
        for e in facts.examples
    ]  # fmt: skip
    return Section("examples", "Read the examples", how, [], "examples", rows)


def _line(losses: list[float], low: float, high: float) -> str:
    """Points of a polyline 60 by 18, on a log scale from the least to the largest loss shown."""
    low = max(low, 1e-3)
    span = max(math.log(max(high, low) / low), 1e-9)
    points = []
    for i, value in enumerate(losses):
        x = 1 + 58 * i / max(1, len(losses) - 1)
        y = 17 - 16 * min(1.0, max(0.0, math.log(max(value, low) / low) / span))
        points.append(f"{x:.0f},{y:.1f}")
    return " ".join(points)


def aside_section(facts: Facts, draw: Drawing) -> Section | None:
    aside = facts.set_aside
    if aside is None:
        return None
    counts = dict(aside.counts)
    lost = counts["read"] - counts.get("used", counts["read"])
    caption = f"{counts['read']:,} examples were read; {lost:,} of them were not available for selection."
    figures = [
        Figure("Outcome of all examples", [draw.svg(charts.fates(aside), "Examples by outcome")], caption,
               Table(["", "examples"], [[name, f"{n:,}"] for name, n in aside.counts]))
    ]  # fmt: skip
    if aside.reasons:
        rows = [[reason, f"{n:,}"] for reason, n in aside.reasons]
        figures.append(
            Figure(
                "Why rows were unusable",
                [],
                "By reason, most common first.",
                Table(["reason", "rows"], rows),
            )
        )
        rows = [[r.stage, r.origin, r.reason, f"{r.index:,}"] for r in aside.rows]
        text = "All unusable rows are in the folder `quarantine` of the stage."
        figures.append(Figure("Some unusable rows", [], text, Table(["stage", "file", "reason", "row"], rows, 3)))
    figures += [_guard_figure(guard, draw) for guard in aside.guards]
    return Section("aside", "What was set aside?", "Nothing is dropped silently.", figures)


def _guard_figure(guard: GuardFacts, draw: Drawing) -> Figure:
    rules = list(guard.by_rule)
    rows = [
        [category, value, f"{dropped:,} of {size:,}", percent(dropped / size), *(f"{by[rule]:,}" for rule in rules)]
        for category, value, dropped, size, by in guard.lines
    ]
    share = percent(guard.num_dropped / max(1, guard.num_examples))
    why = ", ".join(f"{rule} {count:,}" for rule, count in guard.by_rule.items())
    said = [f"{guard.num_dropped:,} of {guard.num_examples:,} examples ({share}) are chosen last: {why}.",
            *(f"{capitalised(warning)}." for warning in guard.warnings)]  # fmt: skip
    table = Table(["", "value", "chosen last", "share", *rules], rows, 2) if rows else None
    return Figure(f"What the guard of {draw.name(guard.subset)} flags", [], " ".join(said), table)
