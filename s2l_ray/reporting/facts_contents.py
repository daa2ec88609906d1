"""Facts of a report about the contents of subsets, clusters and trajectories."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    value: str
    count: int
    """Number of examples in the corpus."""
    chosen: dict[str, int]
    """Subset → number of its examples."""


@dataclass(frozen=True)
class Histogram:
    what: str
    unit: str
    is_log: bool
    edges: list[float]
    counts: dict[str, list[int]]
    """Population ("" is the corpus) → number of examples by bin."""
    medians: dict[str, float | None]


@dataclass(frozen=True)
class SubsetFacts:
    label: str
    selector: str
    num_examples: int
    share: float
    seed: int | None


@dataclass(frozen=True)
class Contents:
    subsets: list[SubsetFacts]
    columns: dict[str, list[Category]]
    """Column → its most common values, by size."""
    smaller: dict[str, int]
    """Column → how many values are not listed."""
    histograms: list[Histogram]


@dataclass(frozen=True)
class ClusterFacts:
    cluster: int
    size: int
    taken: int | None
    median: list[float]
    low: list[float]
    """10th percentile of the losses, by snapshot."""
    high: list[float]
    """90th percentile of the losses, by snapshot."""
    common: list[tuple[str, float]]
    """The two most common values and their shares."""
    members: list[list[float]]
    """Some of the cluster's trajectories."""


@dataclass(frozen=True)
class Clusters:
    column: str
    """The column whose most common values are given."""
    steps: list[int]
    """Steps of the proxy's training at which snapshots were taken."""
    subset: str | None
    """The subset that `taken` refers to."""
    quota: int | None
    """Most examples taken from one cluster (the quota)."""
    clusters: list[ClusterFacts]
    """Clusters, the largest first."""
    least: float
    largest: float
    """Range of the losses."""


@dataclass(frozen=True)
class Space:
    """Density over the two principal components of the log losses."""

    low: tuple[float, float]
    high: tuple[float, float]
    explained: tuple[float, float]
    """Share of the variance explained by each component."""
    counts: list[list[int]]
    """Lines from the bottom, cells from the left."""
    chosen: dict[str, list[list[int]]]


@dataclass(frozen=True)
class Overlap:
    """Jaccard: examples in both over examples in either."""

    labels: list[str]
    matrix: list[list[float]]


@dataclass(frozen=True)
class ExampleFacts:
    id: str
    cluster: int
    why: str
    """`easiest`, `median` or `hardest` in its cluster."""
    is_chosen: bool
    source: str
    topic: str
    tokens: int
    losses: list[float]
    turns: list[tuple[str, str]]
    """(role, truncated text) of each turn."""
    num_cut: int
    """Number of characters left out."""
