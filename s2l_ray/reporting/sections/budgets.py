"""How much is enough?"""

from __future__ import annotations

from s2l_ray.artifacts.index import FULL
from s2l_ray.reporting.charts import sweep as charts
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.look import VARIABLES, look_of
from s2l_ray.reporting.names import selector_name
from s2l_ray.reporting.numbers import figure, percent
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table

_MAX_SETS = 6


def budgets_section(facts: Facts, draw: Drawing) -> Section | None:
    budgets = facts.budgets
    if budgets is None:
        return None
    sets = list(dict.fromkeys(p.heldout_set for p in budgets.points))
    sets = [s for s in sets if not s] + [s for s in sets if s][:_MAX_SETS]
    panels = [s or "mean over the held-out sets" for s in sets]
    svgs = [
        draw.svg(charts.budget(budgets, s), f"Quality against budget, {p}") for s, p in zip(sets, panels, strict=True)
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

    looks = [(s, look_of(s, selectors)) for s in selectors]
    return [(look.symbol, VARIABLES[look.colour][0], selector_name(s)) for s, look in looks]
