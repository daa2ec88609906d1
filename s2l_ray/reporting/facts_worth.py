"""Facts of a report about how good the subsets are, and their costs."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """Source of the examples; None: all examples."""


@dataclass(frozen=True)
class Difference:
    """A model against a baseline, paired by example."""

    metric: str
    heldout_set: str
    label: str
    baseline: str
    num_examples: int
    estimate: Estimate
    """The model's result minus the baseline's."""
    verdict: str
    """One of the verdicts in `intervals`."""


@dataclass(frozen=True)
class Leader:
    """A model that is better than each of the others, by paired intervals."""

    metric: str
    heldout_set: str
    label: str


@dataclass(frozen=True)
class Worth:
    metrics: list[MetricFacts]
    sets: list[str]
    models: list[ModelFacts]
    scores: list[Score]
    differences: list[Difference]
    leaders: list[Leader]
    num_seeds: int
    """Number of seeds; the smallest over the models."""
    num_more: int = 0
    """Number of further models, which are not compared here."""


@dataclass(frozen=True)
class BudgetPoint:
    phase: str
    selector: str
    heldout_set: str
    """Name of the held-out set; empty for the mean over the sets."""
    num_examples: int
    share: float
    num_seeds: int
    estimate: Estimate
    relative: Estimate | None
    """Result relative to the full data's (= 100), paired by example."""
    against_random: Estimate | None
    """Difference to the random subset of the same budget, paired by example; None: there is none."""
    flops: float
    """FLOPs of training one target."""


@dataclass(frozen=True)
class SourcePoint:
    """Held-out loss of a trial on the examples of one source."""

    source: str
    selector: str
    share: float
    estimate: Estimate


@dataclass(frozen=True)
class Budgets:
    metric: MetricFacts
    within: float
    points: list[BudgetPoint]
    smallest: dict[str, float | None]
    """Selector → share of the smallest budget within `within` of the full data."""
    deciding: str
    """The held-out set that decided."""
    sources: list[SourcePoint]
    """Losses by source on the deciding set."""
    num_sources: int
    """Number of its sources, including those not listed."""
    selection_flops: float
    """FLOPs of all selections together."""
    rank_correlation: float | None
    """Rank correlation of prediction and target."""
    level: float = 0.95
    """Confidence level of all intervals."""
    sampled: str = "examples"
    """What the intervals cover in addition to seeds: examples or questions."""
    choosing: dict[str, float] = field(default_factory=dict)
    """Selector → FLOPs of selecting with it, as if it were the only one; missing if that is unknown."""
    num_failed: int = 0
    """Number of the sweep's trials that failed."""


TRAINING, SCORING, TARGET = "reference model: training", "reference model: scoring", "target"


@dataclass(frozen=True)
class CostPart:
    selector: str
    part: str
    """TRAINING, SCORING or TARGET."""
    flops: float


@dataclass(frozen=True)
class WallClock:
    """Wall-clock time of one selector's subset on the machines on which its stages ran (seconds)."""

    subset: str
    training_s: float
    """Time to train the reference model."""
    scoring_s: float
    selection_s: float
    """Time for clustering and selecting."""
    by_target: bool
    """Whether the target is the reference."""

    @property
    def total_s(self) -> float:
        return self.training_s + self.scoring_s + self.selection_s


@dataclass(frozen=True)
class Cost:
    parts: list[CostPart]
    selection_flops: float
    """FLOPs of all selections together."""
    selection_share: float | None
    """Cost of selection as a share of a target's on the full data."""
    full_flops: float | None
    """FLOPs of a target on the full data; None if none was trained."""
    full_is_measured: bool
    break_even: dict[str, float | None]
    """Model → number of targets from which selecting once and training on the subset costs less; None: never."""
    reference: list[tuple[float, float]]
    """(parameters, FLOPs of training and scoring) for reference models of several sizes."""
    proxy_parameters: int | None
    wall_clock: list[WallClock] = field(default_factory=list)
    choosing: dict[str, float] = field(default_factory=dict)
    """Model → FLOPs of selecting what it was trained on, as if that were the only selection."""
    proxy_flops: float = 0.0
    """FLOPs of training the proxy, and of its passes over the corpus for all snapshots."""
    by_target: bool = False
    """Whether a target on everything is the reference and included in the costs."""
