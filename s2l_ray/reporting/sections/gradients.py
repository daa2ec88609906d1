"""The section “Are gradients alike within clusters?”."""

from __future__ import annotations

from s2l_ray.reporting.charts import gradients as charts
from s2l_ray.reporting.charts.gradients import KINDS, SNAPSHOTS
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_gradients import GradientFacts
from s2l_ray.reporting.numbers import percent
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table
from s2l_ray.selection.gradient_similarity import Interval
from s2l_ray.selection.gradient_verdict import verdict
from s2l_ray.text.display import capitalised

_BY = {"head": "the proxy’s language-model head", "lora": "adapters in all linear layers of the proxy but its head"}


def gradients_section(facts: Facts, draw: Drawing) -> Section | None:
    gradients = facts.gradients
    if gradients is None:
        return None
    how = (
        f"Gradients by {_BY[gradients.kind]}, of {gradients.num_sampled:,} of {gradients.num_examples:,} examples. "
        "Lines are 95\u00a0% intervals, covering the sampling and the sketching of the gradients. "
        + " ".join(f"{capitalised(note)}." for note in gradients.notes)
    ).strip()
    errors = _errors(facts, gradients, draw)
    # If there is no figure of the errors, the reason is given here.
    similarity = _similarity(gradients, draw, gradients.verdict[0] if errors else " ".join(gradients.verdict))
    figures = [similarity] if errors is None else [similarity, errors]
    return Section("gradients", "Are gradients alike within clusters?", how, figures)


def _similarity(gradients: GradientFacts, draw: Drawing, said: str) -> Figure:
    chart = charts.similarities(gradients)
    title = "Cosine of two gradients, within groups minus across"
    rows = [
        [SNAPSHOTS[one.name], f"{found.num_labels:,} {KINDS[kind]}", _number(found.within), _number(found.across),
         _interval(found.difference), "" if found.null_difference is None
         else f"{found.null_difference[0]:.3f} to {found.null_difference[1]:.3f}",
         "" if found.explained is None else percent(found.explained.value),
         "" if found.null_explained is None else percent(found.null_explained)]
        for one in gradients.snapshots for kind, found in one.similarity.items()
    ]  # fmt: skip
    headings = ["", "groups", "within", "across", "difference", "difference (shuffled groups)", "variance explained",
    "variance explained (shuffled groups)"]  # fmt: skip
    svgs = [] if chart is None else [draw.svg(chart, title)]
    return Figure(title, svgs, said, Table(headings, rows, 2))


def _errors(facts: Facts, gradients: GradientFacts, draw: Drawing) -> Figure | None:
    rows = [
        [SNAPSHOTS[one.name], draw.name(label), _value(error.bias), _value(error.rms), _value(error.weighted_rms),
         _value(error.random_rms), _interval(error.rms_by_random), _interval(error.weighted_by_random)]
        for one in gradients.snapshots for label, error in one.errors.items()
    ]  # fmt: skip
    if not rows:
        return None
    title = "Error of a subset’s mean gradient, against a random subset’s"
    panels = [(name, charts.against(gradients, facts, draw.names, weighted))
              for name, weighted in (("as chosen", False), ("with weights", True))]  # fmt: skip
    drawn = [(name, chart) for name, chart in panels if chart is not None]
    headings = ["", "subset", "bias", "error", "weighted", "random", "error / random’s", "weighted / random’s"]
    said = " ".join(verdict(gradients.snapshots, draw.names)[1:]) or "No subset could be compared with a random one."
    return Figure(
        title, [draw.svg(chart, f"{title}, {name}") for name, chart in drawn], said, Table(headings, rows, 2),
        panels=[name for name, _ in drawn],
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _value(found: Interval | None) -> str:
    return "" if found is None else f"{found.value:.3f}"


def _interval(found: Interval | None) -> str:
    return "" if found is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
