"""Projects embeddings onto their two principal components and counts them in hexagons. numpy only, deterministic.

Memory: MAX_POINTS embeddings in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from s2l_ray.reporting.facts_meaning import Cell, Projection
from s2l_ray.selection.cluster_quality import commonest_shares, random_shares

Array = np.ndarray[Any, np.dtype[Any]]

MAX_POINTS = 5_000
NUM_VALUES = 8
"""Number of a column's values with their own colours."""
COLUMNS, LINES = 18, 17
"""Number of hexagons per line, and number of lines."""
WIDTH = 1 / (COLUMNS + 0.5)
RADIUS = WIDTH / 3**0.5
"""Width of a hexagon, and distance from its centre to a corner, as shares of the picture's width."""
ASPECT = RADIUS * (2 + 1.5 * (LINES - 1))
"""Height of the picture for a width of 1."""
_ROUNDS, _BESIDE = 8, 10
_EDGE = 0.002
"""Share of the points beyond each edge of the picture, which are drawn at the edge, because a few distant points would
squeeze all others into one cell."""


def project(name: str, vectors: Array, column: str, codes: Array, values: list[str]) -> Projection | None:
    """The projection of the first points; None if they lie on a line.

    Args:
        name: of the embeddings.
        vectors: (m, d) floats.
        column: the column whose values are shown.
        codes: (m,) integers into `values`.
    """
    vectors, codes = vectors[:MAX_POINTS], codes[:MAX_POINTS]
    found = principal_plane(vectors)
    if found is None:
        return None
    points, explained = found
    low, high = np.quantile(points, [_EDGE, 1 - _EDGE], axis=0)
    places = np.clip((points - low) / np.maximum(high - low, 1e-30), 0, 1)
    x, y, cell_of = hexagons(places)
    counts = np.zeros((len(x), len(values)), np.int64)
    np.add.at(counts, (cell_of, codes), 1)
    totals = counts.sum(axis=0)
    order = [int(v) for v in np.argsort(-totals, kind="stable") if totals[v]][:NUM_VALUES]
    sizes, commonest, shares = counts.sum(axis=1), counts.argmax(axis=1), commonest_shares(counts)
    cells = [
        Cell(round(float(x[c]), 4), round(float(y[c]), 4), int(sizes[c]),
             order.index(int(commonest[c])) if int(commonest[c]) in order else -1,
             round(float(shares[c]), 4), values[commonest[c]])
        for c in range(len(x))
    ]  # fmt: skip
    own, by_chance = (float(np.average(of, weights=sizes)) for of in (shares, random_shares(sizes, totals)))
    named = [values[v] for v in order]
    return Projection(name, column, len(points), explained, named, cells, own, by_chance)


def principal_plane(vectors: Array) -> tuple[Array, tuple[float, float]] | None:
    """Project (m, d) floats → (m, 2) scores on the two principal components, their shares of the variance; None if the
    points do not fill a plane. The largest entry of a component is positive.

    By subspace iteration from a fixed start (https://arxiv.org/abs/0909.4061): 2 m d 12 operations a round, where a
    full decomposition takes d³.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    total = float(np.square(centred).sum())
    width = min(2 + _BESIDE, *centred.shape)
    if width < 2 or total <= 1e-12 * len(vectors):
        return None
    basis = np.random.default_rng(0).standard_normal((centred.shape[1], width))
    for _ in range(_ROUNDS):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
    _, spread, turned = np.linalg.svd(centred @ basis, full_matrices=False)
    components = (basis @ turned.T)[:, :2]  # (d, 2)
    components *= np.sign(components[np.abs(components).argmax(axis=0), [0, 1]])
    if spread[1] <= 1e-6 * spread[0]:
        return None
    shares = np.square(spread[:2]) / total
    return centred @ components, (float(shares[0]), float(shares[1]))


def hexagons(places: Array) -> tuple[Array, Array, Array]:
    """Bin (m, 2) points in the unit square → centres x (C,) and y (C,) of the non-empty hexagons, each point's index
    (m,).

    Hexagons stand on a corner, COLUMNS in a line, every other line half a hexagon to the right; a place belongs to the
    nearest centre.
    """
    width, height = WIDTH, RADIUS * 1.5
    across, up = places[:, 0] * (1 - width) / width, places[:, 1] * (LINES - 1)
    candidates = []
    for first in (0, 1):  # lines that start at the left edge, and those shifted by half a hexagon
        line = 2 * np.rint((up - first) / 2) + first
        at = np.clip(np.rint(across - first / 2), 0, COLUMNS - 1)
        candidates.append(((across - first / 2 - at) ** 2 + 0.75 * (up - line) ** 2, at, line))
    nearer = candidates[0][0] <= candidates[1][0]
    at, line = (np.where(nearer, candidates[0][i], candidates[1][i]).astype(np.int64) for i in (1, 2))
    cells, cell_of = np.unique(np.stack([line, at], axis=1), axis=0, return_inverse=True)
    x = (cells[:, 1] + 0.5 + cells[:, 0] % 2 / 2) * width
    y = (cells[:, 0] * height + RADIUS) / ASPECT
    return x, y, cell_of.reshape(-1)
