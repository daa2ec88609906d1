"""Facility location beside another library's."""

from __future__ import annotations

import numpy as np
import pytest

from s2l_ray.selection.lazy_greedy import CoverageGraph, greedy_cover
from s2l_ray.selection.unit_vectors import MAX_SIMILARITY


@pytest.mark.thorough
@pytest.mark.parametrize("least", [0.0, 0.6])
def test_greedy_is_apricots(least: float) -> None:
    """apricot (Schreiber et al., JMLR 2020) on all similarities of 400 vectors in groups, and on the larger ones."""
    apricot = pytest.importorskip("apricot", reason="apricot-select is not installed")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 8))[rng.geometric(0.2, 400) % 20] + 0.6 * rng.standard_normal((400, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    matrix = np.rint((1 + vectors @ vectors.T) / 2 * MAX_SIMILARITY).clip(0, MAX_SIMILARITY).astype(np.uint16)
    matrix[matrix < least * MAX_SIMILARITY] = 0
    theirs = apricot.FacilityLocationSelection(40, metric="precomputed", optimizer="lazy")
    theirs.fit(matrix / MAX_SIMILARITY)
    ours = greedy_cover(CoverageGraph.of_matrix(matrix), 40)
    assert ours.rows.tolist() == theirs.ranking.tolist()
    np.testing.assert_allclose(ours.gains / MAX_SIMILARITY, theirs.gains, rtol=1e-9)
