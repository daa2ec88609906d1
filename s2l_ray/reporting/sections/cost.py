"""The section “What does it cost, and when does it pay?”."""

from __future__ import annotations

from s2l_ray.artifacts.index import FULL
from s2l_ray.reporting.charts import cost as charts
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_worth import TARGET, Cost
from s2l_ray.reporting.look import LOOKS, MUTED, STEPS, VARIABLES
from s2l_ray.reporting.numbers import compact, percent
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table
from s2l_ray.text.display import capitalised
from s2l_ray.text.formats import format_duration


def cost_section(facts: Facts, draw: Drawing) -> Section | None:
    cost = facts.cost
    if cost is None:
        return None
    selecting = cost.selection_flops
    legend = [("■", VARIABLES[STEPS[4]][0], "training the reference model"),
              ("■", VARIABLES[STEPS[2]][0], "scoring with it")]  # fmt: skip
    has_targets = any(p.part == TARGET for p in cost.parts)
    legend += [("■", VARIABLES[MUTED][0], "one target")] if has_targets else []
    title, who = ("Selecting and one target", "trained on") if has_targets else ("Selecting", "subset")
    rows = [[draw.name(p.selector), p.part, compact(p.flops)] for p in cost.parts]
    said = f"Selecting took {compact(selecting)} FLOPs, once"
    said += ", with the target on everything that scores." if cost.by_target else "."
    if len({cost.choosing[label] for label in cost.break_even}) > 1:
        said += " Each bar includes everything its subset needed; shared work was done only once."
    if facts.worth and any(m.selector == FULL for m in facts.worth.models) and cost.full_flops:
        share = percent(cost.selection_share or 0)
        said += f" One target on the full data takes {compact(cost.full_flops)}: selection costs {share} of it."
    figures = [Figure(title, [draw.svg(charts.cost_bars(cost, draw.names), "FLOPs by part")], said,
                      Table([who, "part", "FLOPs"], rows, 2), legend)]  # fmt: skip
    figures += _wall_clock_figure(cost, draw)
    figures += _break_even_figure(facts, draw)
    if cost.reference and cost.proxy_parameters:
        rows = [[compact(p), compact(f)] for p, f in cost.reference]
        rows.append([f"{cost.proxy_parameters:,} (this run)", compact(cost.proxy_flops)])
        figures.append(
            Figure(
                "A reference model of another size", [draw.svg(charts.reference_cost(cost), "FLOPs by size")],
                "Assuming 6 FLOPs per parameter and token for training and 2 for scoring; the dot is this run.",
                Table(["parameters", "FLOPs"], rows),
            )
        )  # fmt: skip
    how = (
        "Costs are in floating-point operations, which do not depend on the machine’s other load. Tokenising and "
        "clustering are negligible; measured times are under “Repeat it”."
    )
    return Section("cost", "What does it cost, and when does it pay?", how, figures)


def _wall_clock_figure(cost: Cost, draw: Drawing) -> list[Figure]:
    clocks = cost.wall_clock
    if len(clocks) < 2:
        return []
    names = {clock.subset: draw.name(clock.subset) + (", by the target" if clock.by_target else "") for clock in clocks}
    legend = [("■", VARIABLES[STEPS[4]][0], "training the reference model"),
              ("■", VARIABLES[STEPS[2]][0], "scoring with it"), ("■", VARIABLES[MUTED][0], "selecting")]  # fmt: skip
    dearest = max(clocks, key=lambda clock: clock.total_s)
    parts = {"training the reference model": dearest.training_s, "scoring": dearest.scoring_s,
             "selecting": dearest.selection_s}  # fmt: skip
    largest = max(parts, key=lambda name: parts[name])
    took, most = format_duration(dearest.total_s), format_duration(parts[largest])
    caption = (
        "Wall-clock time on this run’s machines, each selector as if it ran alone. The slowest, "
        f"{names[dearest.subset]}, takes {took}, most of it {largest} ({most}). Selectors that read the proxy’s scores "
        "share its training and scoring."
    )
    rows = [
        [names[clock.subset], *(format_duration(seconds) for seconds in
                                (clock.training_s, clock.scoring_s, clock.selection_s, clock.total_s))]
        for clock in clocks
    ]  # fmt: skip
    table = Table(["selector", "reference training", "scoring", "selection", "total"], rows)
    svg = draw.svg(charts.wall_clock_bars(clocks, names), "Seconds by part")
    return [Figure("Wall-clock time of selection", [svg], caption, table, legend)]


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
        said.append("the cost of the full data is extrapolated from a subset at equal epochs")
    rows = [[names.get(label, label), compact(value), "" if label == FULL else _targets(cost.break_even[label])]
            for label, value in flops.items()]  # fmt: skip
    legend = [
        ("—", VARIABLES[LOOKS[FULL].colour][0], "full data"),
        ("—", VARIABLES[LOOKS["s2l"].colour][0], f"{draw.name(drawn)}, selection included"),
    ]
    text = "; ".join(said)
    svg = draw.svg(
        charts.break_even(cost, {label: flops[label] for label in (FULL, drawn)}, names),
        "Total FLOPs by number of targets",
    )
    table = Table(["trained on", "FLOPs of one target", "pays from"], rows)
    return [Figure("When selecting pays", [svg], f"{capitalised(text)}.", table, legend)]


def _targets(n: float | None) -> str:
    return "never" if n is None else f"{n:.2f} targets"
