"""When a target's early snapshot is taken."""

from __future__ import annotations

import pytest

from s2l_ray.stages.reference import early_step


@pytest.mark.parametrize(
    ("share", "total", "step"),
    [(0.1, 30, 3), (0.1, 31, 4), (0.07, 100, 7), (0.29, 100, 29), (1.0, 17, 17), (0.0, 17, 0), (0.001, 17, 1)],
)
def test_the_first_step_at_or_after_the_share(share: float, total: int, step: int) -> None:
    assert early_step(share, total) == step
