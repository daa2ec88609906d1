"""The section “Do clusters mean something?”."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from s2l_ray.reporting.charts import meaning as charts
from s2l_ray.reporting.facts import Facts
from s2l_ray.reporting.facts_meaning import Meaning, Projection, Purity
from s2l_ray.reporting.look import LETTERS, LOOKS, MUTED, VARIABLES
from s2l_ray.reporting.numbers import percent
from s2l_ray.reporting.parts import Drawing, Figure, Section, Table
from s2l_ray.reporting.sentences import listed
from s2l_ray.text.display import capitalised

_MAX_CELLS = 20


def meaning_section(facts: Facts, draw: Drawing) -> Section | None:
    meaning = facts.meaning
    if meaning is None or not (meaning.purity or meaning.projections):
        return None
    figures = [figure for make in (_purity, _quality, _projections) if (figure := make(meaning, draw)) is not None]
    how = (
        "Clusters by the share of their most common value. Clustering did not see the values. Large clusters look pure "
        "by chance if one value is common, so clusters of the same sizes, filled at random, are shown for comparison."
    )
    if not meaning.projections:
        how += (
            " A selector that reads embeddings adds clusters and a picture of them; s2l gradients RUN adds those from "
            "before and after training."
        )
    how = " ".join([how, *meaning.left_out])
    return Section("purity", "Do clusters mean something?", how, figures)


def _purity(meaning: Meaning, draw: Drawing) -> Figure | None:
    found = sorted(meaning.purity, key=lambda p: [q.column for q in meaning.purity].index(p.column))
    if not found:
        return None
    kinds = _distinct(p.clusters_of for p in found)
    svgs = [draw.svg(charts.purity(p), f"Purity of clusters of {p.clusters_of} by {p.column}") for p in found]
    rows = [
        [p.column, p.clusters_of, f"{p.num_examples:,}", f"{len(p.values):,}", percent(p.mean), percent(p.random_mean),
         f"{p.random_sd * 100:.1f} points", "" if p.excess is None else f"{p.excess:.2f}"]
        for p in found
    ]  # fmt: skip
    table = Table(
        ["by", "clusters of", "examples", "clusters", "share of the most common", "filled at random",
         "standard deviation", "excess"], rows, 2,
    )  # fmt: skip
    legend = [("■", VARIABLES[LOOKS["s2l"].colour][0], "clusters of trajectories")]
    if len(kinds) > 1:
        legend.append(("■", VARIABLES[LOOKS["embedding_kmeans"].colour][0], "clusters of embeddings"))
    legend.append(("■", VARIABLES[MUTED][0], "filled at random"))
    panels = [f"by {p.column}" + (f": {p.clusters_of}" if len(kinds) > 1 else "") for p in found]
    columns = _distinct(p.column for p in found)
    said = " ".join(_said([p for p in found if p.column == column]) for column in columns)
    if len(columns) > _FEW_COLUMNS and len(kinds) == 1:
        said = _all_said(found)
    return Figure("Purity", svgs, said, table, legend, panels)


def _said(of_column: list[Purity]) -> str:
    first, *others = of_column
    text = (
        f"By {first.column}: {percent(first.mean)} of the examples have the most common value of their cluster of "
        f"{first.clusters_of}, {percent(first.random_mean)} in clusters of the same sizes filled at random"
    )
    if not others:
        return f"{text}{_chance(first)}."
    excesses = (f"{p.clusters_of} {'–' if p.excess is None else f'{p.excess:.2f}'}{_chance(p)}" for p in of_column)
    return f"{text}. Where 0 is chance and 1 pure: {'; '.join(excesses)}."


def _all_said(found: list[Purity]) -> str:
    """Many columns in one sentence, those that no more than chance explains last."""
    more = [p for p in found if not _chance(p)]
    shares = {p.column: f"{p.column} {percent(p.mean)} ({percent(p.random_mean)})" for p in [*more, *found]}
    text = (
        f"Examples with the most common value of their cluster of {found[0].clusters_of} (in brackets: in clusters of "
        f"the same sizes filled at random): {', '.join(shares.values())}."
    )
    few = [p.column for p in found if _chance(p)]
    if few and not more:
        return f"{text} None of them is more than expected by chance."
    are = "is" if len(few) == 1 else "are"
    return f"{text} {capitalised(listed(few))} {are} no more than expected by chance." if few else text


_FEW_COLUMNS = 2
"""More columns than that are described in one sentence."""


def _chance(p: Purity) -> str:
    return "" if abs(p.mean - p.random_mean) > 2 * p.random_sd else ", no more than expected by chance"


def _quality(meaning: Meaning, draw: Drawing) -> Figure | None:
    if not meaning.quality:
        return None
    rows = [
        [q.clusters_of, f"{q.num_examples:,}", f"{q.num_clusters:,}", f"{q.smallest:,}", f"{q.median:,.0f}",
         f"{q.largest:,}", "" if q.inertia is None else f"{q.inertia / q.num_examples:.3g}",
         "" if q.adjusted_rand is None else f"{q.adjusted_rand:.2f}"]
        for q in meaning.quality
    ]  # fmt: skip
    headings = ["clusters of", "examples", "clusters", "smallest", "median", "largest", "squared distance", "agreement"]
    said = []
    for q in meaning.quality:
        if q.adjusted_rand is not None:
            sample = "" if q.num_compared >= q.num_examples else f" (on a random {q.num_compared:,} examples)"
            said.append(f"of {q.clusters_of} {q.adjusted_rand:.2f}{sample}")
    caption = (
        f"Agreement of clusters with those of another seed (adjusted Rand index; 1: identical, 0: chance): "
        f"{'; '.join(said)}. The squared distance is the mean over examples to the centroid of their cluster."
    )
    return Figure("Are clusters stable?", [], caption, Table(headings, rows))


def _projections(meaning: Meaning, draw: Drawing) -> Figure | None:
    found = meaning.projections
    if not found:
        return None
    column = found[0].column
    found, values = _with_common_values(found)
    svgs = [draw.svg(charts.projection(p), f"{p.embeddings_of}, by {column}") for p in found]
    legend = [(LETTERS[i], f"topic{i}", value) for i, value in enumerate(values)]
    if any(cell.commonest < 0 for p in found for cell in p.cells):
        legend.append(("·", VARIABLES[MUTED][0], "other"))
    caption = " ".join(
        f"{capitalised(p.embeddings_of)} ({p.num_examples:,} examples): {percent(p.own_share)} "
        f"have the most common {column} of their hexagon, {percent(p.random_share)} in hexagons filled at random."
        for p in found
    )
    rows = [
        [p.embeddings_of, f"{cell.x:.2f}", f"{cell.y:.2f}", cell.name, f"{cell.count:,}", percent(cell.share)]
        for p in found for cell in sorted(p.cells, key=lambda c: -c.count)[:_MAX_CELLS]
    ]  # fmt: skip
    table = Table(["embeddings", "right", "up", f"most common {column}", "examples", "share"], rows)
    panels = [p.embeddings_of for p in found]
    return Figure(f"Embeddings by {column}", svgs, caption, table, legend, panels)


def _with_common_values(found: list[Projection]) -> tuple[list[Projection], list[str]]:
    """Give all projections the letters of the first, since other samples may have other most common values."""
    values = found[0].values
    at = {value: i for i, value in enumerate(values)}
    return [
        replace(p, values=values, cells=[replace(cell, commonest=at.get(cell.name, -1)) for cell in p.cells])
        for p in found
    ], values


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
