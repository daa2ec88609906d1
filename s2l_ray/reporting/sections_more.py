"""The sections of the page, second half: clusters, trajectory space, stability, training, examples, what was set aside,
all subsets, and how to repeat it."""

from __future__ import annotations

import math
from typing import Any

from s2l_ray.artifacts.index import FULL
from s2l_ray.reporting import charts, charts_sweep
from s2l_ray.reporting.facts import ClusterFacts, Clusters, Curve, Facts, Space, Training
from s2l_ray.reporting.look import LOOKS, MUTED, STEPS, VARIABLES, look_of
from s2l_ray.reporting.numbers import compact, figure, loss, percent
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table
from s2l_ray.text.formats import format_duration

MAX_CARDS = 120
_MAX_MAPS = 4
FIRST_EXAMPLES = 20
"""Rows that are in the page as text; the others come by JavaScript."""


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
        caption = (
            f"{draw.name(clusters.subset)} takes at most {clusters.quota:,} examples of a cluster (dashed line); "
            f"{whole} of {len(cards)} clusters are smaller and taken whole."
        )
        svg = draw.svg(charts.taken(clusters), "Examples taken against the size of the cluster")
        figures.append(Figure("How the budget is spread", [svg], caption, _cluster_table(clusters)))
    how = (
        "A card is a cluster: the median loss of its examples and the band of the middle 80\u00a0% (nats/token, log "
        "scale) over the steps of the reference model. The bar says how much of it was taken."
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
    headings = ["cluster", "examples", "taken", "first loss", "last loss", f"commonest {clusters.column}"]
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
    said = [f"{name} leaves {percent(_untouched(space, label))} of the filled cells without a choice"
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
        "Every example by the two principal components of its log losses; right: higher mean loss. A cell's colour is "
        "the share that was chosen of the examples in it. The table lists the fullest cells."
    )
    figure_ = Figure("Share chosen", svgs, f"{text}.", table, legend, names)
    return Section("space", "Where in trajectory space?", how, [figure_])


def _typical(space: Space, label: str) -> float:
    """The share that nine tenths of the examples' cells do not pass: where the darkest step begins."""
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


def purity_section(facts: Facts, draw: Drawing) -> Section | None:
    if not facts.purity:
        return None
    svgs = [draw.svg(charts.purity(p), f"Purity of clusters by {p.column}") for p in facts.purity]
    said = [
        f"by {p.column}: {percent(p.mean)} of a cluster's examples share its commonest value, {percent(p.random_mean)} "
        "in clusters of the same sizes filled at random"
        for p in facts.purity
    ]
    rows = [[p.column, f"{len(p.values):,}", percent(p.mean), percent(p.random_mean)] for p in facts.purity]
    table = Table(["column", "clusters", "mean share of the commonest", "filled at random"], rows)
    legend = [
        ("■", VARIABLES[LOOKS["s2l"].colour][0], "clusters of trajectories"),
        ("■", VARIABLES[MUTED][0], "at random"),
    ]
    text = "; ".join(said)
    how = (
        "Clusters by the share of their commonest value. Clusters were made from losses alone; large ones look pure by "
        "chance where one value is common, so clusters filled at random stand beside them."
    )
    panels = [f"by {p.column}" for p in facts.purity]
    figure_ = Figure("Purity", svgs, f"{text[:1].upper()}{text[1:]}.", table, legend, panels)
    return Section("purity", "Do clusters mean something?", how, [figure_])


def stability_section(facts: Facts, draw: Drawing) -> Section | None:
    stability = facts.stability
    if stability is None:
        return None
    figures = []
    if stability.overlap is not None:
        overlap = stability.overlap
        pairs = [v for i, line in enumerate(overlap.matrix) for v in line[:i]]
        caption = (
            f"Two of these {len(overlap.labels)} subsets have between {percent(min(pairs))} and {percent(max(pairs))} "
            "in common of what is in either."
        )
        names = [draw.name(label) for label in overlap.labels]
        rows = [[name, *(percent(v) for v in line)] for name, line in zip(names, overlap.matrix, strict=True)]
        svg = draw.svg(charts.overlap(overlap, draw.names), "Overlap of subsets")
        figures.append(Figure("Overlap of subsets (Jaccard)", [svg], caption, Table(["", *names], rows)))
    for parameter in dict.fromkeys(t.parameter for t in stability.tuned):
        found = [t for t in stability.tuned if t.parameter == parameter]
        sets = list(dict.fromkeys(t.heldout_set for t in found))[:4]
        svgs = [draw.svg(charts_sweep.tuned(stability, parameter, s), f"{parameter} on {s}") for s in sets]
        assert stability.metric is not None
        rows = [
            [t.value, t.selector, percent(t.share), t.heldout_set, figure(t.mean, stability.metric), str(len(t.values))]
            for t in found
        ]
        spread = max(t.mean for t in found) - min(t.mean for t in found)
        caption = (
            f"{stability.metric.label} over the values of {parameter}: {figure(spread, stability.metric)} between the "
            "least and the largest."
        )
        table = Table([parameter, "selector", "share", "held-out set", "mean", "seeds"], rows, 1)
        legend = [(look.symbol, VARIABLES[look.colour][0], s) for s in dict.fromkeys(t.selector for t in found)
                  for look in [look_of(s, {t.selector for t in found})]]  # fmt: skip
        figures.append(Figure(parameter, svgs, caption, table, legend, sets))
    how = "How much of the choice, and of its worth, depends on settings, seeds and proxies."
    return Section("stability", "Does it hold?", how, figures)


def training_section(facts: Facts, draw: Drawing) -> Section | None:
    training = facts.training
    if training is None:
        return None
    svgs, panels, legend = [], [], []
    if training.proxy or training.snapshots:
        curves = [training.proxy] if training.proxy else []
        chart = charts.training(training, curves, True, "loss (nats/token, log)", [LOOKS["s2l"].colour])
        svgs.append(draw.svg(chart, "Loss of the reference model over steps"))
        panels.append("reference model")
        legend.append(("◆", VARIABLES["#1d2126"][0], "mean loss of a snapshot"))
    drawn = _drawn_targets(training, draw)
    for curves, title, panel in (
        (training.targets, "loss (nats/token, log)", "targets, training"),
        (training.heldout, "loss (nats/token, log)", "targets, held-out examples"),
    ):
        curves = [c for c in curves if c.name.partition(" on ")[0] in drawn]
        if curves:
            colours = [_curve_colour(c, draw) for c in curves]
            svgs.append(draw.svg(charts.training(training, curves, False, title, colours), panel))
            panels.append(panel)
    legend += draw.legend([label for label in drawn if label != FULL])
    if FULL in drawn:
        legend.append((LOOKS[FULL].symbol, VARIABLES[LOOKS[FULL].colour][0], "full data"))
    table = Table(["curve", "first step", "loss", "last step", "loss"], _ends(training, draw))
    how = "Losses over optimiser steps. Diamonds: the snapshots at which every example was scored."
    return Section(
        "training",
        "How did training go?",
        how,
        [Figure("Losses", svgs, _training_said(training), table, legend, panels)],
    )


def _drawn_targets(training: Training, draw: Drawing) -> list[str]:
    """One target a selector, as colours tell selectors apart: the main subset's and those of its size before others."""
    labels = list(dict.fromkeys(c.name.partition(" on ")[0] for c in (*training.targets, *training.heldout)))
    sizes = {s.label: s.num_examples for s in draw.facts.subsets}
    size = sizes.get(draw.facts.main or "")
    labels.sort(key=lambda label: (label != draw.facts.main, sizes.get(label) != size))
    found: dict[str, str] = {}
    for label in labels:
        found.setdefault(draw.selector(label), label)
    return list(found.values())


def _curve_colour(curve: Curve, draw: Drawing) -> str:
    label = curve.name.partition(" on ")[0]
    return look_of(draw.selector(label), [s.selector for s in draw.facts.subsets]).colour


def _ends(training: Training, draw: Drawing) -> list[list[str]]:
    curves = [c for c in (training.proxy, *training.targets, *training.heldout) if c and c.points]
    rows = []
    for c in curves:
        label, on, rest = c.name.partition(" on ")
        (first, a), (last, b) = c.points[0], c.points[-1]
        rows.append([draw.name(label) + on + rest, f"{first:,}", loss(a), f"{last:,}", loss(b)])
    rows += [
        [f"snapshot {i + 1}", f"{step:,}", loss(value), "", ""] for i, (step, value) in enumerate(training.snapshots)
    ]
    return rows


def _training_said(training: Training) -> str:
    said = []
    if training.snapshots:
        (_, first), (_, last) = training.snapshots[0], training.snapshots[-1]
        went = "fell" if last < first else "did not fall: it went"
        num = len(training.snapshots)
        said.append(f"The mean loss of all examples {went} from {loss(first)} to {loss(last)} over {num} snapshots")
    if training.restarts:
        said.append(f"workers were lost and replaced {len(training.restarts)} times")
    rising = [
        c.name for c in training.heldout if len(c.points) > 2 and c.points[-1][1] > 1.02 * min(v for _, v in c.points)
    ]
    if rising:
        said.append(f"held-out loss rose again before the end for {', '.join(rising)}")
    return "; ".join(said) + "." if said else "Nothing was noted."


def examples_section(facts: Facts, draw: Drawing) -> Section | None:
    if not facts.examples:
        return None
    cut = sum(e.num_cut > 0 for e in facts.examples)
    how = (
        f"Of each cluster, by last loss: the easiest, the median and the hardest example, chosen and left out. "
        f"{len(facts.examples):,} of {facts.num_examples or 0:,} examples"
        + (f"; {cut} of them are cut." if cut else ".")
    )
    rows = [
        {"id": e.id, "cluster": e.cluster, "why": e.why, "chosen": e.is_chosen, "source": e.source, "topic": e.topic,
         "tokens": f"{e.tokens:,}", "first": loss(e.losses[0]), "last": loss(e.losses[-1]), "line": _line(e.losses),
         "turns": [list(turn) for turn in e.turns], "cut": e.num_cut}
        for e in facts.examples
    ]  # fmt: skip
    return Section("examples", "Read the examples", how, [], "examples", rows)


def _line(losses: list[float]) -> str:
    """Points of a polyline 60 by 18, on a log scale from 0.001 to 20 nats a token."""
    span = math.log(20 / 0.001)
    points = []
    for i, value in enumerate(losses):
        x = 1 + 58 * i / max(1, len(losses) - 1)
        y = 17 - 16 * min(1.0, max(0.0, math.log(max(value, 0.001) / 0.001) / span))
        points.append(f"{x:.0f},{y:.1f}")
    return " ".join(points)


def aside_section(facts: Facts, draw: Drawing) -> Section | None:
    aside = facts.set_aside
    if aside is None:
        return None
    counts = dict(aside.counts)
    lost = counts["read"] - counts.get("used", counts["read"])
    caption = f"{counts['read']:,} examples were read; {lost:,} of them are not among those that could be chosen."
    figures = [
        Figure("What became of the examples", [draw.svg(charts.fates(aside), "Examples by fate")], caption,
               Table(["", "examples"], [[name, f"{n:,}"] for name, n in aside.counts]))
    ]  # fmt: skip
    if aside.reasons:
        rows = [[reason, f"{n:,}"] for reason, n in aside.reasons]
        figures.append(
            Figure(
                "Why rows were unusable",
                [],
                f"{len(aside.reasons)} kinds of fault, the commonest first.",
                Table(["reason", "rows"], rows),
            )
        )
        rows = [[r.stage, r.origin, r.reason, f"{r.index:,}"] for r in aside.rows]
        text = "All are in the folder quarantine of the stage."
        figures.append(Figure("Some of them", [], text, Table(["stage", "file", "reason", "row"], rows, 3)))
    return Section("aside", "What was set aside?", "Nothing is dropped without a trace.", figures)


def subsets_section(facts: Facts, draw: Drawing) -> Section | None:
    if not facts.subsets:
        return None
    worth, overlap = facts.worth, facts.stability.overlap if facts.stability else None
    keys = [(m, s) for m in worth.metrics for s in worth.sets] if worth else []
    headings = ["subset", "examples", "share", *(f"{m.label}, {s}" for m, s in keys), "target’s FLOPs"]
    shows_overlap = overlap is not None and facts.main in overlap.labels
    headings += [f"in common with {draw.name(facts.main or '')}"] if shows_overlap else []
    rows = []
    models = {m.label: m for m in worth.models} if worth else {}
    for label in dict.fromkeys([*models, *(s.label for s in facts.subsets)]):
        size = next(((s.num_examples, s.share) for s in facts.subsets if s.label == label), None)
        if size is None:
            size = (models[label].num_examples, models[label].share)
        cells = []
        for metric, held_out in keys:
            found = [s for s in worth.scores if (s.metric, s.heldout_set, s.label, s.source) ==
                     (metric.key, held_out, label, None)] if worth else []  # fmt: skip
            cells.append(figure(found[0].estimate.value, metric) if found else "")
        flops = compact(models[label].flops) if label in models else ""
        common = []
        if shows_overlap and overlap is not None:
            i = overlap.labels.index(facts.main or "")
            common = [percent(overlap.matrix[i][overlap.labels.index(label)]) if label in overlap.labels else ""]
        rows.append([draw.name(label), f"{size[0]:,}", percent(size[1]), *cells, flops, *common])
    how = "All subsets of this run. Which differences are more than chance stands under “What is it worth?”."
    return Section("subsets", "Compare all subsets", how, [], "subsets", Table(headings, rows))


def repeat_section(facts: Facts, draw: Drawing) -> Section | None:
    repeat = facts.repeat
    if repeat is None:
        return None
    stages = [
        [s.name, s.folder, s.fingerprint[:12], s.device, format_duration(s.wall_seconds),
         format_duration(s.device_seconds), ", ".join(f"{k} {v}" for k, v in s.seeds.items()),
         s.finished_at[:16].replace("T", " ")]
        for s in repeat.stages
    ]  # fmt: skip
    headings = ["stage", "folder", "content", "device", "wall time", "device time", "seeds", "finished (UTC)"]
    versions = ", ".join(f"{name} {version}" for name, version in repeat.versions.items())
    content = {
        "command": repeat.command, "changed": repeat.changed, "stages": Table(headings, stages, 4),
        "versions": versions, "files": repeat.files, "uri": facts.uri,
    }  # fmt: skip
    how = "Times were measured under whatever else the machine did; finished stages are never repeated."
    return Section("repeat", "Repeat it", how, [], "repeat", content)
