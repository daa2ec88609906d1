"""Variant of S2L that is less sensitive to wrong answers: square-root allocation over clusters, and two free guards.

With equal quotas, small clusters of wrong answers can fill the subset. This variant is not better everywhere: on clean
data, and with proxies too weak to recognise wrong answers, the guards find nothing.
"""

from __future__ import annotations

from s2l_ray.config.section import bounded
from s2l_ray.selection.options import ClusterOptions, GuardOptions
from s2l_ray.selection.selectors.s2l import S2L


class RobustOptions(ClusterOptions):
    allocation_exponent: float = bounded(0.5, 1.0, "small clusters would contribute nothing", ge=0)
    """α: clusters count by size^α."""
    guard: GuardOptions = GuardOptions(rules=["rise", "not_learnt"])
    """Which examples are chosen last; these two rules need only the trajectories."""


class RobustS2L(S2L):
    name = "s2l_robust"
    summary = "clusters by the square root of their size; examples the proxy unlearns or never learns go last"
    label = "robust S2L"
    Options = RobustOptions
