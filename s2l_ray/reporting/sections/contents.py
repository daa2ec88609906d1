"""What does the subset contain?"""

from __future__ import annotations

from s2l_ray.reporting.charts import contents as charts
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_contents import Contents
from s2l_ray.reporting.numbers import loss, percent
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table


def contents_section(facts: Facts, draw: Drawing) -> Section | None:
    contents = facts.contents
    if contents is None or not contents.subsets:
        return None
    main = facts.main if any(s.label == facts.main for s in contents.subsets) else contents.subsets[0].label
    assert main is not None
    share = next(s.share for s in contents.subsets if s.label == main)
    beside = [s.label for s in contents.subsets if s.selector == "random" and s.share == share and s.label != main][:1]
    columns = sorted(contents.columns, key=lambda c: (facts.clusters is None or c != facts.clusters.column, c))
    figures = []
    for column in columns:
        if len(contents.columns[column]) < 2:
            continue
        labels = [main, *beside]
        svg = draw.svg(charts.shares(contents, column, labels, draw.names), f"Share by {column}")
        more = f" {contents.smaller[column]:,} smaller ones are not shown." if contents.smaller[column] else ""
        caption = _lifted(contents, column, main, draw) + more
        table = _shares_table(contents, column, draw)
        figures.append(Figure(f"By {column}", [svg], caption, table, draw.legend(["", *labels])))
    selector = draw.selector(main)
    svgs = [draw.svg(charts.histogram(h, main, selector), h.what) for h in contents.histograms]
    rows = [[h.what, h.unit, *("" if v is None else loss(v) for v in h.medians.values())] for h in contents.histograms]
    headings = ["median of", "unit", *("corpus" if not n else draw.name(n) for n in contents.histograms[0].medians)]
    figures.append(Figure("Lengths and losses", svgs, _medians_said(contents, main, draw), Table(headings, rows, 2),
                          draw.legend(["", main])))  # fmt: skip
    how = f"{draw.name(main)} beside the whole corpus{' and a random choice of the same size' if beside else ''}."
    return Section("contents", "What does the subset contain?", how, figures)


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
    said = f"{draw.name(main)} has more of {len(lifted)} of {len(ratios)} values and less of {len(thinned)}"
    if lifted:
        ratio, value = max(lifted)
        said += f"; most lifted: {value} ({ratio:.1f} times its share of the corpus)"
    if thinned:
        ratio, value = min(thinned)
        said += f"; most thinned: {value} ({ratio:.2f} times)"
    return said + ". More and less: by over a tenth."


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
    return f"{text[:1].upper()}{text[1:]}. Dashed lines mark the medians; the outline is the corpus."
