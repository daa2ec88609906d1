"""The facts of a report: every number that the page shows or draws, as plain dataclasses (`facts.json`).

What a run does not have is None or an empty list. Shares are fractions, losses are in nats per response token, times in
seconds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from s2l_ray.reporting.facts_contents import Clusters, Contents, ExampleFacts, Overlap, Space, SubsetFacts
from s2l_ray.reporting.facts_gradients import GradientFacts
from s2l_ray.reporting.facts_meaning import Meaning
from s2l_ray.reporting.facts_tasks import Judged
from s2l_ray.reporting.facts_worth import Budgets, Cost, MetricFacts, Worth


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
    """(step, loss) or (step, learning rate) of each point."""


@dataclass(frozen=True)
class Training:
    proxy: Curve | None
    snapshots: list[tuple[int, float]]
    """(step, mean loss) of each snapshot."""
    targets: list[Curve]
    rates: list[Curve]
    """Learning rate of the reference model (`proxy`) and of each target."""
    heldout: list[Curve]
    """Name: `<target> on <set>`."""
    restarts: list[tuple[str, int]]
    """(stage, step) of each restart."""


@dataclass(frozen=True)
class Quarantined:
    stage: str
    origin: str
    index: int
    reason: str


@dataclass(frozen=True)
class GuardFacts:
    """What the guard of a subset ranked last."""

    subset: str
    num_dropped: int
    num_examples: int
    by_rule: dict[str, int]
    lines: list[tuple[str, str, int, int, dict[str, int]]]
    """(source, cluster or facet; its value; number ranked last; number in total; by rule), the largest share first."""
    warnings: list[str]


@dataclass(frozen=True)
class SetAside:
    counts: list[tuple[str, int]]
    """(outcome, number of examples), in the order of processing; used and selected examples come last."""
    reasons: list[tuple[str, int]]
    rows: list[Quarantined]
    guards: list[GuardFacts] = field(default_factory=list)


@dataclass(frozen=True)
class DataSet:
    name: str
    role: str
    """`selection`, `evaluation` or `test questions`."""
    num_examples: int
    """Number of examples; for test questions, of those that were asked."""
    num_sources: int | None
    level: str
    """What the questions are about, for sets that the evaluation knows."""
    domain: str
    """Whether it is in or outside the training data's domain; empty if unknown."""
    answer: str = ""
    """What an answer to the test questions is."""
    published: int | None = None
    """Number of questions in the published set."""


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
    first_file: str | None = None
    """URI of the first of them."""


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
    """The subset that the head, cards and examples refer to."""
    worth: Worth | None = None
    judged: Judged | None = None
    budgets: Budgets | None = None
    cost: Cost | None = None
    contents: Contents | None = None
    clusters: Clusters | None = None
    space: Space | None = None
    meaning: Meaning | None = None
    gradients: GradientFacts | None = None
    stability: Stability | None = None
    training: Training | None = None
    examples: list[ExampleFacts] = field(default_factory=list)
    set_aside: SetAside | None = None
    data_sets: list[DataSet] = field(default_factory=list)
    repeat: Repeat | None = None

    def plain(self) -> dict[str, Any]:
        """The facts as JSON data."""
        return dataclasses.asdict(self)
