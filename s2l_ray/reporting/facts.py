"""The numbers of a report: every number that the page shows or draws, as plain dataclasses (`facts.json`).

What a run does not hold is None or an empty list. Shares are fractions, losses nats per response token, times seconds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from s2l_ray.reporting.intervals import Estimate


@dataclass(frozen=True)
class MetricFacts:
    key: str
    label: str
    unit: str
    more_is_better: bool
    is_share: bool


@dataclass(frozen=True)
class ModelFacts:
    """What a target was trained on."""

    label: str
    selector: str
    num_examples: int
    share: float
    num_seeds: int
    steps: int
    tokens: int
    flops: float
    device_seconds: float


@dataclass(frozen=True)
class Score:
    """A model on a held-out set."""

    metric: str
    heldout_set: str
    label: str
    num_examples: int
    estimate: Estimate
    source: str | None = None
    """Of these examples alone; None: of all."""


@dataclass(frozen=True)
class Difference:
    """A model against a baseline, paired by example."""

    metric: str
    heldout_set: str
    label: str
    baseline: str
    num_examples: int
    estimate: Estimate
    """The model's figure minus the baseline's."""
    verdict: str
    """Of `intervals`."""


@dataclass(frozen=True)
class Worth:
    metrics: list[MetricFacts]
    sets: list[str]
    models: list[ModelFacts]
    scores: list[Score]
    differences: list[Difference]
    num_seeds: int
    """The least of the models."""


@dataclass(frozen=True)
class BudgetPoint:
    phase: str
    selector: str
    heldout_set: str
    """Empty: mean over the sets."""
    num_examples: int
    share: float
    num_seeds: int
    estimate: Estimate
    relative: Estimate | None
    """The full data's = 100."""


@dataclass(frozen=True)
class Budgets:
    metric: MetricFacts
    within: float
    points: list[BudgetPoint]
    smallest: dict[str, float | None]
    """Selector → share of the smallest budget within `within` of the full data."""
    rank_correlation: float | None
    """Of prediction and target."""


@dataclass(frozen=True)
class CostPart:
    selector: str
    part: str
    flops: float


@dataclass(frozen=True)
class Cost:
    parts: list[CostPart]
    selection_flops: float
    selection_share: float | None
    """Of a target on the full data."""
    full_flops: float | None
    """Of a target on the full data; None: none was trained."""
    full_is_measured: bool
    break_even: dict[str, float | None]
    """Model → number of targets from which selecting once and training on the subset costs less; None: never."""
    reference: list[tuple[float, float]]
    """(parameters, FLOPs of training and scoring a reference model of that size)."""
    proxy_parameters: int | None


@dataclass(frozen=True)
class Category:
    value: str
    count: int
    """In the corpus."""
    chosen: dict[str, int]
    """Subset → examples of it."""


@dataclass(frozen=True)
class Histogram:
    what: str
    unit: str
    is_log: bool
    edges: list[float]
    counts: dict[str, list[int]]
    """Population ("" is the corpus) → examples by bin."""
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
    """Column → its commonest values, by size."""
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
    """10th percentile by snapshot."""
    high: list[float]
    """90th percentile by snapshot."""
    common: list[tuple[str, float]]
    """The two commonest values and their shares."""
    members: list[list[float]]
    """Some of its trajectories."""


@dataclass(frozen=True)
class Clusters:
    column: str
    """Whose values are the commonest."""
    steps: list[int]
    """Of the proxy's training, by snapshot."""
    subset: str | None
    """Of which `taken` speaks."""
    quota: int | None
    """Most that a cluster gave (the water level)."""
    clusters: list[ClusterFacts]
    """By size, the largest first."""
    least: float
    largest: float
    """Range of the losses."""


@dataclass(frozen=True)
class Space:
    """Density over the two principal components of the log losses."""

    low: tuple[float, float]
    high: tuple[float, float]
    explained: tuple[float, float]
    """Share of the variance."""
    counts: list[list[int]]
    """Lines from the bottom, cells from the left."""
    chosen: dict[str, list[list[int]]]


@dataclass(frozen=True)
class Purity:
    column: str
    mean: float
    """Weighted by size."""
    random_mean: float
    values: list[float]
    random_values: list[float]


@dataclass(frozen=True)
class Overlap:
    """Jaccard: examples in both over examples in either."""

    labels: list[str]
    matrix: list[list[float]]


@dataclass(frozen=True)
class TunedPoint:
    parameter: str
    value: str
    selector: str
    share: float
    heldout_set: str
    mean: float
    values: list[float]


@dataclass(frozen=True)
class Stability:
    metric: MetricFacts | None
    tuned: list[TunedPoint]
    overlap: Overlap | None


@dataclass(frozen=True)
class Curve:
    name: str
    points: list[tuple[int, float]]
    """(step, loss)."""


@dataclass(frozen=True)
class Training:
    proxy: Curve | None
    snapshots: list[tuple[int, float]]
    """(step, mean loss)."""
    targets: list[Curve]
    heldout: list[Curve]
    """Name: `<target> on <set>`."""
    restarts: list[tuple[str, int]]
    """(stage, step)."""


@dataclass(frozen=True)
class ExampleFacts:
    id: str
    cluster: int
    why: str
    """easiest, median or hardest of its cluster."""
    is_chosen: bool
    source: str
    topic: str
    tokens: int
    losses: list[float]
    turns: list[tuple[str, str]]
    """(role, text), cut."""
    num_cut: int
    """Characters left out."""


@dataclass(frozen=True)
class Quarantined:
    stage: str
    origin: str
    index: int
    reason: str


@dataclass(frozen=True)
class SetAside:
    counts: list[tuple[str, int]]
    """(fate, examples) in the order of the work; what is used and chosen last."""
    reasons: list[tuple[str, int]]
    rows: list[Quarantined]


@dataclass(frozen=True)
class StageFacts:
    name: str
    folder: str
    fingerprint: str
    device: str
    wall_seconds: float
    device_seconds: float
    seeds: dict[str, int]
    finished_at: str


@dataclass(frozen=True)
class Repeat:
    command: str
    changed: list[tuple[str, str]]
    """Settings that differ from the defaults."""
    stages: list[StageFacts]
    versions: dict[str, str]
    files: list[str]
    """The subsets' files."""


@dataclass(frozen=True)
class Facts:
    name: str
    uri: str
    version: str
    finished_at: str
    seed: int
    num_examples: int | None
    num_snapshots: int | None
    num_clusters: int | None
    proxy: str
    target: str
    has_text: bool
    warnings: list[str] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)
    subsets: list[SubsetFacts] = field(default_factory=list)
    main: str | None = None
    """The subset that cards, examples and the head speak of."""
    worth: Worth | None = None
    budgets: Budgets | None = None
    cost: Cost | None = None
    contents: Contents | None = None
    clusters: Clusters | None = None
    space: Space | None = None
    purity: list[Purity] = field(default_factory=list)
    stability: Stability | None = None
    training: Training | None = None
    examples: list[ExampleFacts] = field(default_factory=list)
    set_aside: SetAside | None = None
    repeat: Repeat | None = None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)
