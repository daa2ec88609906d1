"""Building blocks of a page: sections of figures, each with a computed caption and a table of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from s2l_ray.artifacts.index import FULL
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.look import LOOKS, VARIABLES, look_of
from s2l_ray.reporting.names import names_of


@dataclass(frozen=True)
class Table:
    """A table of texts; columns after the first `num_text` are numbers and right-aligned."""

    headings: list[str]
    rows: list[list[str]]
    num_text: int = 1
    strong: frozenset[tuple[int, int]] = frozenset()
    """(row, column) of the cells in bold."""


@dataclass(frozen=True)
class View:
    """One of several alternative pictures of a figure, shown one at a time on screen and all in print."""

    label: str
    svgs: list[str]
    caption: str
    legend: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Figure:
    title: str
    svgs: list[str]
    """Panels side by side."""
    caption: str
    table: Table | None = None
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    """(symbol, CSS variable of its colour, text) of each entry."""
    panels: list[str] = field(default_factory=list)
    """A heading for each of `svgs`, or none at all."""
    views: list[View] = field(default_factory=list)
    """Views to choose from, instead of `svgs`."""

    @property
    def num_panels(self) -> int:
        return max([len(self.svgs), *(len(view.svgs) for view in self.views)])


def spans(figures: Sequence[Figure]) -> list[str]:
    """CSS class of each figure: how much of a row of three panels it takes, so that rows are full."""
    rows: list[list[int]] = []
    for figure in figures:
        wide = min(3, figure.num_panels or 3)  # a table without pictures needs the full width
        if rows and sum(rows[-1]) + wide <= 3:
            rows[-1].append(wide)
        else:
            rows.append([wide])
    names = {1: "third", 2: "two-thirds", 3: "whole"}
    return [
        "whole" if len(row) == 1 else "half" if row == [1, 1] else names[wide]
        for row in rows for wide in row
    ]  # fmt: skip


@dataclass(frozen=True)
class Section:
    id: str
    question: str
    how: str
    """How to read the section, in one or two sentences."""
    figures: list[Figure] = field(default_factory=list)
    kind: str = "figures"
    """Kind of the block after the figures: `cards`, `examples`, `subsets`, `repeat`, or none (`figures`)."""
    content: Any = None


@dataclass(frozen=True)
class Missing:
    """A section for which this run has no data."""

    question: str
    command: str
    """The command that would fill it."""


class Drawing:
    """Facts, names and colours for the sections, and the only way from a chart to the page."""

    def __init__(self, facts: Facts, to_svg: Callable[[Any, str, str], str]) -> None:
        self.facts = facts
        self.names = names_of(facts.subsets, facts.worth)
        self._to_svg, self._count = to_svg, 0

    def svg(self, chart: Any, label: str) -> str:
        """Draw the chart as SVG; `label` describes it for readers who cannot see it."""
        self._count += 1
        return self._to_svg(chart, f"f{self._count}-", label)

    def name(self, label: str) -> str:
        return self.names.get(label, label)

    def selector(self, label: str) -> str:
        known = {s.label: s.selector for s in self.facts.subsets}
        return FULL if label in (FULL, "") else known.get(label, label)

    def legend(self, labels: Sequence[str]) -> list[tuple[str, str, str]]:
        """The legend for subsets, by label; "" is the corpus."""
        found = []
        everyone = [s.selector for s in self.facts.subsets]
        for label in labels:
            look = LOOKS[FULL] if not label else look_of(self.selector(label), everyone)
            found.append((look.symbol, VARIABLES[look.colour][0], self.name(label) if label else "corpus"))
        return found
