"""How far a subset's mean gradient lies from the corpus's, estimated from a sample of both.

In closed form for subsets that are random draws within clusters (the mean over all such draws; no training), and
measured on the sampled examples for those that are not. What chance in the sample adds to a squared length is taken off
again, so a larger sample makes the intervals narrower and nothing else. Cochran, Sampling Techniques, 1977, chapters 2,
5 and 6; with all examples in the sample the closed forms are those of `gradient_agreement.subset_error`.

Memory: 16 m D bytes for m examples of D numbers, and 24 K D for K clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from s2l_ray.errors import DataError
from s2l_ray.selection.gradient_agreement import label_sums
from s2l_ray.selection.gradient_sample import NUM_GROUPS, GradientSample
from s2l_ray.selection.gradient_similarity import Interval, jackknife, root_jackknife

LEAST_MEMBERS = 30
"""Of a subset in the sample, for its error to be measured."""

Array = np.ndarray[Any, np.dtype[Any]]
_Square = Callable[[int], "float | None"]


@dataclass(frozen=True)
class GradientError:
    """Error of a subset's mean gradient, relative to the length of the corpus's. None: see `note`."""

    num_examples: int
    closed_form: bool
    """Over all random draws with the subset's numbers from each cluster; else of these very examples."""
    bias: Interval | None
    """Of the expected mean: what unequal sampling does. Closed form only."""
    rms: Interval | None
    """Of the plain mean; bias and chance together."""
    weighted_rms: Interval | None
    """With weights N/n of the clusters."""
    random_rms: Interval | None
    """Of a uniform random subset of this size."""
    rms_by_random: Interval | None
    """The one divided by the other; below 1 the subset estimates the corpus's gradient better than a random one."""
    weighted_by_random: Interval | None
    note: str = ""


class _Moments(NamedTuple):
    """Of the clusters (K), from a sample."""

    means: Array
    """(K, D)"""
    spreads: Array
    """(K,) trace of the sample covariance."""
    chance: Array
    """(K,) expected squared error of `means`."""
    mean: Array
    """(D,) of the corpus."""
    mean_chance: float
    length_squared: float
    """Of the corpus's mean gradient."""
    spread: float
    """Trace of the corpus's covariance."""


class SampledGradients:
    """Gradients (m, D) of a sample. DataError if some are not finite."""

    def __init__(self, gradients: Array, sample: GradientSample) -> None:
        self.sample, self.gradients = sample, gradients.astype(np.float64)
        self.sizes = sample.cluster_sizes
        bad = np.flatnonzero(~np.isfinite(self.gradients).all(axis=1))
        if len(bad):
            raise DataError(
                f"{len(bad):,} of {len(gradients):,} gradients are not finite; look at the proxy's training"
            )
        self._squares = np.square(self.gradients).sum(axis=1)
        everything = np.ones(len(gradients), dtype=bool)
        self._kept = [everything, *(sample.cluster_groups != group for group in range(NUM_GROUPS))]
        """All rows, and those of each replicate."""
        self._moments = [self._moments_of(kept) for kept in self._kept]

    @property
    def is_resolved(self) -> bool:
        """Whether the corpus's mean gradient can be told from zero; else no error is relative to anything."""
        length = jackknife(lambda at: self._moments[at].length_squared, 0, range(1, NUM_GROUPS + 1))
        return length is not None and length.low > 0

    def closed_form(self, taken: Array) -> GradientError:
        """Of `taken` (K,) random examples from each cluster."""
        missing = (taken == 0) & (self.sizes > 0)
        note = f"{int(missing.sum()):,} clusters give nothing, so no weights make up for them" if missing.any() else ""
        return self._error(
            int(taken.sum()), note,
            bias=lambda at: self._bias(self._moments[at], taken),
            rms=lambda at: self._bias(self._moments[at], taken) + self._variance(self._moments[at], taken, taken),
            weighted=None if missing.any() else lambda at: self._variance(self._moments[at], taken, self.sizes),
        )  # fmt: skip

    def measured(self, members: Array, num_examples: int, weights: Array | None = None) -> GradientError:
        """Of the very examples of a subset.

        Args:
            members: (m,) bool, which examples of the sample are in it.
            num_examples: in the whole subset.
            weights: (m,) of the members in the subset's mean; others do not matter.
        """
        num = int(members.sum())
        if num < min(LEAST_MEMBERS, num_examples):
            note = (
                f"only {num:,} of its {num_examples:,} examples are in the sample; raise gradients.num_examples to "
                "have it measured"
            )
            return self._error(num_examples, note)
        share = members * (np.ones(len(members)) if weights is None else weights)
        figure = [self._measured(at, share) for at in range(len(self._kept))].__getitem__
        return self._error(num_examples, "", **{"rms" if weights is None else "weighted": figure})

    def _error(
        self,
        num: int,
        note: str,
        bias: _Square | None = None,
        rms: _Square | None = None,
        weighted: _Square | None = None,
    ) -> GradientError:
        """Figures are squares, functions of the number of a replicate, 0 for everything."""

        def random(at: int) -> float:
            of = self._moments[at]
            return (1 - num / int(self.sizes.sum())) * of.spread / num / of.length_squared

        def by_random(figure: _Square | None) -> _Square | None:
            def ratio(at: int) -> float | None:
                assert figure is not None
                found, by = figure(at), random(at)
                return found / by if found is not None and by else None

            return None if figure is None else ratio

        of_all = (_interval(figure) for figure in (bias, rms, weighted, random, by_random(rms), by_random(weighted)))
        return GradientError(num, bias is not None, *of_all, note)

    def _moments_of(self, kept: Array) -> _Moments:
        labels, sizes = self.sample.clusters[kept], self.sizes
        sums, counts = label_sums(self.gradients[kept], labels, len(sizes))
        means = sums / np.maximum(counts, 1)[:, None]
        inner = np.bincount(labels, weights=self._squares[kept], minlength=len(sizes))
        inner = np.maximum(inner - counts * np.square(means).sum(axis=1), 0)  # rounding goes below 0
        pooled = inner.sum() / max(1, int(np.maximum(counts - 1, 0).sum()))
        # One of a larger cluster, which only a replicate has, tells nothing of its spread: that of all others.
        spreads = np.where(counts > 1, inner / np.maximum(counts - 1, 1), np.where(sizes > 1, pooled, 0.0))
        chance = (1 - counts / np.maximum(sizes, 1)) * spreads / np.maximum(counts, 1)
        share = sizes / sizes.sum()
        mean = share @ means
        mean_chance = float((np.square(share) * chance).sum())
        length_squared = float(np.square(mean).sum()) - mean_chance
        between = float((sizes * (np.square(means).sum(axis=1) - chance)).sum()) - sizes.sum() * length_squared
        spread = (float(((sizes - 1).clip(min=0) * spreads).sum()) + max(0.0, between)) / max(1, int(sizes.sum()) - 1)
        return _Moments(means, spreads, chance, mean, mean_chance, length_squared, spread)

    def _bias(self, of: _Moments, taken: Array) -> float:
        excess = taken / taken.sum() - self.sizes / self.sizes.sum()
        squared = float(np.square(excess @ of.means).sum()) - float((np.square(excess) * of.chance).sum())
        return squared / of.length_squared

    def _variance(self, of: _Moments, taken: Array, parts: Array) -> float:
        """Of a mean in which the clusters have these `parts` (K,)."""
        left_out = 1 - taken / np.maximum(self.sizes, 1)
        per_cluster = np.divide(left_out * of.spreads, taken, out=np.zeros(len(taken)), where=taken > 0)
        return float((np.square(parts / parts.sum()) * per_cluster).sum()) / of.length_squared

    def _measured(self, at: int, share: Array) -> float | None:
        """The length of the difference of two means, each estimated by counting every example N/m times."""
        kept, of = self._kept[at], self._moments[at]
        labels, gradients = self.sample.clusters[kept], self.gradients[kept]
        counts = np.bincount(labels, minlength=len(self.sizes))
        stands_for = self.sizes[labels] / counts[labels]
        share = share[kept]
        total = float((stands_for * share).sum())
        if not total:
            return None
        mean = (stands_for * share) @ gradients / total
        # Linearised: what one example adds to the difference of the two means.
        added = (share / total)[:, None] * (gradients - mean) - (gradients - of.mean) / self.sizes.sum()
        sums, _ = label_sums(added, labels, len(self.sizes))
        squares = np.bincount(labels, weights=np.square(added).sum(axis=1), minlength=len(self.sizes))
        inner = squares - np.square(sums).sum(axis=1) / np.maximum(counts, 1)
        chance = self.sizes * (self.sizes - counts) * inner / np.maximum(counts * (counts - 1), 1)
        squared = float(np.square(mean - of.mean).sum()) - float(chance.sum())
        return squared / of.length_squared


def _interval(square: _Square | None) -> Interval | None:
    return None if square is None else root_jackknife(square, 0, range(1, NUM_GROUPS + 1))
