"""The section “How did training go?”."""

from __future__ import annotations

from s2l_ray.artifacts.index import FULL
from s2l_ray.reporting.charts import training as charts
from s2l_ray.reporting.facts import Curve, Facts, Training
from s2l_ray.reporting.look import INK, LOOKS, MUTED, VARIABLES, look_of
from s2l_ray.reporting.numbers import loss
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table

_LINES = ("—", "╌", "┈", "─·")
"""Symbols that look like `charts.DASHES`."""


def training_section(facts: Facts, draw: Drawing) -> Section | None:
    training = facts.training
    if training is None:
        return None
    svgs, panels, legend = [], [], []
    if training.proxy or training.snapshots:
        curves = [training.proxy] if training.proxy else []
        chart = charts.training(training, curves, True, "loss (nats/token, log)", [MUTED])
        svgs.append(draw.svg(chart, "Loss of the reference model over steps"))
        panels.append("reference model")
        legend += [("—", VARIABLES[MUTED][0], "reference model"), ("◆", VARIABLES[INK][0], "mean loss of a snapshot")]
    drawn, of_sets = _drawn_targets(training, draw), []
    for curves, title, panel in (
        (training.targets, "loss (nats/token, log)", "targets, training"),
        (training.heldout, "loss (nats/token, log)", "targets, held-out examples"),
    ):
        curves = [c for c in curves if c.name.partition(" on ")[0] in drawn]
        if curves:
            colours = [_curve_colour(c, draw) for c in curves]
            sets = list(dict.fromkeys(c.name.partition(" on ")[2] for c in curves))
            dashes = [charts.DASHES[sets.index(c.name.partition(" on ")[2]) % len(charts.DASHES)] for c in curves]
            svgs.append(draw.svg(charts.training(training, curves, False, title, colours, dashes), panel))
            panels.append(panel)
            if len(sets) > 1:
                symbols = zip(_LINES * len(sets), sets, strict=False)
                of_sets = [(symbol, VARIABLES[INK][0], f"held-out “{name}”") for symbol, name in symbols]
    rates = [c for c in training.rates if c.name in ("proxy", *drawn)]
    if rates:
        colours = [MUTED if c.name == "proxy" else _curve_colour(c, draw) for c in rates]
        svgs.append(draw.svg(charts.rates(rates, colours), "Learning rates over steps"))
        panels.append("learning rate")
    legend += draw.legend([label for label in drawn if label != FULL])
    if FULL in drawn:
        legend.append((LOOKS[FULL].symbol, VARIABLES[LOOKS[FULL].colour][0], "full data"))
    legend += of_sets
    table = Table(["curve", "first step", "value", "last step", "value"], _ends(training, draw))
    how = "Losses over optimiser steps. Diamonds mark the snapshots at which every example was scored."
    return Section(
        "training",
        "How did training go?",
        how,
        [Figure("Losses", svgs, _training_said(training), table, legend, panels)],
    )


def _drawn_targets(training: Training, draw: Drawing) -> list[str]:
    """One target per selector, since colours distinguish selectors; targets on the main subset and others of its size
    come first."""
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
        [f"learning rate, {draw.name(c.name)}", f"{c.points[0][0]:,}", f"{c.points[0][1]:.2g}", f"{c.points[-1][0]:,}",
         f"{c.points[-1][1]:.2g}"]
        for c in training.rates
    ]  # fmt: skip
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
    return "; ".join(said) + "." if said else "Nothing unusual was recorded."
