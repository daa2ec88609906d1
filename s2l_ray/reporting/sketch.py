"""Aggregates the trajectories' rows part by part into what the charts need, whatever the corpus's size. numpy only.

Memory: 1 kB per cluster and snapshot. The first pass counts; the second, which needs the first one's principal axes and
medians, fills the map and finds the median examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LOW, HIGH, BINS = 1e-5, 60.0, 256
"""Range of losses (nats/token) and number of bins, equal on a log scale: a bin is 6 % wide. Losses outside the range
count in the first or last bin."""
_STEP = np.log(HIGH / LOW) / BINS
EDGES = LOW * np.exp(_STEP * np.arange(BINS + 1))
MAX_TOKENS = 65_536
"""Longer responses are counted as having this many tokens."""
COLUMNS, LINES = 44, 32
"""Number of cells of the map; fewer if a cell would hold fewer than _PER_CELL examples on average."""
_PER_CELL = 8
_SAMPLE = 20_000
MEMBERS = 10
KINDS = ("easiest", "median", "hardest")


def loss_bins(losses: Array) -> Array:
    """The bin of each loss, for an array of any shape."""
    return np.clip((np.log(np.maximum(losses, LOW)) - np.log(LOW)) // _STEP, 0, BINS - 1).astype(np.int32)


def percentiles(counts: Array, shares: tuple[float, ...]) -> Array:
    """Percentiles (…, len(shares)) from counts (…, BINS), interpolated within a bin on a log scale; nan without
    counts."""
    cumulated = np.cumsum(counts, axis=-1, dtype=np.float64)
    total = cumulated[..., -1:]
    out = np.full((*counts.shape[:-1], len(shares)), np.nan)
    for i, share in enumerate(shares):
        wanted = share * total
        at = np.argmax(cumulated >= np.maximum(wanted, 1e-12), axis=-1)[..., None]
        inside = np.take_along_axis(counts, at, -1)
        before = np.take_along_axis(cumulated, at, -1) - inside
        within = np.clip((wanted - before) / np.maximum(inside, 1), 0, 1)
        out[..., i] = np.where(total > 0, LOW * np.exp(_STEP * (at + within)), np.nan)[..., 0]
    return out


@dataclass(frozen=True)
class Part:
    """Rows of one part of the trajectories."""

    start: int
    """Number of the first row in the whole matrix."""
    ids: Array
    """(n, 2) uint64 ids."""
    losses: Array
    """(n, T) float32 losses."""
    tokens: Array
    """(n,) numbers of response tokens."""
    clusters: Array
    """(n,) clusters."""
    chosen: Array
    """(n,) bits: 1 << s where subset s holds the row."""
    categories: dict[str, Array]
    """Column (source, facets) → (n,) codes."""


@dataclass
class Extremes:
    """The row with the smallest key in each group, and its key."""

    keys: Array
    rows: Array

    @classmethod
    def of(cls, num_groups: int) -> Extremes:
        return cls(np.full(num_groups, np.inf), np.full(num_groups, -1, np.int64))

    def add(self, groups: Array, keys: Array, start: int) -> None:
        """Add rows: row `start` + i has the key keys[i]; among equal keys, the first row counts."""
        order = np.lexsort((keys, groups))
        first = order[np.r_[True, groups[order][1:] != groups[order][:-1]]] if len(order) else order
        better = first[keys[first] < self.keys[groups[first]]]
        self.keys[groups[better]] = keys[better]
        self.rows[groups[better]] = start + better


@dataclass
class Sketch:
    """Both passes over the rows. A group consists of a cluster's rows in the main subset (2 k + 1) or outside it (2
    k)."""

    num_clusters: int
    num_snapshots: int
    num_subsets: int
    num_rows: int
    main: int = -1
    """Number of the subset that cards and examples refer to; -1: none."""
    seen: int = 0

    def __post_init__(self) -> None:
        scale = min(1.0, (self.num_rows / (_PER_CELL * COLUMNS * LINES)) ** 0.5)
        self.columns, self.lines = max(8, round(COLUMNS * scale)), max(6, round(LINES * scale))
        k, t, populations = self.num_clusters, self.num_snapshots, 1 + self.num_subsets
        self.histograms = np.zeros((k, t, BINS), np.int32)
        self.first, self.last = (np.zeros((populations, BINS), np.int64) for _ in range(2))
        self.tokens = np.zeros((populations, MAX_TOKENS + 1), np.int64)
        self.taken = np.zeros((self.num_subsets, k), np.int64)
        self.sizes = np.zeros(k, np.int64)
        self.by_category: dict[str, Array] = {}
        """Column → (1 + subsets, values) numbers of rows."""
        self.in_clusters: dict[str, Array] = {}
        """Column → (K, values) numbers of rows."""
        self.sums, self.products = np.zeros(t), np.zeros((t, t))
        self.loss_sums = np.zeros(t)
        self.least, self.largest = np.full(t, np.inf), np.full(t, -np.inf)
        self.members = np.full((k, MEMBERS, t), np.nan, np.float32)
        self._num_members = np.zeros(k, np.int64)
        self._sample: list[Array] = []
        self.extremes = {kind: Extremes.of(2 * k) for kind in KINDS}
        self.axes: Array | None = None

    def first_pass(self, part: Part) -> None:
        """Count one part."""
        k, t = self.num_clusters, self.num_snapshots
        bins = loss_bins(part.losses)
        flat = (part.clusters[:, None].astype(np.int64) * t + np.arange(t)) * BINS + bins
        np.add.at(self.histograms.reshape(-1), flat.ravel(), 1)
        self.sizes += np.bincount(part.clusters, minlength=k)
        logs = np.log(np.maximum(part.losses, LOW), dtype=np.float64)
        self.sums += logs.sum(axis=0)
        self.products += logs.T @ logs
        self.loss_sums += part.losses.sum(axis=0, dtype=np.float64)
        self.least = np.minimum(self.least, part.losses.min(axis=0, initial=np.inf))
        self.largest = np.maximum(self.largest, part.losses.max(axis=0, initial=-np.inf))
        tokens = np.clip(part.tokens, 0, MAX_TOKENS)
        for population, rows in self._populations(part):
            self.first[population] += np.bincount(bins[rows, 0], minlength=BINS)
            self.last[population] += np.bincount(bins[rows, -1], minlength=BINS)
            self.tokens[population] += np.bincount(tokens[rows], minlength=MAX_TOKENS + 1)
            if population:
                self.taken[population - 1] += np.bincount(part.clusters[rows], minlength=k)
            for name, codes in part.categories.items():
                self._count(self.by_category, name, (1 + self.num_subsets), population, codes[rows])
        for name, codes in part.categories.items():
            self._count_pairs(name, part.clusters, codes)
        groups = 2 * part.clusters + self._is_main(part)
        self.extremes["easiest"].add(groups, part.losses[:, -1].astype(np.float64), part.start)
        self.extremes["hardest"].add(groups, -part.losses[:, -1].astype(np.float64), part.start)
        self._keep_members(part)
        every = max(1, self.num_rows // _SAMPLE)
        self._sample.append(logs[(-part.start) % every :: every].copy())  # a view would keep the whole part in memory
        self.seen += len(part.losses)

    def _populations(self, part: Part) -> list[tuple[int, Any]]:
        """Number and rows of each population: (0, all rows), then each subset's."""
        return [(0, slice(None))] + [(1 + s, np.flatnonzero(part.chosen & (1 << s))) for s in range(self.num_subsets)]

    def _is_main(self, part: Part) -> Array:
        if self.main < 0:
            return np.zeros(len(part.losses), np.int64)
        return ((part.chosen >> self.main) & 1).astype(np.int64)

    def _count(self, tables: dict[str, Array], name: str, num_lines: int, line: int, codes: Array) -> None:
        tables[name] = _widened(tables.get(name, np.zeros((num_lines, 0), np.int64)), codes)
        tables[name][line] += np.bincount(codes, minlength=tables[name].shape[1])

    def _count_pairs(self, name: str, clusters: Array, codes: Array) -> None:
        table = _widened(self.in_clusters.get(name, np.zeros((self.num_clusters, 0), np.int64)), codes)
        flat = clusters.astype(np.int64) * table.shape[1] + codes
        table += np.bincount(flat, minlength=table.size).reshape(table.shape)
        self.in_clusters[name] = table

    def _keep_members(self, part: Part) -> None:
        """The first rows of each cluster: ids are hashes, so the first are a random sample."""
        for k in np.flatnonzero(self._num_members < MEMBERS):
            rows = np.flatnonzero(part.clusters == k)[: MEMBERS - self._num_members[k]]
            self.members[k, self._num_members[k] : self._num_members[k] + len(rows)] = part.losses[rows]
            self._num_members[k] += len(rows)

    def between_passes(self) -> None:
        """Principal axes of the log losses (the first to the right: higher mean loss), the map's range, the medians."""
        self.means = self.sums / self.seen
        covariance = self.products / self.seen - np.outer(self.means, self.means)
        variances, vectors = np.linalg.eigh(covariance)
        vectors = vectors[:, ::-1][:, :2]
        vectors = vectors * np.where(vectors.sum(axis=0) < 0, -1.0, 1.0)
        self.explained = np.maximum(variances[::-1], 0)[:2] / max(float(np.maximum(variances, 0).sum()), 1e-300)
        if self.num_snapshots >= 2 and variances[-2] > 1e-9:
            self.axes = vectors
            scores = (np.concatenate(self._sample) - self.means) @ vectors
            low, high = scores.min(axis=0), scores.max(axis=0)
            if self.seen > _SAMPLE:  # a few outliers among millions would squeeze all others into one cell
                low, high = np.percentile(scores, [0.2, 99.8], axis=0)
            self.map_low, self.map_high = low, np.maximum(high, low + 1e-9)
            self.density = np.zeros((1 + self.num_subsets, self.lines, self.columns), np.int64)
        self._sample = []
        self.medians = np.log(percentiles(self.histograms[:, -1], (0.5,))[:, 0])

    def second_pass(self, part: Part) -> None:
        """Fill the map, and find the examples nearest to their cluster's median."""
        last = np.log(np.maximum(part.losses[:, -1], LOW), dtype=np.float64)
        groups = 2 * part.clusters + self._is_main(part)
        self.extremes["median"].add(groups, np.abs(last - self.medians[part.clusters]), part.start)
        if self.axes is None:
            return
        logs = np.log(np.maximum(part.losses, LOW), dtype=np.float64)
        scores = ((logs - self.means) @ self.axes - self.map_low) / (self.map_high - self.map_low)
        x = np.clip((scores[:, 0] * self.columns).astype(int), 0, self.columns - 1)
        y = np.clip((scores[:, 1] * self.lines).astype(int), 0, self.lines - 1)
        cells = y * self.columns + x
        for population, rows in self._populations(part):
            counts = np.bincount(cells[rows], minlength=self.lines * self.columns)
            self.density[population] += counts.reshape(self.lines, self.columns)


def _widened(table: Array, codes: Array) -> Array:
    """The table with a column for every code; new values appear as the parts are read."""
    width = int(codes.max(initial=-1)) + 1
    if width <= table.shape[1]:
        return table
    return np.pad(table, ((0, 0), (0, width - table.shape[1])))
