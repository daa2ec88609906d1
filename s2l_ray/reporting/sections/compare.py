"""The section “Compare all subsets”, with the datasets that they were judged on."""

from __future__ import annotations

from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_worth import MetricFacts, Worth
from s2l_ray.reporting.numbers import compact, figure, percent
from s2l_ray.reporting.parts import Drawing, Section, Table
from s2l_ray.text.formats import format_count

_NO_BREAK = "\u00a0"
_PERCENT = f"{_NO_BREAK}%"


def subsets_section(facts: Facts, draw: Drawing) -> Section | None:
    if not facts.subsets:
        return None
    worth = facts.worth
    columns = [(m, s) for m in worth.metrics for s in worth.sets] if worth else []
    models = {m.label: m for m in worth.models} if worth else {}
    overlap = _overlaps(facts)
    headings = ["subset", "examples", "share", *(f"{m.label}, {s}" for m, s in columns)]
    headings += ["target’s tokens", "target’s FLOPs"] if models else []
    headings += [f"in common with {draw.name(facts.main or '')}"] if overlap else []
    sizes = {label: (m.num_examples, m.share) for label, m in models.items()}
    sizes |= {s.label: (s.num_examples, s.share) for s in facts.subsets}
    leaders = {(one.metric, one.heldout_set, one.label) for one in (worth.leaders if worth else [])}
    rows, strong = [], set()
    for i, (label, (count, share)) in enumerate(sizes.items()):
        cells = [_score(worth, metric, held_out, label) for metric, held_out in columns]
        strong |= {(i, 3 + j) for j, (m, s) in enumerate(columns) if (m.key, s, label) in leaders}
        cost = ["", ""] if models else []
        if label in models:
            cost = [format_count(models[label].tokens), compact(models[label].flops)]
        common = [overlap.get(label, "")] if overlap else []
        rows.append([draw.name(label), f"{count:,}", percent(share), *cells, *cost, *common])
    how = "All subsets of this run." + (" 95\u00a0% intervals are in brackets." if columns else "")
    if strong:
        how += " Bold values are better than each of the others, by intervals paired by example."
    content = {"subsets": Table(headings, rows, strong=frozenset(strong)), "data_sets": _data_sets(facts)}
    return Section("subsets", "Compare all subsets", how, [], "subsets", content)


def _score(worth: Worth | None, metric: MetricFacts, held_out: str, label: str) -> str:
    """`0.403 (0.381 to 0.425)`; empty if the model was not judged on the set."""
    wanted = (metric.key, held_out, label, None)
    for score in worth.scores if worth else []:
        if (score.metric, score.heldout_set, score.label, score.source) == wanted:
            told = score.estimate
            if told.low is None or told.high is None:
                return figure(told.value, metric)
            low, high = figure(told.low, metric), figure(told.high, metric)
            between = f"({low.removesuffix(_PERCENT)} to {high})"
            return f"{figure(told.value, metric)} {between.replace(' ', _NO_BREAK)}"
    return ""


def _overlaps(facts: Facts) -> dict[str, str]:
    """Subset → what it has in common with the main one; empty if that is not known."""
    overlap = facts.stability.overlap if facts.stability else None
    if overlap is None or facts.main not in overlap.labels:
        return {}
    line = overlap.matrix[overlap.labels.index(facts.main)]
    return {label: percent(share) for label, share in zip(overlap.labels, line, strict=True)}


def _data_sets(facts: Facts) -> Table | None:
    if not facts.data_sets:
        return None
    rows = [
        [
            d.name,
            d.role,
            d.level,
            d.answer,
            d.domain,
            f"{d.num_examples:,}",
            "" if d.published is None else f"{d.published:,}",
            "" if d.num_sources is None else f"{d.num_sources:,}",
        ]
        for d in facts.data_sets
    ]
    headings = ["dataset", "used for", "level", "an answer is", "domain", "examples", "published", "sources"]
    kept = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    num_text = sum(i < 5 for i in kept)
    return Table([headings[i] for i in kept], [[row[i] for i in kept] for row in rows], num_text)
