"""Measure whether gradients are similar within clusters, with intervals, and compared with permuted labels.

Intervals come from a delete-a-group jackknife (Kott, Journal of Official Statistics 17, 2001) of figures that are
smooth functions of sums. Leaving out each group of the examples gives the variance due to the sample, leaving out each
block of the sketch that due to sketching; the two variances are added.

Memory for M examples of D numbers: 8 M D bytes, and 16 M².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from s2l_ray.selection.gradient_agreement import DEFAULT_DRAWS, gap_of, paired_rows
from s2l_ray.selection.gradient_sample import NUM_GROUPS

NUM_BLOCKS = 16
"""Number of equal, consecutive blocks of a sketch that are independent of each other."""
T_QUANTILE = 2.093
"""97.5th percentile of Student's t with NUM_GROUPS − 1 = 19 degrees of freedom."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Similarity:
    """Similarity of gradients with the same label. None: there are no such pairs, or all gradients are equal."""

    num_labels: int
    within: float | None
    """Mean cosine of pairs with the same label."""
    across: float | None
    """Mean cosine of pairs with different labels."""
    difference: Interval | None
    """within − across."""
    explained: Interval | None
    """R², the share of the gradients' variance that lies between labels."""
    null_within: float | None
    """Mean of `within` over permuted labels."""
    null_difference: tuple[float, float] | None
    """Lowest and highest difference over permuted labels."""
    null_explained: float | None
    """Mean of `explained` over permuted labels."""


class _Sums(NamedTuple):
    """Squared norms of sums of gradients, by label (K,) and over all."""

    units: Array
    all_units: float
    num_units: Array
    centred: Array
    all_centred: float
    num: Array
    total: float
    """Sum of squared norms of the centred gradients."""
    raw: float
    """Sum of squared norms of the gradients before centring."""


class _Pairs:
    """Inner products of all pairs, from which sums for any labels follow.

    They are those of centred gradients c = g − ḡ; with a_i = c_i · ḡ, g_i · g_j = c_i · c_j + a_i + a_j + ‖ḡ‖².
    """

    def __init__(self, gradients: Array) -> None:
        centred = gradients.astype(np.float64)
        self.squares = np.square(centred).sum(axis=1)  # (M,)
        mean = centred.mean(axis=0)
        centred -= mean
        self.products = centred @ centred.T  # (M, M)
        self.along_mean = centred @ mean  # (M,)
        self.mean_squared = float(mean @ mean)

    def without(self, block: _Pairs) -> _Pairs:
        """Return the pairs of the gradients without a block of their numbers."""
        found = _Pairs.__new__(_Pairs)
        found.squares = np.maximum(self.squares - block.squares, 0)
        found.squares[found.squares <= 1e-12 * self.squares] = 0  # what rounding alone leaves
        found.products = np.subtract(self.products, block.products, out=block.products)
        found.along_mean = self.along_mean - block.along_mean
        found.mean_squared = self.mean_squared - block.mean_squared
        return found

    @property
    def by_norm(self) -> Array:
        """(M,) 1/‖g‖, or 0 for gradients that are zero and have no direction."""
        return np.divide(1, np.sqrt(self.squares), out=np.zeros(len(self.squares)), where=self.squares > 0)


class UniformGradients:
    """Gradients of a uniform sample.

    Args:
        gradients: (M, D).
        groups: (M,) groups of the jackknife, integers from 0 to NUM_GROUPS − 1.
        num_blocks: number of independent blocks of the sketch; 1: the gradients are not sketches.
    """

    def __init__(self, gradients: Array, groups: Array, num_blocks: int = 1) -> None:
        self.gradients, self.groups, self.num_blocks = gradients, groups, num_blocks
        self.pairs = _Pairs(gradients)

    @property
    def num_zero(self) -> int:
        """Number of examples whose gradient is zero and has no direction."""
        return int((self.pairs.squares == 0).sum())

    def similarities(
        self, labels: Mapping[str, Array], seed: int = 0, num_draws: int = DEFAULT_DRAWS
    ) -> dict[str, Similarity]:
        """Measure the similarity for several kinds of labels, each (M,) integers from 0."""
        without_block: dict[str, list[_Sums]] = {kind: [] for kind in labels}
        for columns in blocks_of(self.gradients.shape[1], self.num_blocks):
            pairs = self.pairs.without(_Pairs(self.gradients[:, columns]))
            for kind, of in labels.items():
                without_block[kind].append(_sums(pairs, of, np.ones(len(of), dtype=bool)))
        return {kind: self._similarity(of, without_block[kind], seed, num_draws) for kind, of in labels.items()}

    def _similarity(self, labels: Array, without_block: list[_Sums], seed: int, num_draws: int) -> Similarity:
        everything = np.ones(len(labels), dtype=bool)
        whole = _sums(self.pairs, labels, everything)
        without_group = [_sums(self.pairs, labels, self.groups != group) for group in range(NUM_GROUPS)]
        rng = np.random.default_rng(seed)
        nulls = [_sums(self.pairs, rng.permutation(labels), everything, whole) for _ in range(num_draws)]
        within, across = _cosines(whole)
        null_cosines = [_cosines(null) for null in nulls]
        apart = [w - a for w, a in null_cosines if w is not None and a is not None]

        def interval(figure: Callable[[_Sums], float | None]) -> Interval | None:
            return jackknife(figure(whole), *(list(map(figure, one)) for one in (without_group, without_block)))

        return Similarity(
            int((whole.num > 0).sum()),
            within,
            across,
            interval(_difference),
            interval(_explained),
            _mean([w for w, _ in null_cosines]),
            (min(apart), max(apart)) if apart else None,
            _mean([_explained(null) for null in nulls]),
        )

    def gap(self, labels: Array, seed: int = 0) -> float | None:
        """Compute the relative gap; see `gradient_agreement.gradient_gap`."""
        rows = paired_rows(len(labels), seed)
        return gap_of(self.pairs.products[np.ix_(rows, rows)], labels[rows])


def blocks_of(dim: int, num_blocks: int) -> list[slice]:
    """Return the columns of each block of a sketch; [] if there is only one block, or `dim` cannot be divided."""
    if num_blocks < 2 or dim % num_blocks:
        return []
    width = dim // num_blocks
    return [slice(start, start + width) for start in range(0, dim, width)]


def _sums(pairs: _Pairs, labels: Array, kept: Array, of_all: _Sums | None = None) -> _Sums:
    """Compute the sums of the kept gradients (M,); `of_all`: sums from which to take those independent of labels."""
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    num = np.bincount(labels[rows], minlength=int(labels.max()) + 1)
    by_norm = pairs.by_norm
    groups = np.split(rows, np.cumsum(num)[:-1])
    of_labels = np.array([_squared_sums(pairs, by_norm, group) for group in groups]).reshape(-1, 2)
    if of_all is None:
        units, centred = _squared_sums(pairs, by_norm, rows)
        total, raw = float(np.diag(pairs.products)[rows].sum()), float(pairs.squares[rows].sum())
    else:
        units, centred, total, raw = of_all.all_units, of_all.all_centred, of_all.total, of_all.raw
    num_units = np.bincount(labels[rows][by_norm[rows] > 0], minlength=len(num))
    return _Sums(of_labels[:, 0], units, num_units, of_labels[:, 1], centred, num, total, raw)


def _squared_sums(pairs: _Pairs, by_norm: Array, rows: Array) -> tuple[float, float]:
    """Return ‖Σ u‖² of unit gradients and ‖Σ c‖² of centred ones."""
    block = pairs.products[np.ix_(rows, rows)]
    weights = by_norm[rows]
    sum_of_weights = float(weights.sum())
    units = float(weights @ block @ weights) + 2 * float(weights @ pairs.along_mean[rows]) * sum_of_weights
    return units + pairs.mean_squared * sum_of_weights**2, float(block.sum())


def _explained(sums: _Sums) -> float | None:
    present = sums.num > 0
    overall = sums.all_centred / max(1, int(sums.num.sum()))
    total = sums.total - overall
    if total <= 1e-24 * sums.raw:  # what rounding alone leaves of equal gradients
        return None
    return (float((sums.centred[present] / sums.num[present]).sum()) - overall) / total


def jackknife(value: float | None, *replicates: Sequence[float | None]) -> Interval | None:
    """Return a figure with its jackknife interval; None: the figure has no value.

    Args:
        replicates: for each source of chance, the figure without each of its parts.
    """
    if value is None:
        return None
    variance = 0.0
    for of_kind in replicates:
        known = [one for one in of_kind if one is not None]
        if known:
            variance += (len(known) - 1) * float(np.var(known))
    half = T_QUANTILE * math.sqrt(variance)
    return Interval(value, value - half, value + half)


def root_jackknife(square: float | None, *replicates: Sequence[float | None]) -> Interval | None:
    """Return the root of an unbiased figure, which may be below 0, with its jackknife interval."""
    found = jackknife(square, *replicates)
    ends = None if found is None else [math.sqrt(max(0.0, one)) for one in (found.value, found.low, found.high)]
    return None if ends is None else Interval(*ends)


def _cosines(sums: _Sums) -> tuple[float | None, float | None]:
    """Return the mean cosines (within, across); see gradient_agreement.mean_cosines."""
    num, squares = int(sums.num_units.sum()), float(sums.units.sum())
    num_within = float((sums.num_units * (sums.num_units - 1)).sum())
    num_across = float(num**2 - np.square(sums.num_units).sum())
    within = (squares - num) / num_within if num_within else None
    return within, (sums.all_units - squares) / num_across if num_across else None


def _difference(sums: _Sums) -> float | None:
    within, across = _cosines(sums)
    return None if within is None or across is None else within - across


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
