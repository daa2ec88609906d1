"""The section “What does the subset contain?”."""

from __future__ import annotations

from collections.abc import Sequence

from s2l_ray.reporting.charts import contents as charts
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_contents import Contents, SubsetFacts
from s2l_ray.reporting.look import VARIABLES
from s2l_ray.reporting.names import selector_name
from s2l_ray.reporting.numbers import loss, percent
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table, View
from s2l_ray.text.display import capitalised

_MAX_LINES = 16
"""Maximum number of values in one panel."""
_MAX_VIEWS = 5


def contents_section(facts: Facts, draw: Drawing) -> Section | None:
    contents = facts.contents
    if contents is None or not contents.subsets:
        return None
    main = next((s for s in contents.subsets if s.label == facts.main), contents.subsets[0])
    columns = sorted(contents.columns, key=lambda c: (facts.clusters is None or c != facts.clusters.column, c))
    figures = [_shares_figure(contents, column, main, draw) for column in columns if len(contents.columns[column]) > 1]
    svgs = [draw.svg(charts.histogram(h, main.label, main.selector), h.what) for h in contents.histograms]
    rows = [[h.what, h.unit, *("" if v is None else loss(v) for v in h.medians.values())] for h in contents.histograms]
    headings = ["median of", "unit", *("corpus" if not n else draw.name(n) for n in contents.histograms[0].medians)]
    figures.append(Figure("Lengths and losses", svgs, _medians_said(contents, main.label, draw),
                          Table(headings, rows, 2), draw.legend(["", main.label])))  # fmt: skip
    name = capitalised(draw.name(main.label))
    how = f"{name} compared with the whole corpus, and with a random subset of the same size if there is one."
    return Section("contents", "What does the subset contain?", how, figures)


def _shares_figure(contents: Contents, column: str, main: SubsetFacts, draw: Drawing) -> Figure:
    """Shares of a column's values: a picture for each budget of the main selector, and one with several budgets."""
    table = _shares_table(contents, column, draw)
    budgets = sorted((s for s in contents.subsets if s.selector == main.selector), key=lambda s: s.share)
    views = [_budget_view(contents, column, s, draw) for s in sorted(budgets, key=lambda s: s is not main)[:_MAX_VIEWS]]
    if len(budgets) > 1:
        few = budgets if len(budgets) <= 3 else [budgets[0], budgets[len(budgets) // 2], budgets[-1]]
        marks = charts.budget_marks([s.label for s in few])
        shown = "three of " if len(budgets) > 3 else ""
        said = f"{shown}{len(budgets)} budgets of {selector_name(main.selector)}: the larger, the darker."
        legend = [(m.symbol, VARIABLES[m.colour][0], draw.name(m.label) if m.label else "corpus") for m in marks]
        views.append(View("several budgets", _share_svgs(contents, column, marks, draw), said, legend))
    if len(views) == 1:
        [view] = views
        return Figure(f"By {column}", view.svgs, view.caption, table, view.legend)
    smaller = contents.smaller[column]
    caption = f"{smaller:,} smaller ones are not shown." if smaller else "All values are in the table."
    return Figure(f"By {column}", [], caption, table, views=views)


def _budget_view(contents: Contents, column: str, subset: SubsetFacts, draw: Drawing) -> View:
    random = [s.label for s in contents.subsets if s.selector == "random" and s.share == subset.share]
    labels = list(dict.fromkeys([subset.label, *random[:1]]))
    svgs = _share_svgs(contents, column, charts.marks_of(contents, labels), draw)
    return View(
        draw.name(subset.label), svgs, _lifted(contents, column, subset.label, draw), draw.legend(["", *labels])
    )


def _share_svgs(contents: Contents, column: str, marks: Sequence[charts.Mark], draw: Drawing) -> list[str]:
    """One panel, or two next to each other if there are many values."""
    count = len(contents.columns[column])
    per_panel = count if count <= _MAX_LINES else -(-count // 2)
    return [
        draw.svg(
            charts.shares(contents, column, marks, draw.names, slice(first, first + per_panel)), f"Shares by {column}"
        )
        for first in range(0, count, per_panel)
    ]


def _lifted(contents: Contents, column: str, main: str, draw: Drawing) -> str:
    """How many values the subset has more and fewer of, and the largest of each."""
    total = charts.contents_total(contents, column)
    chosen = next(s.num_examples for s in contents.subsets if s.label == main)
    ratios = [
        (c.chosen[main] / max(1, chosen) / (c.count / max(1, total)), c.value)
        for c in contents.columns[column]
        if c.count
    ]
    lifted, thinned = [r for r in ratios if r[0] > 1.1], [r for r in ratios if r[0] < 0.9]
    said = (
        f"Compared with the corpus, {draw.name(main)} has a larger share of {len(lifted)} of {len(ratios)} values and "
        f"a smaller share of {len(thinned)} (by more than a tenth)"
    )
    if lifted:
        ratio, value = max(lifted)
        said += f"; largest increase: {value} ({ratio:.1f} times its share of the corpus)"
    if thinned:
        ratio, value = min(thinned)
        said += f"; largest decrease: {value} ({f'{ratio:.2f} times' if ratio else 'none of its examples'})"
    return f"{said}."


def _shares_table(contents: Contents, column: str, draw: Drawing) -> Table:
    total = charts.contents_total(contents, column)
    sizes = {s.label: s.num_examples for s in contents.subsets}
    rows = [
        [c.value, f"{c.count:,} ({percent(c.count / max(1, total))})",
         *(f"{n:,} ({percent(n / max(1, sizes[label]))})" for label, n in c.chosen.items())]
        for c in contents.columns[column]
    ]  # fmt: skip
    return Table([column, "corpus", *(draw.name(label) for label in sizes)], rows)


def _medians_said(contents: Contents, main: str, draw: Drawing) -> str:
    said = []
    for h in contents.histograms:
        own, whole = h.medians[main], h.medians[""]
        if own is not None and whole is not None:
            said.append(f"{h.what}: median {loss(own)} against {loss(whole)} {h.unit} in the corpus")
    text = "; ".join(said)
    return f"{capitalised(text)}. Dashed lines mark the medians; the outline is the corpus."
