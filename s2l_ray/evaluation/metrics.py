"""Losses of a held-out set's examples → the figures that are reported. numpy only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SetResult:
    """One model on one held-out set. Losses in nats per response token."""

    num_examples: int
    micro: float
    """Mean over the examples, each the mean over its response tokens."""
    macro: float
    """Mean over the sources of their means: rare sources count as much as common ones."""
    per_token: float
    """Mean over all response tokens."""
    exact_match: float
    """Share of the examples whose whole response is the model's first choice, token by token."""
    per_source: dict[str, dict[str, float]] = field(default_factory=dict)
    """source → {num_examples, loss, exact_match}."""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def summarise(losses: np.ndarray, counts: np.ndarray, exact: np.ndarray, sources: np.ndarray) -> SetResult:
    """losses (N,) nats per token, counts (N,) response tokens, exact (N,) bool, sources (N,) names.

    Sums in float64 in the order given: sort by example id, and the figures do not depend on who scored what.
    """
    losses = losses.astype(np.float64)
    names, codes = np.unique(sources, return_inverse=True)
    sizes = np.bincount(codes)
    means = np.bincount(codes, weights=losses) / sizes  # (S,)
    hits = np.bincount(codes, weights=exact.astype(np.float64)) / sizes  # (S,)
    per_source = {
        str(n): {"num_examples": int(s), "loss": float(m), "exact_match": float(h)}
        for n, s, m, h in zip(names, sizes, means, hits, strict=True)
    }
    per_token = float((losses * counts).sum() / counts.sum())
    return SetResult(len(losses), float(losses.mean()), float(means.mean()), per_token, float(exact.mean()), per_source)
