"""Are gradients alike within clusters? With intervals, beside the same of permuted labels.

Intervals are those of a delete-a-group jackknife (Kott, Journal of Official Statistics 17, 2001), made for figures that
are smooth functions of sums.

Memory for M examples of D numbers: 8 M D bytes until it is ready, then 8 M² and once more in passing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from s2l_ray.selection.gradient_agreement import DEFAULT_DRAWS, gap_of, paired_rows
from s2l_ray.selection.gradient_sample import NUM_GROUPS

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
    """What labels say of gradients. None: there are no such pairs, or all gradients are equal."""

    num_labels: int
    within: float | None
    """Mean cosine of pairs of the same label."""
    across: float | None
    difference: Interval | None
    """within − across."""
    explained: Interval | None
    """R², the share of the gradients' variance that lies between labels."""
    null_within: float | None
    """Mean over permuted labels."""
    null_difference: tuple[float, float] | None
    """Lowest and highest of permuted labels."""
    null_explained: float | None
    """Mean over permuted labels."""


class _Sums(NamedTuple):
    """Squared lengths of sums of gradients, by label (K,) and of all."""

    units: Array
    all_units: float
    num_units: Array
    centred: Array
    all_centred: float
    num: Array
    total: float
    """Sum of squared lengths of the centred gradients."""


class UniformGradients:
    """Gradients of a uniform sample, made ready once for several kinds of labels.

    All figures are sums of inner products, so their matrix is computed once, of the centred gradients c = g − ḡ; with
    a_i = c_i · ḡ it holds g_i · g_j = c_i · c_j + a_i + a_j + ‖ḡ‖².

    Args:
        gradients: (M, D).
        groups: (M,) integers from 0 to NUM_GROUPS − 1, those of the jackknife.
    """

    def __init__(self, gradients: Array, groups: Array) -> None:
        centred = gradients.astype(np.float64)
        norms = np.sqrt(np.square(centred).sum(axis=1))
        mean = centred.mean(axis=0)
        centred -= mean
        self.products = centred @ centred.T  # (M, M)
        self.along_mean = centred @ mean  # (M,)
        self.mean_squared = float(mean @ mean)
        self.by_norm = np.divide(1, norms, out=np.zeros(len(norms)), where=norms > 0)  # (M,)
        self.raw_squares = float(np.square(norms).sum())
        self.groups = groups

    @property
    def num_zero(self) -> int:
        """Examples whose gradient is zero; they have no direction."""
        return int((self.by_norm == 0).sum())

    def similarity(self, labels: Array, seed: int = 0, num_draws: int = DEFAULT_DRAWS) -> Similarity:
        """`labels` (M,) integers from 0."""
        everything = np.ones(len(labels), dtype=bool)
        whole = self._sums(labels, everything)
        replicates = [self._sums(labels, self.groups != group) for group in range(NUM_GROUPS)]
        rng = np.random.default_rng(seed)
        nulls = [self._sums(rng.permutation(labels), everything, whole) for _ in range(num_draws)]
        within, across = _cosines(whole)
        null_cosines = [_cosines(null) for null in nulls]
        apart = [w - a for w, a in null_cosines if w is not None and a is not None]
        return Similarity(
            int((whole.num > 0).sum()),
            within,
            across,
            jackknife(_difference, whole, replicates),
            jackknife(self._explained, whole, replicates),
            _mean([w for w, _ in null_cosines]),
            (min(apart), max(apart)) if apart else None,
            _mean([self._explained(null) for null in nulls]),
        )

    def gap(self, labels: Array, seed: int = 0) -> float | None:
        """See `gradient_agreement.gradient_gap`."""
        rows = paired_rows(len(labels), seed)
        return gap_of(self.products[np.ix_(rows, rows)], labels[rows])

    def _sums(self, labels: Array, kept: Array, of_all: _Sums | None = None) -> _Sums:
        """Of the kept ones (M,). `of_all`: has the sums that do not depend on labels."""
        rows = np.flatnonzero(kept)
        rows = rows[np.argsort(labels[rows], kind="stable")]
        num = np.bincount(labels[rows], minlength=int(labels.max()) + 1)
        groups = np.split(rows, np.cumsum(num)[:-1])
        of_labels = np.array([self._squared_sums(group) for group in groups]).reshape(-1, 2)
        if of_all is None:
            units, centred = self._squared_sums(rows)
            total = float(np.diag(self.products)[rows].sum())
        else:
            units, centred, total = of_all.all_units, of_all.all_centred, of_all.total
        num_units = np.bincount(labels[rows][self.by_norm[rows] > 0], minlength=len(num))
        return _Sums(of_labels[:, 0], units, num_units, of_labels[:, 1], centred, num, total)

    def _squared_sums(self, rows: Array) -> tuple[float, float]:
        """‖Σ u‖² of unit gradients, and ‖Σ c‖² of centred ones."""
        block = self.products[np.ix_(rows, rows)]
        weights = self.by_norm[rows]
        sum_of_weights = float(weights.sum())
        units = float(weights @ block @ weights) + 2 * float(weights @ self.along_mean[rows]) * sum_of_weights
        return units + self.mean_squared * sum_of_weights**2, float(block.sum())

    def _explained(self, sums: _Sums) -> float | None:
        present = sums.num > 0
        overall = sums.all_centred / max(1, int(sums.num.sum()))
        total = sums.total - overall
        if total <= 1e-24 * self.raw_squares:  # what rounding alone leaves of equal gradients
            return None
        return (float((sums.centred[present] / sums.num[present]).sum()) - overall) / total


def jackknife(figure: Callable[[Any], float | None], whole: Any, replicates: Sequence[Any]) -> Interval | None:
    """A figure of everything, with the interval that its values without one group each give; None: it has no value."""
    value = figure(whole)
    others = [found for one in replicates if (found := figure(one)) is not None]
    if value is None or len(others) < 2:
        return None
    spread = math.sqrt((len(others) - 1) * float(np.var(others)))
    return Interval(value, value - T_QUANTILE * spread, value + T_QUANTILE * spread)


def root_jackknife(square: Callable[[Any], float | None], whole: Any, replicates: Sequence[Any]) -> Interval | None:
    """The same of the root of a figure that is estimated without bias, and may therefore be below 0."""
    found = jackknife(square, whole, replicates)
    ends = None if found is None else [math.sqrt(max(0.0, one)) for one in (found.value, found.low, found.high)]
    return None if ends is None else Interval(*ends)


def _cosines(sums: _Sums) -> tuple[float | None, float | None]:
    """Within and across, see gradient_agreement.mean_cosines."""
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
