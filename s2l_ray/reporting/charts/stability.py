"""Charts of the similarity of subsets."""

from __future__ import annotations

from typing import Any

import altair as alt

from s2l_ray.reporting.facts_contents import Overlap
from s2l_ray.reporting.look import (
    INK,
    PAPER,
    STEPS,
    data,
    dressed,
)
from s2l_ray.reporting.numbers import percent


def overlap(o: Overlap, names: dict[str, str]) -> Any:
    """Jaccard of all pairs of subsets."""
    labels = [names.get(label, label)[:24] for label in o.labels]
    rows = [
        {"x": f"{j + 1}", "y": f"{i + 1} {labels[i]}", "text": f"{v * 100:.0f}",
         "colour": STEPS[min(4, int(v * 4.999))], "ink": PAPER if v > 0.6 else INK,
         "tip": f"{labels[i]} and {labels[j]}: {percent(v)} in common"}
        for i, line in enumerate(o.matrix) for j, v in enumerate(line)
    ]  # fmt: skip
    base = alt.Chart(data(rows)).encode(
        x=alt.X("x:N", sort=None, axis=alt.Axis(title="% in common", orient="top", labelAngle=0)),
        y=alt.Y("y:N", sort=None, axis=alt.Axis(title=None)),
    )  # fmt: skip
    cells = base.mark_rect().encode(color=alt.Color("colour:N", scale=None), description=alt.Description("tip:N"))
    texts = base.mark_text().encode(text=alt.Text("text:N"), color=alt.Color("ink:N", scale=None))
    return dressed(alt.layer(cells, texts), 200, max(20, min(32, 200 // len(labels))) * len(labels))
