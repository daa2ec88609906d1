"""The sections “Why these examples?” and “Where in trajectory space?”."""

from __future__ import annotations

from typing import Any

from s2l_ray.reporting.charts import clusters as charts
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_contents import ClusterFacts, Clusters, Space
from s2l_ray.reporting.look import STEPS, VARIABLES
from s2l_ray.reporting.numbers import loss, percent
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table

MAX_CARDS = 120
_MAX_MAPS = 4


def clusters_section(facts: Facts, draw: Drawing) -> Section | None:
    clusters = facts.clusters
    if clusters is None or not clusters.clusters:
        return None
    cards = clusters.clusters
    shown = cards if len(cards) <= MAX_CARDS else cards[: MAX_CARDS // 2] + cards[-MAX_CARDS // 2 :]
    content = [_card(card, clusters, draw) for card in shown]
    middle = cards[len(cards) // 2]
    one_each = [c.members[0] for c in cards[:: max(1, len(cards) // 10)][:10] if c.members]
    figures = [
        Figure(
            "Trajectories within a cluster, and across clusters",
            [draw.svg(charts.members(middle.members, clusters), f"{len(middle.members)} trajectories of one cluster"),
             draw.svg(charts.members(one_each, clusters), f"One trajectory of each of {len(one_each)} clusters")],
            f"{len(middle.members)} examples of cluster {middle.cluster}, and one example of each of {len(one_each)} "
            "clusters, on the same scale.",
            panels=[f"cluster {middle.cluster}", "across clusters"],
        )
    ]  # fmt: skip
    if clusters.subset is not None and clusters.quota is not None:
        whole = sum(c.taken == c.size for c in cards)
        are = "is" if whole == 1 else "are"
        caption = (
            f"{draw.name(clusters.subset)} takes at most {clusters.quota:,} examples from a cluster (dashed line); "
            f"{whole} of {len(cards)} clusters {are} smaller and taken whole."
        )
        svg = draw.svg(charts.taken(clusters), "Examples taken by cluster size")
        figures.append(Figure("How the budget is spread", [svg], caption, _cluster_table(clusters)))
    how = (
        "Each card is a cluster: the median loss of its examples and the band of the middle 80\u00a0% (nats/token, log "
        "scale) over the steps of the reference model. The bar shows how much of it was taken."
    )
    if len(shown) < len(cards):
        how += f" The {MAX_CARDS // 2} largest and the {MAX_CARDS // 2} smallest of {len(cards)}; all are in the table."
    return Section("clusters", "Why these examples?", how, figures, "cards", content)


def _card(card: ClusterFacts, clusters: Clusters, draw: Drawing) -> dict[str, Any]:
    label = (
        f"cluster {card.cluster}, {card.size:,} examples: median loss {loss(card.median[0])} at first, "
        f"{loss(card.median[-1])} at last"
    )
    share = None if card.taken is None else card.taken / card.size
    common = ", ".join(f"{value} {percent(part)}" for value, part in card.common)
    return {"cluster": card.cluster, "size": f"{card.size:,}", "svg": draw.svg(charts.card(card, clusters), label),
            "share": share, "taken": "" if share is None else f"{percent(share)} taken", "common": common}  # fmt: skip


def _cluster_table(clusters: Clusters) -> Table:
    rows = [
        [str(c.cluster), f"{c.size:,}", "" if c.taken is None else f"{c.taken:,}", loss(c.median[0]),
         loss(c.median[-1]),         ", ".join(f"{value} {percent(part)}" for value, part in c.common)]
        for c in clusters.clusters
    ]  # fmt: skip
    headings = ["cluster", "examples", "taken", "first loss", "last loss", f"most common {clusters.column}"]
    return Table(headings, rows)


def space_section(facts: Facts, draw: Drawing) -> Section | None:
    space = facts.space
    if space is None or not space.chosen:
        return None
    labels = [facts.main] if facts.main in space.chosen else []
    size = next((s.num_examples for s in facts.subsets if s.label == facts.main), None)
    labels += [s.label for s in facts.subsets
               if s.label in space.chosen and s.num_examples == size and s.label != facts.main]  # fmt: skip
    labels = (labels or list(space.chosen))[:_MAX_MAPS]
    most = max(_typical(space, label) for label in labels)
    svgs = [draw.svg(charts.density(space, label, most), f"Share chosen over trajectory space, {draw.name(label)}")
            for label in labels]  # fmt: skip
    names = [draw.name(label) for label in labels]
    said = [f"{name} takes nothing from {percent(_untouched(space, label))} of the non-empty cells"
            for name, label in zip(names, labels, strict=True)]  # fmt: skip
    text = "; ".join(said)
    cells = [[x, y, count, *(space.chosen[label][y][x] for label in labels)]
             for y, line in enumerate(space.counts) for x, count in enumerate(line) if count]  # fmt: skip
    fullest = sorted(cells, key=lambda c: -c[2])[:40]
    table = Table(["column", "line", "examples", *names], [[f"{v:,}" for v in c] for c in fullest], 0)
    legend = [("■", VARIABLES[STEPS[0]][0], "none chosen")]
    legend += [("■", VARIABLES[STEPS[i]][0], f"up to {percent(most * i / 4)}") for i in range(1, 4)]
    legend.append(("■", VARIABLES[STEPS[4]][0], "more"))
    how = (
        "Every example by the two principal components of its log losses; right: higher mean loss. A cell’s colour "
        "shows the share of its examples that was chosen. The table lists the fullest cells."
    )
    figure_ = Figure("Share chosen", svgs, f"{text}.", table, legend, names)
    return Section("space", "Where in trajectory space?", how, [figure_])


def _typical(space: Space, label: str) -> float:
    """The share that nine tenths of the examples' cells do not exceed: there the darkest step begins."""
    cells = sorted(
        (chosen / count, count)
        for counts, line in zip(space.counts, space.chosen[label], strict=True)
        for count, chosen in zip(counts, line, strict=True) if count
    )  # fmt: skip
    wanted, seen = 0.9 * sum(count for _, count in cells), 0
    for share, count in cells:
        seen += count
        if seen >= wanted:
            return max(share, 1e-3)
    return 1.0


def _untouched(space: Space, label: str) -> float:
    filled = [
        chosen == 0
        for counts, line in zip(space.counts, space.chosen[label], strict=True)
        for count, chosen in zip(counts, line, strict=True) if count
    ]  # fmt: skip
    return sum(filled) / max(1, len(filled))
