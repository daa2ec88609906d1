"""Are gradients alike within clusters? With intervals, beside the same of permuted labels.

Intervals are those of a delete-a-group jackknife (Kott, Journal of Official Statistics 17, 2001), made for figures that
are smooth functions of sums.

Memory for M examples of D numbers: 24 M D bytes, and 16 K D for K labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from s2l_ray.selection.gradient_agreement import DEFAULT_DRAWS, label_sums
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
    """By label, of unit gradients and of centred ones."""

    units: Array
    num_units: Array
    centred: Array
    num: Array
    squares: float
    """Sum of squared lengths of the centred ones."""


class UniformGradients:
    """Gradients of a uniform sample, made ready once for several kinds of labels.

    Args:
        gradients: (M, D).
        groups: (M,) integers from 0 to NUM_GROUPS − 1, those of the jackknife.
    """

    def __init__(self, gradients: Array, groups: Array) -> None:
        wide = gradients.astype(np.float64)
        norms = np.sqrt(np.square(wide).sum(axis=1))
        self.has_direction = norms > 0
        self.units = wide[self.has_direction] / norms[self.has_direction, None]
        self.raw_squares = float(np.square(norms).sum())
        self.centred = np.subtract(wide, wide.mean(axis=0), out=wide)
        self.groups = groups

    @property
    def num_zero(self) -> int:
        """Examples whose gradient is zero; they have no direction."""
        return int((~self.has_direction).sum())

    def similarity(self, labels: Array, seed: int = 0, num_draws: int = DEFAULT_DRAWS) -> Similarity:
        """`labels` (M,) integers from 0."""
        num_labels = int(labels.max()) + 1
        whole = self._sums(labels, num_labels)
        replicates = [_without(whole, self._sums(labels, num_labels, group)) for group in range(NUM_GROUPS)]
        rng = np.random.default_rng(seed)
        nulls = [self._sums(rng.permutation(labels), num_labels) for _ in range(num_draws)]
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

    def _sums(self, labels: Array, num_labels: int, group: int | None = None) -> _Sums:
        """Of all, or of one group."""
        chosen = slice(None) if group is None else self.groups == group
        directed = slice(None) if group is None else self.groups[self.has_direction] == group
        units, num_units = label_sums(self.units[directed], labels[self.has_direction][directed], num_labels)
        centred, num = label_sums(self.centred[chosen], labels[chosen], num_labels)
        return _Sums(units, num_units, centred, num, float(np.square(self.centred[chosen]).sum()))

    def _explained(self, sums: _Sums) -> float | None:
        present = sums.num > 0
        between = float((np.square(sums.centred[present]).sum(axis=1) / sums.num[present]).sum())
        overall = float(np.square(sums.centred.sum(axis=0)).sum()) / max(1, int(sums.num.sum()))
        total = sums.squares - overall
        if total <= 1e-24 * self.raw_squares:  # what rounding alone leaves of equal gradients
            return None
        return (between - overall) / total


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


def _without(whole: _Sums, group: _Sums) -> _Sums:
    return _Sums(*(one - other for one, other in zip(whole, group, strict=True)))


def _cosines(sums: _Sums) -> tuple[float | None, float | None]:
    """Within and across, see gradient_agreement.mean_cosines."""
    num = int(sums.num_units.sum())
    squares = float(np.square(sums.units).sum())
    num_within = float((sums.num_units * (sums.num_units - 1)).sum())
    num_across = float(num**2 - np.square(sums.num_units).sum())
    across = (float(np.square(sums.units.sum(axis=0)).sum()) - squares) / num_across if num_across else None
    return (squares - num) / num_within if num_within else None, across


def _difference(sums: _Sums) -> float | None:
    within, across = _cosines(sums)
    return None if within is None or across is None else within - across


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
