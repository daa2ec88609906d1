"""Which subset a report speaks of."""

from __future__ import annotations

from s2l_ray.artifacts.run import Run


def main_subset(run: Run) -> str | None:
    """The first of S2L that was trained on, best beside a random one of its size; else the first."""
    chosen_by_s2l = [n for n, s in run.subsets.items() if s.manifest.extra.get("selector") == "s2l"]
    trained = [n for n in chosen_by_s2l if n in run.targets]
    beside_random = [n for n in trained if f"random-{run.subsets[n].manifest.extra['budget']!r}" in run.targets]
    return next(iter([*beside_random, *trained, *chosen_by_s2l, *run.subsets]), None)
