"""Chooses a report's main subset."""

from __future__ import annotations

from s2l_ray.artifacts.run import Run


def main_subset(run: Run) -> str | None:
    """The first S2L subset that was trained on, preferably with a random one of the same size; otherwise the first."""
    chosen_by_s2l = [n for n, s in run.subsets.items() if s.manifest.extra.get("selector") == "s2l"]
    trained = [n for n in chosen_by_s2l if n in run.targets]
    beside_random = [n for n in trained if f"random-{run.subsets[n].manifest.extra['budget']!r}" in run.targets]
    return next(iter([*beside_random, *trained, *chosen_by_s2l, *run.subsets]), None)
