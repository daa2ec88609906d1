"""The section “Does it hold?”."""

from __future__ import annotations

from s2l_ray.reporting.charts import stability as stability_charts
from s2l_ray.reporting.charts import sweep as sweep_charts
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.look import VARIABLES, look_of
from s2l_ray.reporting.names import selector_name
from s2l_ray.reporting.numbers import figure, percent
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table
from s2l_ray.text.display import capitalised


def stability_section(facts: Facts, draw: Drawing) -> Section | None:
    stability = facts.stability
    if stability is None:
        return None
    figures = []
    if stability.overlap is not None:
        overlap = stability.overlap
        pairs = [v for i, line in enumerate(overlap.matrix) for v in line[:i]]
        least, most = percent(min(pairs)), percent(max(pairs))
        shares = least if least == most else f"between {least} and {most}"
        who = "The two subsets have" if len(pairs) == 1 else f"Any two of these {len(overlap.labels)} subsets have"
        caption = f"{who} {shares} of their union in common."
        names = [draw.name(label) for label in overlap.labels]
        rows = [[name, *(percent(v) for v in line)] for name, line in zip(names, overlap.matrix, strict=True)]
        svg = draw.svg(stability_charts.overlap(overlap, draw.names), "Overlap of subsets")
        figures.append(Figure("Overlap of subsets (Jaccard)", [svg], caption, Table(["", *names], rows)))
    for parameter in dict.fromkeys(t.parameter for t in stability.tuned):
        found = [t for t in stability.tuned if t.parameter == parameter]
        sets = list(dict.fromkeys(t.heldout_set for t in found))[:4]
        svgs = [draw.svg(sweep_charts.tuned(stability, parameter, s), f"{parameter} on {s}") for s in sets]
        assert stability.metric is not None
        rows = [
            [t.value, t.selector, percent(t.share), t.heldout_set, figure(t.mean, stability.metric), str(len(t.values))]
            for t in found
        ]
        spread = max(t.mean for t in found) - min(t.mean for t in found)
        label = stability.metric.label
        caption = (
            f"{capitalised(label)} over the values of {parameter}: {figure(spread, stability.metric)} "
            "between the smallest and the largest."
        )
        table = Table([parameter, "selector", "share", "held-out set", "mean", "seeds"], rows, 1)
        looks = {t.selector: look_of(t.selector, {u.selector for u in found}) for t in found}
        legend = [(look.symbol, VARIABLES[look.colour][0], selector_name(s)) for s, look in looks.items()]
        figures.append(Figure(parameter, svgs, caption, table, legend, sets))
    how = "How much the selection and its results depend on settings, seeds and proxies."
    return Section("stability", "Does it hold?", how, figures)
