"""Charts of the gradient check."""

from __future__ import annotations

from typing import Any

from s2l_ray.reporting.charts.worth import dots
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_gradients import GradientFacts
from s2l_ray.reporting.look import INK, MUTED, Rows, look_of
from s2l_ray.selection.gradient_similarity import Interval
from s2l_ray.selection.gradient_verdict import CLUSTERS, against_random, how_similar

SNAPSHOTS = {"start": "before training", "middle": "in the middle", "last": "at the end"}
KINDS = {"clusters": "clusters", "sources": "sources", "embeddings": "of embeddings"}


def similarities(gradients: GradientFacts) -> Any:
    """Mean cosine within groups minus across groups, for clusters and baselines, at each snapshot."""
    rows: Rows = []
    headings = []
    at = 0
    for one in gradients.snapshots:
        headings.append({"at": at, "text": SNAPSHOTS[one.name]})
        for kind, found in one.similarity.items():
            if found.difference is None:
                continue
            at += 1
            word = how_similar(found)
            told = f"{KINDS[kind]} {SNAPSHOTS[one.name]}: {found.difference.value:+.3f}, {word}"
            rows.append(_ends(found.difference) | {
                "at": at, "name": KINDS[kind], "colour": INK if kind == CLUSTERS else MUTED, "shape": "circle",
                "text": word, "tip": told,
            })  # fmt: skip
        at += 1
    return dots(rows, headings, "cosine within minus across (right: more similar)", zero=True) if rows else None


def against(gradients: GradientFacts, facts: Facts, names: dict[str, str], weighted: bool) -> Any:
    """Errors of subsets' mean gradients relative to random subsets of the same size, as percentage differences."""
    selectors = {s.label: s.selector for s in facts.subsets}
    rows: Rows = []
    headings = []
    at = 0
    for one in gradients.snapshots:
        found = {label: error.weighted_by_random if weighted else error.rms_by_random
                 for label, error in one.errors.items()}  # fmt: skip
        ratios = {label: ratio for label, ratio in found.items() if ratio is not None}
        headings += [{"at": at, "text": SNAPSHOTS[one.name]}] if ratios else []
        for label, ratio in ratios.items():
            at += 1
            look = look_of(selectors.get(label, label), selectors.values())
            name, word = names.get(label, label), against_random(ratio) or "level"
            percents = Interval(*(100 * (end - 1) for end in (ratio.value, ratio.low, ratio.high)))
            rows.append(_ends(percents) | {
                "at": at, "name": name, "colour": look.colour, "shape": look.shape, "text": word,
                "tip": f"{name} {SNAPSHOTS[one.name]}: {percents.value:+.0f} % of random's error, {word}",
            })  # fmt: skip
        at += 1 if ratios else 0
    return dots(rows, headings, "error relative to random’s (%; left is better)", zero=True) if rows else None


def _ends(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
