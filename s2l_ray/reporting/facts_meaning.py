"""Facts of a report that relate clusters and embeddings to the examples' known attributes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Purity:
    clusters_of: str
    """`trajectories`, or what the embeddings represent and which model computed them."""
    column: str
    num_examples: int
    """Number of clustered examples: the corpus, or a random sample of it."""
    mean: float
    """Mean purity, weighted by size."""
    random_mean: float
    """Mean purity of clusters of the same sizes filled at random, over several fillings."""
    random_sd: float
    """Standard deviation between the fillings."""
    excess: float | None
    """Purity on a scale where 0 is chance and 1 is pure; None if clusters filled at random are already pure."""
    values: list[float]
    random_values: list[float]


@dataclass(frozen=True)
class Quality:
    """Quality of one clustering."""

    clusters_of: str
    num_examples: int
    num_clusters: int
    smallest: int
    median: float
    largest: int
    """Size of the largest cluster; the fields before it are the smallest and the median size."""
    inertia: float | None
    """Sum of squared distances to the centroids; None: not recorded by an earlier version."""
    adjusted_rand: float | None
    """Adjusted Rand index with the clusters of another seed (1: identical, 0: chance); None: not computed."""
    num_compared: int
    """Number of examples clustered with the other seed: all, or a random sample."""


@dataclass(frozen=True)
class Cell:
    """A hexagon of a projection."""

    x: float
    y: float
    """Position of the centre (x, y), as shares of the picture's width and height."""
    count: int
    commonest: int
    """Index into `Projection.values`; −1: another value."""
    share: float
    """Share of the most common value among its examples."""
    name: str


@dataclass(frozen=True)
class Projection:
    """Embeddings of a sample by their two principal components."""

    embeddings_of: str
    column: str
    num_examples: int
    explained: tuple[float, float]
    """Share of the variance."""
    values: list[str]
    """The most common values of the column, which have their own colours."""
    cells: list[Cell]
    own_share: float
    """Share of the examples that have the most common value of their cell."""
    random_share: float
    """The same share for cells of the same sizes filled at random."""


@dataclass(frozen=True)
class Meaning:
    purity: list[Purity] = field(default_factory=list)
    quality: list[Quality] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What could not be computed, and why."""
