"""Algorithm 1 of the paper, line by line, and seeds for properties."""

from __future__ import annotations

from hypothesis import strategies as st

seeds = st.integers(0, 2**64)


def algorithm_1(sizes: list[int], budget: int) -> list[int]:
    """Algorithm 1 of arXiv 2403.07384, line by line: clusters ascending by size, R_k = (B - |S|) / (K - k + 1)."""
    clusters = sorted((i for i in range(len(sizes)) if sizes[i]), key=lambda i: (sizes[i], i))
    chosen = [0] * len(sizes)
    for k, cluster in enumerate(clusters, start=1):
        quota = (budget - sum(chosen)) // (len(clusters) - k + 1)
        chosen[cluster] = sizes[cluster] if sizes[cluster] <= quota else quota
    return chosen
