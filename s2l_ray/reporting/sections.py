"""The sections of the page, first half: what a subset is worth, how much is enough, what it costs, what it contains."""

from __future__ import annotations

from s2l_ray.artifacts.index import FULL
from s2l_ray.reporting import charts, charts_sweep
from s2l_ray.reporting.facts import Contents, Difference, Estimate, Facts, MetricFacts, Worth
from s2l_ray.reporting.intervals import BETTER, UNDECIDED, WORSE
from s2l_ray.reporting.look import MUTED, STEPS, VARIABLES
from s2l_ray.reporting.names import selector_name
from s2l_ray.reporting.numbers import compact, figure, loss, percent, signed
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table

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
    trained = f"The same target, {steps.pop():,} optimiser steps on each choice" if len(steps) == 1 else (
        "The same target, trained on each choice")  # fmt: skip
    how = f"{trained}, measured on examples that no model was trained on. {seeds}"
    figures = [
        Figure(
            "Held-out figures of every model",
            [draw.svg(charts.scores(worth, m, draw.names), f"{m.label} by set and model") for m in worth.metrics],
            _best_lines(worth, draw), _scores_table(worth, draw),
        )
    ]  # fmt: skip
    for title, baselines in _baselines(worth, draw):
        found = [d for d in worth.differences if d.baseline in baselines]
        svgs = [
            draw.svg(charts.differences(worth, m, baselines, draw.names), f"{title}: {m.label}") for m in worth.metrics
        ]
        figures.append(Figure(title, svgs, _counted(found), _differences_table(found, worth, draw)))
    figures += _source_figures(worth, draw)
    return Section("worth", "What is it worth?", how, figures)


def _baselines(worth: Worth, draw: Drawing) -> list[tuple[str, list[str]]]:
    """(title, baselines): the full data, and the random choices, each compared with those of its own size."""
    found = list(dict.fromkeys(d.baseline for d in worth.differences))
    random = [b for b in found if b != FULL]
    to = draw.name(random[0]) if len(random) == 1 else "the random choice of the same size"
    both = [("Difference to the full data, paired by example", [FULL])] if FULL in found else []
    return both + ([(f"Difference to {to}, paired by example", random)] if random else [])


def _best_lines(worth: Worth, draw: Drawing) -> str:
    """Which model leads on each set and metric, as far as intervals say so."""
    said = []
    for metric in worth.metrics:
        for held_out in worth.sets[:_MAX_SETS]:
            found = [s for s in worth.scores if (s.metric, s.heldout_set, s.source) == (metric.key, held_out, None)]
            best = max(found, key=lambda s: s.estimate.value if metric.more_is_better else -s.estimate.value)
            word = "most" if metric.more_is_better else "least"
            said.append(f"{word} {metric.label} on “{held_out}”: {draw.name(best.label)} "
                        f"({figure(best.estimate.value, metric)})")  # fmt: skip
    text = "; ".join(said)
    return text[:1].upper() + text[1:] + ". Whether the lead is more than chance is told by the differences below."


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


def _counted(found: list[Difference]) -> str:
    counts = {word: sum(d.verdict == word for d in found) for word in (BETTER, WORSE, UNDECIDED)}
    said = [f"{n} {word}" for word, n in counts.items() if n]
    return f"Of {len(found)} comparisons: {', '.join(said)}. An interval that holds zero tells nothing apart."


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
        caption = f"{len(sources)} sources of “{held_out}”, those of the highest loss first."
        table = Table(["source", "trained on", "examples", metric.label, "95\u00a0% interval"], rows, 2)
        return [
            Figure(
                f"{metric.label[:1].upper()}{metric.label[1:]} by source, on “{held_out}”",
                svgs,
                caption,
                table,
                panels=sources,
            )
        ]
    return []


def budgets_section(facts: Facts, draw: Drawing) -> Section | None:
    budgets = facts.budgets
    if budgets is None:
        return None
    sets = list(dict.fromkeys(p.heldout_set for p in budgets.points))
    sets = [s for s in sets if not s] + [s for s in sets if s][:_MAX_SETS]
    panels = [s or "mean over the held-out sets" for s in sets]
    svgs = [
        draw.svg(charts_sweep.budget(budgets, s), f"Quality against budget, {p}")
        for s, p in zip(sets, panels, strict=True)
    ]
    said = []
    for selector, share in budgets.smallest.items():
        who = selector_name(selector)
        said.append(
            f"no budget tried of {who} is within {percent(budgets.within)} of the full data" if share is None
            else f"{who}: {percent(share)} of the data is the smallest budget tried that is within "
            f"{percent(budgets.within)} of the full data"
        )  # fmt: skip
    if budgets.rank_correlation is not None:
        said.append(f"the proxy's model ranked the budgets with a correlation of {budgets.rank_correlation:.2f}")
    seeds = min(p.num_seeds for p in budgets.points)
    how = (
        f"{budgets.metric.label[:1].upper()}{budgets.metric.label[1:]} against the size of the subset. Shaded around a "
        f"line: 95\u00a0% interval over held-out examples and {seeds} seed{'s' if seeds > 1 else ''}; the grey zone is "
        "good enough, the ring marks the smallest budget in it; dotted: predicted with the proxy's model."
    )
    rows = [
        [selector_name(p.selector), p.phase, p.heldout_set or "mean", percent(p.share), f"{p.num_examples:,}",
         f"{p.num_seeds}", figure(p.estimate.value, budgets.metric) if p.heldout_set else "",
         "" if p.relative is None else f"{p.relative.value:.1f} %",
         "" if p.relative is None or p.relative.low is None or p.relative.high is None
         else f"{p.relative.low:.1f} % to {p.relative.high:.1f} %"]
        for p in budgets.points
    ]  # fmt: skip
    table = Table(["selector", "trained", "held-out set", "share", "examples", "seeds", "value", "of full data",
                   "95\u00a0% interval"], rows, 3)  # fmt: skip
    selectors = dict.fromkeys(p.selector for p in budgets.points if p.selector != FULL)
    legend = _selector_legend(list(selectors))
    caption = "; ".join(said)
    figure_ = Figure("Quality against budget", svgs, caption[:1].upper() + caption[1:] + ".", table, legend, panels)
    return Section("budgets", "How much is enough?", how, [figure_])


def _selector_legend(selectors: list[str]) -> list[tuple[str, str, str]]:
    from s2l_ray.reporting.look import look_of

    looks = [(s, look_of(s, selectors)) for s in selectors]
    return [(look.symbol, VARIABLES[look.colour][0], selector_name(s)) for s, look in looks]


def cost_section(facts: Facts, draw: Drawing) -> Section | None:
    cost = facts.cost
    if cost is None:
        return None
    selecting = cost.selection_flops
    legend = [("■", VARIABLES[STEPS[4]][0], "training the reference model"),
              ("■", VARIABLES[STEPS[2]][0], "scoring with it"), ("■", VARIABLES[MUTED][0], "one target")]  # fmt: skip
    rows = [[draw.name(p.selector), p.part, compact(p.flops)] for p in cost.parts]
    said = f"Selecting took {compact(selecting)} FLOPs, once."
    if facts.worth and any(m.selector == FULL for m in facts.worth.models) and cost.full_flops:
        share = percent(cost.selection_share or 0)
        said += f" One target on the full data takes {compact(cost.full_flops)}: selecting costs {share} of it."
    figures = [Figure("Selecting and one target", [draw.svg(charts.cost_bars(cost, draw.names), "FLOPs by part")], said,
                      Table(["trained on", "part", "FLOPs"], rows, 2), legend)]  # fmt: skip
    figures += _break_even_figure(facts, draw)
    if cost.reference and cost.proxy_parameters:
        rows = [[compact(p), compact(f)] for p, f in cost.reference]
        rows.append([f"{cost.proxy_parameters:,} (this run)", compact(selecting)])
        figures.append(
            Figure(
                "A reference model of another size", [draw.svg(charts.reference_cost(cost), "FLOPs by size")],
                "From 6 FLOPs a parameter and token of training and 2 of scoring; the dot is this run's own.",
                Table(["parameters", "FLOPs"], rows),
            )
        )  # fmt: skip
    how = (
        "In floating-point operations, which do not depend on who else used the machine. Tokenising and clustering are "
        "few beside them; measured times stand under “Repeat it”."
    )
    return Section("cost", "What does it cost, and when does it pay?", how, figures)


def _break_even_figure(facts: Facts, draw: Drawing) -> list[Figure]:
    cost, worth = facts.cost, facts.worth
    if cost is None or cost.full_flops is None or worth is None or not cost.break_even:
        return []
    drawn = facts.main if facts.main in cost.break_even else next(iter(cost.break_even))
    flops = {FULL: cost.full_flops} | {m.label: m.flops for m in worth.models if m.label in cost.break_even}
    names = draw.names | {FULL: "full data"}
    said = []
    for label, n in cost.break_even.items():
        if n is None:
            said.append(f"{draw.name(label)}: a target costs no less than on the full data, so it never pays in FLOPs")
        else:
            said.append(f"{draw.name(label)} pays from {max(1, -(-n // 1)):.0f} target{'s' if n > 1 else ''} on")
    if not cost.full_is_measured:
        said.append("the full data's cost is reckoned from a subset's at equal epochs")
    rows = [[names.get(label, label), compact(value), "" if label == FULL else _targets(cost.break_even[label])]
            for label, value in flops.items()]  # fmt: skip
    legend = [
        ("—", VARIABLES["#4a4a4a"][0], "full data"),
        ("—", VARIABLES["#0b6e99"][0], f"{draw.name(drawn)}, selection included"),
    ]
    text = "; ".join(said)
    svg = draw.svg(
        charts.break_even(cost, {label: flops[label] for label in (FULL, drawn)}, names),
        "Total FLOPs by number of targets",
    )
    table = Table(["trained on", "FLOPs of one target", "pays from"], rows)
    return [Figure("When selecting pays", [svg], f"{text[:1].upper()}{text[1:]}.", table, legend)]


def _targets(n: float | None) -> str:
    return "never" if n is None else f"{n:.2f} targets"


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
