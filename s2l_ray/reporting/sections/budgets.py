"""The section “How much is enough?”."""

from __future__ import annotations

from s2l_ray.artifacts.index import FULL
from s2l_ray.reporting.charts import sweep as charts
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_worth import Budgets
from s2l_ray.reporting.look import VARIABLES, look_of
from s2l_ray.reporting.names import selector_name
from s2l_ray.reporting.numbers import figure, percent
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table
from s2l_ray.text.display import capitalised

_MAX_SETS = 6


def budgets_section(facts: Facts, draw: Drawing) -> Section | None:
    """Quality against budget, by held-out metrics of a sweep and by any targets' answers to test questions."""
    of_answers = facts.judged.budgets if facts.judged else []
    titles = {task.name: task.title for task in facts.judged.tasks} if facts.judged else {}
    figures = [] if facts.budgets is None else [_figure(facts.budgets, "held-out set", {}, draw)]
    figures += [_figure(budgets, "task", titles, draw) for budgets in of_answers]
    if not figures:
        return None
    every = [*([facts.budgets] if facts.budgets else []), *of_answers]
    seeds = sorted({min(p.num_seeds for p in budgets.points) for budgets in every})
    told = " or ".join(f"{num}" for num in seeds)
    how = (
        "Quality against the size of the subset. The shading around a line is the interval over examples or questions "
        f"and {told} seed{'s' if seeds != [1] else ''}. The grey zone is good enough, and the ring marks the smallest "
        "budget in it. Dotted lines are predictions with the proxy’s model."
    )
    return Section("budgets", "How much is enough?", how, figures)


def _figure(budgets: Budgets, what: str, titles: dict[str, str], draw: Drawing) -> Figure:
    """A panel for the mean and each set.

    Args:
        what: the sets are.
        titles: of sets, where they have others than their names.
    """
    sets = list(dict.fromkeys(p.heldout_set for p in budgets.points))
    sets = [s for s in sets if not s] + [s for s in sets if s][:_MAX_SETS]
    panels = [titles.get(s, s) or f"mean over the {what}s" for s in sets]
    label = f"{capitalised(budgets.metric.label)} against budget"
    svgs = [draw.svg(charts.budget(budgets, s), f"{label}, {p}") for s, p in zip(sets, panels, strict=True)]
    rows = [
        [selector_name(p.selector), p.phase, titles.get(p.heldout_set, p.heldout_set) or "mean", percent(p.share),
         f"{p.num_examples:,}", f"{p.num_seeds}", figure(p.estimate.value, budgets.metric) if p.heldout_set else "",
         "" if p.relative is None else f"{p.relative.value:.1f} %",
         "" if p.relative is None or p.relative.low is None or p.relative.high is None
         else f"{p.relative.low:.1f} % to {p.relative.high:.1f} %"]
        for p in budgets.points
    ]  # fmt: skip
    table = Table(["selector", "trained", what, "share", "examples", "seeds", "value", "of full data", "interval"],
                  rows, 3)  # fmt: skip
    selectors = dict.fromkeys(p.selector for p in budgets.points if p.selector != FULL)
    left_out = len({p.heldout_set for p in budgets.points}) - len(sets)
    return Figure(label, svgs, _caption(budgets, what, left_out), table, _selector_legend(list(selectors)), panels)


def _caption(budgets: Budgets, what: str, left_out: int) -> str:
    said = []
    for selector, share in budgets.smallest.items():
        who = selector_name(selector)
        said.append(
            f"no budget tried for {who} is within {percent(budgets.within)} of the full data" if share is None
            else f"{who}: {percent(share)} of the data is the smallest budget tried that is within "
            f"{percent(budgets.within)} of the full data"
        )  # fmt: skip
    if budgets.rank_correlation is not None:
        said.append(f"the proxy’s model ranked the budgets with a correlation of {budgets.rank_correlation:.2f}")
    if not budgets.smallest:
        has_full = any(p.selector == FULL for p in budgets.points)
        said.append(
            "not every budget can be compared with the full data" if has_full
            else "no target was trained on the full data, so nothing is shown relative to it"
        )  # fmt: skip
    if budgets.num_failed:
        trials = f"{budgets.num_failed} trials" if budgets.num_failed > 1 else "one trial"
        said.append(f"{trials} failed and {'are' if budgets.num_failed > 1 else 'is'} missing (sweep/report.json)")
    if left_out:
        said.append(f"{left_out} more {what}s are in the table")
    caption = "; ".join(said)
    return capitalised(caption) + "."


def _selector_legend(selectors: list[str]) -> list[tuple[str, str, str]]:
    looks = [(s, look_of(s, selectors)) for s in selectors]
    return [(look.symbol, VARIABLES[look.colour][0], selector_name(s)) for s, look in looks]
