"""Estimate how far a subset's mean gradient is from the corpus's, from a sample of both.

For subsets that are random draws within clusters, the error is computed in closed form, as an expectation over all such
draws; for other subsets, it is measured on their sampled examples. The amount that chance in the sample adds to squared
norms is subtracted, so a larger sample only narrows the intervals. See Cochran, Sampling Techniques, 1977, chapters 2,
5 and 6; if all examples are in the sample, the closed forms are those of `gradient_agreement.subset_error`.

Memory: 16 m D bytes for m examples of D numbers, and 24 K D for K clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from s2l_ray.errors import DataError
from s2l_ray.selection.gradient_agreement import label_sums
from s2l_ray.selection.gradient_sample import NUM_GROUPS, GradientSample
from s2l_ray.selection.gradient_similarity import Interval, blocks_of, jackknife, root_jackknife

LEAST_MEMBERS = 30
"""Number of a subset's examples that must be in the sample for its error to be measured."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class UniformDraw:
    """A uniform random subset of the corpus."""

    num_examples: int


@dataclass(frozen=True)
class ClusterDraw:
    """A random draw within each cluster."""

    taken: Array
    """(K,) examples of each cluster."""

    @property
    def num_examples(self) -> int:
        return int(self.taken.sum())


@dataclass(frozen=True)
class Members:
    """A subset of given examples, which is not a random draw."""

    num_examples: int
    in_sample: Array
    """(m,) bool, which examples of the sample are in it."""
    weights: Array | None = None
    """(m,) weights of the members in the subset's mean; those of other examples are ignored."""


@dataclass(frozen=True)
class GradientError:
    """Error of a subset's mean gradient, relative to the norm of the corpus's. None: see `note`."""

    num_examples: int
    closed_form: bool
    """Whether the error is an expectation over all random draws of this kind, or that of the given examples."""
    bias: Interval | None
    """Error of the expected mean, caused by unequal sampling; only for draws within clusters."""
    rms: Interval | None
    """Root mean squared error of the plain mean: bias and chance together."""
    weighted_rms: Interval | None
    """Root mean squared error with weights: N/n of the clusters, or the subset's own."""
    random_rms: Interval | None
    """Root mean squared error of a uniform random subset of this size."""
    rms_by_random: Interval | None
    """`rms` / `random_rms`; below 1, the subset estimates the corpus's gradient better than a random one."""
    weighted_by_random: Interval | None
    """`weighted_rms` / `random_rms`."""
    note: str = ""


class _Squares(NamedTuple):
    """Unbiased estimates of squared errors, which may be below 0; they are sums over the gradients' numbers."""

    bias: float | None
    rms: float | None
    weighted: float | None
    random: float
    length: float
    """Squared norm of the corpus's mean gradient."""

    def without(self, block: _Squares) -> _Squares:
        """Return the squares of the gradients without a block of their numbers."""
        pairs = zip(self, block, strict=True)
        return _Squares(*(None if one is None or other is None else one - other for one, other in pairs))  # type: ignore[arg-type]


class _Figures(NamedTuple):
    """Squares of one subset: complete, without each group of the sample, and without each block of the sketch."""

    whole: _Squares
    without_group: list[_Squares]
    without_block: list[_Squares]

    def interval(
        self, method: Callable[..., Interval | None], figure: Callable[[_Squares], float | None]
    ) -> Interval | None:
        """Compute the interval of a figure by `method`, jackknife or root_jackknife."""
        return method(figure(self.whole), *(list(map(figure, one)) for one in self[1:]))


class _Moments(NamedTuple):
    """Moments of the K clusters, from a sample or a replicate of it."""

    kept: Array
    """(m,) bool: examples of this replicate."""
    counts: Array
    """(K,) examples in the sample."""
    means: Array
    """(K, D) mean gradients."""
    spreads: Array
    """(K,) trace of the sample covariance."""
    chance: Array
    """(K,) expected squared error of `means`."""
    mean: Array
    """(D,) mean gradient of the corpus."""
    length_squared: float
    """Squared norm of the corpus's mean gradient."""
    spread: float
    """Trace of the corpus's covariance."""


class SampledGradients:
    """Gradients of a sample of the corpus.

    Args:
        gradients: (m, D).
        num_blocks: number of independent blocks of the sketch; 1: the gradients are not sketches.

    Raises:
        DataError: a gradient is not finite.
    """

    def __init__(self, gradients: Array, sample: GradientSample, num_blocks: int = 1) -> None:
        self.sample, self.sizes, self.num_blocks = sample, sample.cluster_sizes, num_blocks
        self.num_examples = int(self.sizes.sum())
        self.gradients = gradients.astype(np.float64)
        self._squares = np.square(self.gradients).sum(axis=1)
        bad = np.flatnonzero(~np.isfinite(self._squares))
        if len(bad):
            raise DataError(
                f"{len(bad):,} of {len(gradients):,} gradients are not finite, so nothing can be compared; check the "
                "proxy's training"
            )
        self._sums, self._counts = label_sums(self.gradients, sample.clusters, len(self.sizes))

    def errors(self, subsets: Mapping[str, UniformDraw | ClusterDraw | Members]) -> dict[str, GradientError]:
        """Estimate the error of each subset; {} if the corpus's mean gradient cannot be distinguished from zero."""
        chance = [self._squares_of_all(subsets, group) for group in (None, *range(NUM_GROUPS))]
        blocks = [self._block(columns) for columns in blocks_of(self.gradients.shape[1], self.num_blocks)]
        sketch = [block._squares_of_all(subsets, None) for block in blocks]
        found = {
            name: _Figures(chance[0][name], [one[name] for one in chance[1:]],
                           [chance[0][name].without(one[name]) for one in sketch])
            for name in subsets
        }  # fmt: skip
        # The norm of the corpus's mean gradient is the same for all subsets.
        length = next((one.interval(jackknife, lambda of: of.length) for one in found.values()), None)
        if length is None or length.low <= 0:
            return {}
        return {name: self._error(subset, found[name]) for name, subset in subsets.items()}

    def _block(self, columns: slice) -> SampledGradients:
        return SampledGradients(self.gradients[:, columns], self.sample)

    def _squares_of_all(
        self, subsets: Mapping[str, UniformDraw | ClusterDraw | Members], group: int | None
    ) -> dict[str, _Squares]:
        moments = self._moments(group)
        return {name: self._squares_of(subset, moments) for name, subset in subsets.items()}

    def _error(self, subset: UniformDraw | ClusterDraw | Members, found: _Figures) -> GradientError:
        def relative(which: str, by: str = "length") -> Interval | None:
            def figure(of: _Squares) -> float | None:
                value, unit = getattr(of, which), getattr(of, by)
                return None if value is None or not unit else float(value / unit)

            return found.interval(root_jackknife, figure)

        return GradientError(
            subset.num_examples, not isinstance(subset, Members), relative("bias"),
            relative("random" if isinstance(subset, UniformDraw) else "rms"), relative("weighted"), relative("random"),
            relative("rms", "random"), relative("weighted", "random"), self._note(subset),
        )  # fmt: skip

    def _note(self, subset: UniformDraw | ClusterDraw | Members) -> str:
        if isinstance(subset, ClusterDraw):
            missing = int(((subset.taken == 0) & (self.sizes > 0)).sum())
            return f"{missing:,} clusters give nothing, so no weights make up for them" if missing else ""
        if isinstance(subset, Members) and not _is_measurable(subset):
            num = int(subset.in_sample.sum())
            return (
                f"only {num:,} of its {subset.num_examples:,} examples are in the sample, too few to measure its "
                "error; raise gradients.num_examples"
            )
        return ""

    def _moments(self, group: int | None) -> _Moments:
        """Compute the moments of the whole sample, or of the replicate without this group."""
        labels, sizes = self.sample.clusters, self.sizes
        kept = np.ones(len(labels), dtype=bool) if group is None else self.sample.cluster_groups != group
        left_out, num_left_out = label_sums(self.gradients[~kept], labels[~kept], len(sizes))
        counts = self._counts - num_left_out
        means = (self._sums - left_out) / np.maximum(counts, 1)[:, None]
        inner = np.bincount(labels[kept], weights=self._squares[kept], minlength=len(sizes))
        inner = np.maximum(inner - counts * np.square(means).sum(axis=1), 0)  # rounding goes below 0
        pooled = inner.sum() / max(1, int(np.maximum(counts - 1, 0).sum()))
        # A single example of a larger cluster, which only a replicate has, has no spread: use the pooled one.
        spreads = np.where(counts > 1, inner / np.maximum(counts - 1, 1), np.where(sizes > 1, pooled, 0.0))
        chance = (1 - counts / np.maximum(sizes, 1)) * spreads / np.maximum(counts, 1)
        share = sizes / self.num_examples
        mean = share @ means
        length_squared = float(mean @ mean) - float((np.square(share) * chance).sum())
        between = float((sizes * (np.square(means).sum(axis=1) - chance)).sum()) - self.num_examples * length_squared
        spread = float(((sizes - 1).clip(min=0) * spreads).sum()) + max(0.0, between)
        spread /= max(1, self.num_examples - 1)
        return _Moments(kept, counts, means, spreads, chance, mean, length_squared, spread)

    def _squares_of(self, subset: UniformDraw | ClusterDraw | Members, of: _Moments) -> _Squares:
        num, length = subset.num_examples, of.length_squared
        random = (1 - num / self.num_examples) * of.spread / num
        if isinstance(subset, ClusterDraw):
            taken = subset.taken
            bias = self._bias(of, taken)
            weighted = None if ((taken == 0) & (self.sizes > 0)).any() else self._variance(of, taken, self.sizes)
            return _Squares(bias, bias + self._variance(of, taken, taken), weighted, random, length)
        if isinstance(subset, UniformDraw) or not _is_measurable(subset):
            return _Squares(None, None, None, random, length)
        measured = self._measured(of, subset)
        plain = subset.weights is None
        return _Squares(None, measured if plain else None, None if plain else measured, random, length)

    def _bias(self, of: _Moments, taken: Array) -> float:
        excess = taken / taken.sum() - self.sizes / self.num_examples
        return float(np.square(excess @ of.means).sum()) - float((np.square(excess) * of.chance).sum())

    def _variance(self, of: _Moments, taken: Array, parts: Array) -> float:
        """Compute the variance of a mean in which the clusters have these `parts` (K,)."""
        left_out = 1 - taken / np.maximum(self.sizes, 1)
        per_cluster = np.divide(left_out * of.spreads, taken, out=np.zeros(len(taken)), where=taken > 0)
        return float((np.square(parts / parts.sum()) * per_cluster).sum())

    def _measured(self, of: _Moments, subset: Members) -> float | None:
        """Estimate the squared norm of the difference of two means, counting every sampled example N/m times.

        Its chance is linearised: an example adds (s_i − 1/N) g_i − s_i ḡ_S + ḡ/N to the difference, where s_i is its
        share in the subset's mean. No (m, D) matrix of these terms is built.
        """
        labels, counts = self.sample.clusters, of.counts
        share = (subset.in_sample & of.kept) * (1.0 if subset.weights is None else subset.weights)
        stands_for = self.sizes[labels] / np.maximum(counts[labels], 1)
        total = float((stands_for * share).sum())
        if not total:
            return None
        share, each = share / total, 1 / self.num_examples
        mean, whole = (stands_for * share) @ self.gradients, of.mean
        along = share * (self.gradients @ mean) - each * (self.gradients @ whole)
        constant = np.square(share) * (mean @ mean) - 2 * share * each * (mean @ whole) + each**2 * (whole @ whole)
        squares = np.square(share - each) * self._squares - 2 * (share - each) * along + constant
        inside = share > 0
        sums, _ = label_sums(share[inside, None] * self.gradients[inside], labels[inside], len(counts))
        sums -= each * counts[:, None] * (of.means - whole)
        sums -= np.bincount(labels, weights=share, minlength=len(counts))[:, None] * mean
        inner = np.bincount(labels[of.kept], weights=squares[of.kept], minlength=len(counts))
        inner = inner - np.square(sums).sum(axis=1) / np.maximum(counts, 1)
        chance = self.sizes * (self.sizes - counts) * inner / np.maximum(counts * (counts - 1), 1)
        return float(np.square(mean - whole).sum()) - float(chance.sum())


def _is_measurable(subset: Members) -> bool:
    return int(subset.in_sample.sum()) >= min(LEAST_MEMBERS, subset.num_examples)
