"""Measure whether gradients are similar within clusters, and how well a subset represents the corpus's gradient.

S2L's claim (https://arxiv.org/abs/2403.07384) is that examples with similar loss trajectories have similar gradients,
so that a subset sampled evenly over clusters has nearly the corpus's gradient. The functions below measure this for M
sampled examples, each with a gradient (or an unbiased sketch of it) of D numbers and a label. All results are means
over many pairs: single inner products of sketches are unreliable, averages are not.

Memory: the (M, D) float64 copy of the gradients, and (K, D) sums; `gradient_gap` takes (P, P) for P sampled examples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2l_ray.errors import DataError, UserError
from s2l_ray.selection.inputs import Array

DEFAULT_DRAWS = 20
MAX_PAIRED = 3000


@dataclass(frozen=True)
class CosineAgreement:
    """Mean cosines of pairs of gradients, within and across clusters."""

    within: float | None
    """Mean cosine of pairs in the same cluster; None: there are no such pairs."""
    across: float | None
    """Mean cosine of pairs in different clusters; None: there are no such pairs."""
    num_zero: int
    """Number of examples whose gradient is zero, which have no direction and are left out."""


@dataclass(frozen=True)
class Agreement:
    """Similarity and explained variance of clusters, compared with permuted labels."""

    cosine: CosineAgreement
    explained: float | None
    """R²: share of the gradients' variance that lies between clusters; None: all gradients are equal."""
    null_within: float | None
    """Mean over permuted labels."""
    null_across: float | None
    null_explained: float | None


@dataclass(frozen=True)
class SubsetError:
    """Error of a subset's mean gradient as an estimate of the corpus's, relative to the norm of the latter."""

    bias: float
    """Error of the expected mean, caused by unequal sampling."""
    rms: float
    """Root mean squared error of the plain mean: bias and chance together."""
    weighted_rms: float | None
    """Root mean squared error with weights N_k / n_k; None if a cluster gives nothing, so that no weights help."""
    random_rms: float
    """Root mean squared error of a uniform random subset of the same size."""


def agreement(gradients: Array, labels: Array, seed: int = 0, num_draws: int = DEFAULT_DRAWS) -> Agreement:
    """Measure the similarity and explained variance of clusters `labels` (M,), with permutations as the null.

    Args:
        gradients: (M, D).
        num_draws: number of permutations.

    Raises:
        UserError, DataError: shapes or labels are wrong, or a gradient is not finite.
    """
    gradients = _checked(gradients, labels)
    rng = np.random.default_rng(seed)
    nulls = [(mean_cosines(gradients, shuffled), explained_share(gradients, shuffled))
             for shuffled in (rng.permutation(labels) for _ in range(num_draws))]  # fmt: skip
    return Agreement(
        mean_cosines(gradients, labels),
        explained_share(gradients, labels),
        _mean_of([cosine.within for cosine, _ in nulls]),
        _mean_of([cosine.across for cosine, _ in nulls]),
        _mean_of([explained for _, explained in nulls]),
    )


def mean_cosines(gradients: Array, labels: Array) -> CosineAgreement:
    """Compute the mean cosines within and across clusters, without a matrix of pairs.

    With u = g/‖g‖ and S_k = Σ_{i∈k} u_i: within is Σ_k (‖S_k‖² − N_k) / Σ_k N_k (N_k − 1), across
    (‖Σ S_k‖² − Σ ‖S_k‖²) / (M² − Σ N_k²).
    """
    gradients = _checked(gradients, labels)
    norms = np.sqrt(np.square(gradients).sum(axis=1))
    kept = norms > 0
    units, labels = gradients[kept] / norms[kept, None], labels[kept]
    if not len(units):
        return CosineAgreement(None, None, len(norms))
    sums, sizes = label_sums(units, labels)  # (K, D), (K,)
    squares = float(np.square(sums).sum())
    num_within = float((sizes * (sizes - 1)).sum())
    num_across = float(len(units) ** 2 - np.square(sizes).sum())
    within = (squares - len(units)) / num_within if num_within else None
    across = (float(np.square(sums.sum(axis=0)).sum()) - squares) / num_across if num_across else None
    return CosineAgreement(within, across, int((~kept).sum()))


def explained_share(gradients: Array, labels: Array) -> float | None:
    """Compute R² = 1 − Σ ‖g_i − ḡ_k‖² / Σ ‖g_i − ḡ‖², the share of the variance that stratifying by cluster removes.

    None: all gradients are equal.
    """
    gradients = _checked(gradients, labels)
    total = float(np.square(gradients - gradients.mean(axis=0)).sum())
    if total <= _rounding(gradients):
        return None
    sums, sizes = label_sums(gradients, labels)
    means = sums / np.maximum(sizes, 1)[:, None]
    return 1 - float(np.square(gradients - means[labels]).sum()) / total


def subset_error(gradients: Array, labels: Array, taken: Array) -> SubsetError:
    """Compute the expected error of the mean gradient of `taken` (K,) random examples per cluster, in closed form.

    With ḡ_k, N_k and v_k (trace of the sample covariance) of cluster k: bias ‖Σ (n_k/n) ḡ_k − ḡ‖, variance
    Σ (n_k/n)² (1 − n_k/N_k) v_k/n_k; weighted Σ (N_k/N)² (1 − n_k/N_k) v_k/n_k without bias; random (1 − n/N) v/n.
    See Cochran, Sampling Techniques, 1977, chapters 2 and 5.

    Raises:
        DataError: the corpus's mean gradient is zero, so that no error can be relative to it.
        UserError: `taken` is not between 0 and the clusters' sizes, or is all 0.
    """
    gradients = _checked(gradients, labels)
    sums, sizes = label_sums(gradients, labels)
    num, taken = len(gradients), np.asarray(taken, dtype=np.int64)
    _check_taken(taken, sizes)
    mean, length = _mean_and_length(gradients)
    present = sizes > 0
    means = sums / np.maximum(sizes, 1)[:, None]  # (K, D)
    spread = np.bincount(labels, weights=np.square(gradients - means[labels]).sum(axis=1), minlength=len(sizes))
    spread = spread / np.maximum(sizes - 1, 1)  # (K,) v_k
    share = taken / taken.sum()
    left_out = 1 - taken / np.maximum(sizes, 1)  # (K,) finite-population correction
    per_draw = np.divide(left_out * spread, taken, out=np.zeros(len(sizes)), where=taken > 0)
    bias = float(np.sqrt(np.square(share @ means - mean).sum()))
    variance = float((np.square(share) * per_draw).sum())
    weighted = None if (taken[present] == 0).any() else float((np.square(sizes / num) * per_draw).sum())
    total_spread = float(np.square(gradients - mean).sum()) / max(num - 1, 1)
    random = (1 - taken.sum() / num) * total_spread / taken.sum()
    return SubsetError(
        bias=bias / length,
        rms=float(np.sqrt(bias**2 + variance)) / length,
        weighted_rms=None if weighted is None else float(np.sqrt(weighted)) / length,
        random_rms=float(np.sqrt(random)) / length,
    )


def error_of_rows(gradients: Array, rows: Array, weights: Array | None = None) -> float:
    """Compute the relative error of the (weighted) mean gradient of `rows` (n,), for subsets that are not random draws.

    Raises:
        DataError: the corpus's mean gradient is zero, so that no error can be relative to it.
        UserError: there are no rows.
    """
    gradients = _checked(gradients, None)
    if not len(rows):
        raise UserError("rows is empty, so there is no mean gradient; give at least one row")
    mean, length = _mean_and_length(gradients)
    chosen = np.average(gradients[rows], axis=0, weights=weights)
    return float(np.sqrt(np.square(chosen - mean).sum())) / length


def gradient_gap(gradients: Array, labels: Array, seed: int = 0, quantile: float = 0.95) -> float | None:
    """Compute the theorem's Δ, made relative: this quantile of ‖g_i − g_j‖ within clusters over that across clusters.

    With more than MAX_PAIRED examples, a seeded sample is paired. None: there are no pairs of one kind, or all
    gradients across clusters are equal.
    """
    gradients = _checked(gradients, labels)
    rows = paired_rows(len(gradients), seed)
    centred = gradients[rows] - gradients[rows].mean(axis=0)  # keeps differences and reduces cancellation
    return gap_of(centred @ centred.T, labels[rows], quantile)


def paired_rows(num: int, seed: int) -> Array:
    """Return the rows to pair, ascending: all, or a seeded sample of MAX_PAIRED."""
    if num <= MAX_PAIRED:
        return np.arange(num)
    return np.sort(np.random.default_rng(seed).choice(num, MAX_PAIRED, replace=False))


def gap_of(products: Array, labels: Array, quantile: float = 0.95) -> float | None:
    """Compute `gradient_gap` from inner products (P, P) of gradients, centred or not."""
    squares = np.diag(products)
    first, second = np.triu_indices(len(products), k=1)
    distances = np.sqrt(np.maximum(squares[first] + squares[second] - 2 * products[first, second], 0))
    same = labels[first] == labels[second]
    if not same.any() or same.all():
        return None
    across = float(np.quantile(distances[~same], quantile))
    return float(np.quantile(distances[same], quantile)) / across if across > 0 else None


def label_sums(values: Array, labels: Array, num_labels: int = 0) -> tuple[Array, Array]:
    """Sum values (M, D) by label: (K, D) float64 sums and (K,) sizes, with K at least `num_labels`."""
    sizes = np.bincount(labels, minlength=num_labels)
    sums = np.zeros((len(sizes), values.shape[1]))
    order = np.argsort(labels, kind="stable")
    starts = np.cumsum(sizes) - sizes
    present = np.flatnonzero(sizes)
    sums[present] = np.add.reduceat(values[order], starts[present], axis=0)
    return sums, sizes


def _mean_and_length(gradients: Array) -> tuple[Array, float]:
    mean = gradients.mean(axis=0)
    length = float(np.sqrt(np.square(mean).sum()))
    if length**2 * len(gradients) <= _rounding(gradients):
        raise DataError(
            "the mean gradient of all examples is zero, so no error can be relative to it; the model has probably been "
            "trained until nothing is left to learn: use weights from earlier in training"
        )
    return mean, length


def _rounding(gradients: Array) -> float:
    """Return what rounding alone can leave of a sum of squares that is zero."""
    return 1e-24 * float(np.square(gradients).sum())


def _mean_of(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _checked(gradients: Array, labels: Array | None) -> Array:
    """Check the gradients and labels, and return the gradients in float64."""
    if gradients.ndim != 2 or 0 in gradients.shape:
        raise UserError(f"gradients must be (M, D) with M, D ≥ 1, not {gradients.shape}")
    if labels is not None and (labels.shape != (len(gradients),) or not np.issubdtype(labels.dtype, np.integer)
                               or labels.min() < 0):  # fmt: skip
        raise UserError(f"labels must be ({len(gradients)},) integers from 0, not {labels.shape} {labels.dtype}")
    wide = gradients.astype(np.float64, copy=False)
    bad = np.flatnonzero(~np.isfinite(wide).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad):,} of {len(wide):,} gradients are not finite, the first in row {bad[0]}, so nothing can be "
            "measured; that example's loss overflows: check the proxy's training"
        )
    return wide


def _check_taken(taken: Array, sizes: Array) -> None:
    if taken.shape != sizes.shape:
        raise UserError(f"taken must give a number for each of {len(sizes)} clusters, not {taken.shape}")
    if taken.min() < 0 or (taken > sizes).any() or not taken.sum():
        cluster = int(np.argmax((taken < 0) | (taken > sizes)))
        raise UserError(
            f"taken must lie between 0 and each cluster's size, and not be all 0; cluster {cluster} gives "
            f"{taken[cluster]} of {sizes[cluster]}"
        )
