"""Metrics of held-out sets: names, units, which direction is better, how they are formatted and computed. numpy only.

Evaluation, sweeps, the report and the configuration all use this table. A package can provide metrics to every process,
including workers on a cluster, through the entry-point group `s2l_ray.metrics`
(https://packaging.python.org/specifications/entry-points/), in which each entry is a `Metric`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from typing_extensions import Self

from s2l_ray.errors import UserError, foreign_named, shown
from s2l_ray.text.nearest import nearest

ENTRY_POINTS = "s2l_ray.metrics"

Array = np.ndarray[Any, np.dtype[Any]]

RESERVED = frozenset({
    "answers", "budget", "budget_unit", "device_seconds", "evaluation", "flops", "folder", "heldout_set", "loss_before",
    "num_examples", "parameters", "per_source", "phase", "seed", "selector", "share", "source", "steps", "tokens",
    "trial", "wall_seconds",
})  # fmt: skip
"""Other columns of the tables in which metrics are columns, hence not valid as names."""


class MetricError(UserError):
    """A metric is unknown, or cannot be registered or computed."""


@dataclass(frozen=True)
class ScoredExamples:
    """A model's scores on a held-out set of N sequences: one per example, more for chats with several responses."""

    losses: Array
    """(N,) float64, mean negative log-likelihood of the response tokens (nats per token)."""
    counts: Array
    """(N,) number of response tokens."""
    exact: Array
    """(N,) bool: greedy decoding gives exactly this response."""
    sources: Array
    """(N,) int, indices into `source_names`; every source has examples."""
    source_names: tuple[str, ...]
    """Names of the sources, sorted."""

    def __len__(self) -> int:
        return len(self.losses)

    def take(self, rows: Array) -> ScoredExamples:
        """The rows with indices `rows` (M,), repeats allowed, at least one from every source."""
        return ScoredExamples(
            self.losses[rows], self.counts[rows], self.exact[rows], self.sources[rows], self.source_names
        )

    def only(self, rows: Array) -> ScoredExamples:
        """The rows with indices `rows`, from any sources."""
        some = self.take(rows)
        kept, codes = np.unique(some.sources, return_inverse=True)
        return replace(some, sources=codes, source_names=tuple(self.source_names[i] for i in kept))


def scored_examples(losses: Array, counts: Array, exact: Array, sources: Array) -> ScoredExamples:
    """Make a ScoredExamples from losses (N,) in nats per token, counts (N,) of response tokens, exact (N,) bool and the
    sources' names (N,)."""
    names, codes = np.unique(np.asarray(sources), return_inverse=True)
    return ScoredExamples(losses.astype(np.float64), counts, exact.astype(bool), codes, tuple(map(str, names)))


@dataclass(frozen=True)
class Metric:
    """A number that measures how good a model is on a held-out set.

    It is computed by either `of_example` or `compute`. With `of_example` it is also reported by source, and its
    intervals are cheap.
    """

    name: str
    """Name in the configuration and in tables: lower-case letters, digits and underscores."""
    label: str
    """Name for readers: `held-out loss`."""
    unit: str
    """Unit: `nats/token`; for a share, what it is a share of: `examples`."""
    more_is_better: bool
    of_example: Callable[[ScoredExamples], Array] | None = None
    """Function that returns (N,) values, whose mean is the metric."""
    over: Literal["examples", "sources"] = "examples"
    """With `of_example`: average over all examples, or average the means of the sources."""
    compute: Callable[[ScoredExamples], float] | None = None
    """Function that returns the metric of all examples together."""
    detail: str = ""
    """Distinction from other metrics with the same label: `mean over sources`."""
    is_share: bool = False
    """Whether it is between 0 and 1, and shown in per cent."""
    is_compared: bool = True
    """Whether the report compares targets by it, with intervals."""
    column: str = ""
    """Column name in tables; empty: `name`."""

    def __post_init__(self) -> None:
        if not self.column:
            object.__setattr__(self, "column", self.name)

    def of(self, scored: ScoredExamples) -> float:
        """Compute the metric of these examples.

        Raises:
            MetricError: the registered function fails, or does not return a finite number.
        """
        with foreign_named(
            MetricError, f"the metric {self.name} cannot be computed", "Fix the function that computes it"
        ):
            value = float(self._of(scored))
        if not math.isfinite(value):
            raise MetricError(
                f"the metric {self.name} of {len(scored)} examples is {value}, which cannot be compared with anything; "
                "fix the function that computes it"
            )
        return value

    def _of(self, scored: ScoredExamples) -> float:
        if self.compute is not None:
            return self.compute(scored)
        assert self.of_example is not None
        values = self.of_example(scored)
        return float(np.mean(means_of_sources(scored, values) if self.over == "sources" else values))

    @property
    def is_mean(self) -> bool:
        """Whether it is a mean over examples, so that it can also be computed for some of them."""
        return self.of_example is not None and self.over == "examples"

    @property
    def direction(self) -> str:
        return "higher is better" if self.more_is_better else "lower is better"

    @property
    def scale(self) -> str:
        """Unit of its plain numbers: `nats/token`, `share of examples`."""
        return f"share of {self.unit}" if self.is_share else self.unit

    @property
    def shown_unit(self) -> str:
        """Unit as it is shown: `nats/token`, `% of examples`."""
        return f"% of {self.unit}" if self.is_share else self.unit

    @property
    def full_label(self) -> str:
        """`held-out loss (mean over sources)`."""
        return f"{self.label} ({self.detail})" if self.detail else self.label

    def facts(self, detailed: bool = True) -> dict[str, Any]:
        """What readers without this metric registered need to know; see reporting.facts.MetricFacts."""
        label = self.full_label if detailed else self.label
        return {"key": self.column, "label": label, "unit": self.shown_unit, "more_is_better": self.more_is_better,
                "is_share": self.is_share}  # fmt: skip

    def format(self, value: float) -> str:
        """`3.214`, `53.1%`."""
        return f"{value:.1%}" if self.is_share else f"{value:.3f}"


def means_of_sources(scored: ScoredExamples, values: Array) -> Array:
    """Mean of values (N,) for each source, (S,), in the order of `source_names`."""
    weights = np.asarray(values).astype(np.float64)
    means: Array = np.bincount(scored.sources, weights=weights) / np.bincount(scored.sources)
    return means


def _mean_over_tokens(scored: ScoredExamples) -> float:
    return float((scored.losses * scored.counts).sum() / scored.counts.sum())


_BUILT_IN = (
    Metric("macro", "held-out loss", "nats/token", False, of_example=lambda scored: scored.losses, over="sources",
           detail="mean over sources", is_compared=False),
    Metric("micro", "held-out loss", "nats/token", False, of_example=lambda scored: scored.losses,
           detail="mean over examples", column="loss"),
    Metric("per_token", "held-out loss", "nats/token", False, compute=_mean_over_tokens, detail="mean over tokens",
           is_compared=False),
    Metric("exact_match", "exact matches", "examples", True, of_example=lambda scored: scored.exact, is_share=True),
)  # fmt: skip
"""The mean over examples of their mean loss per response token; the mean over sources of those means, so that rare
sources count as much as common ones; the mean over all response tokens; and the share of examples whose whole response
is the model's first choice, token by token."""


def register_metric(metric: Metric) -> Metric:
    """Register a metric under its name, in this process and in the trials of its sweeps, and return it.

    Raises:
        MetricError: its name or column is already in use or invalid, or not exactly one of `of_example` and `compute`
            is given.
    """
    known = _metrics()
    _check(metric, known.values())
    known[metric.name] = metric
    return metric


_ANSWERS = "evaluation."
ANSWER_FIGURES = {
    "correct": ("accuracy", True), "correct_published": ("accuracy by the published rule", True),
    "first": ("first number is the gold", True), "bleu": ("BLEU", False), "rouge1": ("ROUGE-1", False),
    "rouge2": ("ROUGE-2", False), "rougeL": ("ROUGE-L", False), "bertscore": ("BERTScore", False),
}  # fmt: skip
"""Metrics of answers to test questions: label, and whether it is a share of the questions (otherwise in per cent)."""


def figure_of_answers(name: str) -> tuple[str, str] | None:
    """(task, metric) of a name such as `evaluation.gsm8k.correct`; None for a metric of a held-out set.

    Raises:
        MetricError: the name starts like one but is not valid.
    """
    if not name.startswith(_ANSWERS):
        return None
    task, _, figure = name.removeprefix(_ANSWERS).rpartition(".")
    if not task or figure not in ANSWER_FIGURES:
        raise MetricError(
            f"{shown(name)} is not a metric of answers to test questions; write evaluation.<task>.<metric>, such as "
            f"evaluation.gsm8k.correct, with one of {', '.join(ANSWER_FIGURES)}"
        )
    return task, figure


def get_metric(name: str) -> Metric:
    """The metric with this name; for answers to test questions (`evaluation.gsm8k.correct`), only its description.

    Raises:
        MetricError: there is none; the message lists those that exist and suggests the most similar one.
    """
    if of_answers := figure_of_answers(name) if isinstance(name, str) else None:
        label, is_share = ANSWER_FIGURES[of_answers[1]]
        unit = "questions" if is_share else "0 to 100"
        return Metric(name, label, unit, more_is_better=True, detail=of_answers[0], is_share=is_share)
    known = _metrics()
    if name not in known:
        near = nearest(str(name), known)
        hint = f"did you mean {near!r}? " if near else ""
        raise MetricError(
            f"unknown metric {shown(name)}; known: {', '.join(known)}; {hint}Your own metrics must first be registered "
            "in this process (register_metric) or provided by an installed package"
        )
    return known[name]


def list_metrics() -> list[Metric]:
    """All known metrics: this package's first, then others in the order of registration."""
    return list(_metrics().values())


def built_in_metrics() -> list[Metric]:
    """This package's own metrics."""
    return list(_BUILT_IN)


def registered_metrics() -> tuple[Metric, ...]:
    """Metrics registered by calls or by other packages."""
    return tuple(metric for metric in _metrics().values() if metric not in _BUILT_IN)


def _check(metric: Metric, others: Iterable[Metric]) -> None:
    if not isinstance(metric, Metric):
        raise MetricError(f"{shown(metric)} is not a metric; give a s2l_ray.evaluation.metrics.Metric")
    for name in (metric.name, metric.column):
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name) or name in RESERVED:
            raise MetricError(
                f"{shown(name)} is not a valid name for a metric, which becomes a column of a table; use lower-case "
                f"letters, digits and underscores, starting with a letter, and none of {', '.join(sorted(RESERVED))}"
            )
    if (metric.of_example is None) == (metric.compute is None):
        raise MetricError(
            f"the metric {metric.name} needs exactly one of `of_example` (whose mean is the metric) and `compute`"
        )
    others = [other for other in others if other.name != metric.name or other in _BUILT_IN]  # it may replace itself
    taken = {name for other in others for name in (other.name, other.column)}
    if taken & {metric.name, metric.column}:
        raise MetricError(f"a metric or column {metric.name!r} already exists; choose another name")


@functools.cache
def _metrics() -> dict[str, Metric]:
    """The one table of this process; entry points are loaded on first use."""
    known = {metric.name: metric for metric in _BUILT_IN}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        with foreign_named(MetricError, f"the metric {entry.name} of {entry.value} cannot be loaded",
                           "Repair or remove the package that provides it"):  # fmt: skip
            metric = entry.load()
        _check(metric, known.values())
        known[metric.name] = metric
    return known


@dataclass(frozen=True)
class SetResult:
    """One model's metrics on one held-out set."""

    num_examples: int
    figures: dict[str, float]
    """Metric → its value."""
    per_source: dict[str, dict[str, float]] = field(default_factory=dict)
    """Source → `num_examples` and, by column, the metrics that are means over examples."""

    def __getitem__(self, metric: str) -> float:
        return self.figures[metric]

    def plain(self) -> dict[str, Any]:
        """As JSON data: the metrics next to `num_examples` and `per_source`."""
        return {"num_examples": self.num_examples, **self.figures, "per_source": self.per_source}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `plain`."""
        figures = {name: value for name, value in plain.items() if name not in ("num_examples", "per_source")}
        return cls(plain["num_examples"], figures, plain["per_source"])


def summarise(scored: ScoredExamples, metrics: Iterable[Metric] = _BUILT_IN) -> SetResult:
    """Compute the metrics of a set.

    Sums are in float64 in the given order: sort by example id to make them independent of which worker scored what.

    Raises:
        MetricError: a metric fails.
    """
    metrics = list(metrics)
    sizes = np.bincount(scored.sources)
    per_source: dict[str, dict[str, float]] = {
        name: {"num_examples": int(size)} for name, size in zip(scored.source_names, sizes, strict=True)
    }
    for metric in metrics:
        if metric.is_mean and metric.of_example is not None:
            for name, mean in zip(
                scored.source_names, means_of_sources(scored, metric.of_example(scored)), strict=True
            ):
                per_source[name][metric.column] = float(mean)
    return SetResult(len(scored), {metric.name: metric.of(scored) for metric in metrics}, per_source)
