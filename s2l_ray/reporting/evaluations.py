"""Scores of individual held-out examples for a run's targets, aligned by example id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from s2l_ray.artifacts.evaluations import read_scores
from s2l_ray.artifacts.models import HeldOutEvaluationArtifact
from s2l_ray.artifacts.stage import Stage
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.evaluation.heldout import rows_by_set, scored_of
from s2l_ray.evaluation.metrics import Metric, ScoredExamples, list_metrics
from s2l_ray.reporting.intervals import NUM_RESAMPLES, resampled_means, stratified_resamples
from s2l_ray.text.display import printable

Array = np.ndarray[Any, np.dtype[Any]]


def compared_metrics() -> list[Metric]:
    """The metrics by which targets are compared, with intervals."""
    return [metric for metric in list_metrics() if metric.is_compared]


@dataclass(frozen=True)
class Key:
    """A trained model, identified by what it was trained on and by its seed."""

    label: str
    seed: int


@dataclass
class HeldOutSet:
    """The examples that all models were evaluated on: N examples in S sequences, grouped by example."""

    name: str
    ids: Array
    """(N, 2) uint64 ids, sorted and unique."""
    starts: Array
    """(N,) index of each example's first sequence."""
    counts: Array
    """(N,) number of each example's sequences."""
    sources: list[str]
    """(N,) source of each example."""
    scored: dict[Key, ScoredExamples] = field(default_factory=dict)
    """Model → its scores on the S sequences."""

    def sums(self, metric: Metric, keys: Sequence[Key]) -> Array:
        """(N, len(keys)) sums, over each example's sequences, of the values that the metric averages."""
        of_example = metric.of_example
        assert of_example is not None
        columns = [np.add.reduceat(of_example(self.scored[key]).astype(np.float64), self.starts) for key in keys]
        return np.column_stack(columns)

    def values(self, metric: Metric, keys: Sequence[Key]) -> Array:
        """(len(keys),) values of the metric."""
        return np.array([metric.of(self.scored[key]) for key in keys])

    def resampled(self, metric: Metric, keys: Sequence[Key], seed: int = 0) -> Array:
        """(R, len(keys)) bootstrap values over the examples, the same examples for all models.

        For a metric that is not a mean over examples, each source is resampled separately, so that none is ever empty.
        """
        if metric.is_mean:
            return resampled_means(self.sums(metric, keys), self.counts, seed)
        strata = self.scored[keys[0]].sources[self.starts]
        if metric.of_example is not None:
            sums, members = self.sums(metric, keys), [np.flatnonzero(strata == s) for s in np.unique(strata)]
            each = [resampled_means(sums[rows], self.counts[rows], seed + i) for i, rows in enumerate(members)]
            return np.mean(each, axis=0)
        out = np.empty((NUM_RESAMPLES, len(keys)))
        for i, rows in enumerate(stratified_resamples(strata, seed)):
            sequences = self.sequences(rows)
            out[i] = [metric.of(self.scored[key].take(sequences)) for key in keys]
        return out

    def sequences(self, rows: Array) -> Array:
        """Indices of the sequences of these examples, which may be repeated."""
        counts = self.counts[rows]
        before = np.cumsum(counts) - counts
        return np.repeat(self.starts[rows] - before, counts) + np.arange(counts.sum())


@dataclass(frozen=True)
class _Read:
    ids: Array
    """(S, 2) uint64 ids, sorted."""
    scored: ScoredExamples


def read_sets(models: dict[Key, Stage]) -> list[HeldOutSet]:
    """Read the held-out sets with the scores of all models, restricted to the examples that all were evaluated on.

    A set is left out if a model lacks it or if the models have no example in common.

    Args:
        models: trained model → its evaluation.
    """
    read = {key: _read(stage) for key, stage in models.items()}
    names = [n for stage in models.values() for n in HeldOutEvaluationArtifact.of(stage).results]
    sets = []
    for name in dict.fromkeys(names):
        found = {key: sets_of[name] for key, sets_of in read.items() if name in sets_of}
        if len(found) == len(models):
            made = _align(name, found)
            if len(made.ids):
                sets.append(made)
    return sets


def _read(evaluation: Stage) -> dict[str, _Read]:
    """Held-out set → its scores."""
    found = {}
    for name, rows in rows_by_set(read_scores(evaluation)).items():
        ids = ids_to_array(rows["example_id"])
        order = np.lexsort((ids[:, 1], ids[:, 0]))
        found[name] = _Read(ids[order], scored_of(rows).take(order))
    return found


def _align(name: str, read: dict[Key, _Read]) -> HeldOutSet:
    """Restrict models to the ids that all of them have; no search is needed in the usual case of equal ids."""
    reference = next(iter(read.values()))
    if not all(np.array_equal(one.ids, reference.ids) for one in read.values()):
        common = set.intersection(*(set(map(tuple, one.ids.tolist())) for one in read.values()))
        read = {key: _only(one, common) for key, one in read.items()}
        reference = next(iter(read.values()))
    ids = reference.ids
    starts = np.flatnonzero(np.r_[True, (ids[1:] != ids[:-1]).any(axis=1)][: len(ids)])
    counts = np.diff(np.r_[starts, len(ids)])
    names = [printable(source) for source in reference.scored.source_names]
    sources = [names[code] for code in reference.scored.sources[starts]]
    return HeldOutSet(name, ids[starts], starts, counts, sources, {key: one.scored for key, one in read.items()})


def _only(read: _Read, ids: set[tuple[int, ...]]) -> _Read:
    kept = np.flatnonzero([tuple(i) in ids for i in read.ids.tolist()])
    return _Read(read.ids[kept], read.scored.only(kept))
