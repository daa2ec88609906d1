"""Chooses a report's main subset."""

from __future__ import annotations

from s2l_ray.artifacts.run import Run


def main_subset(run: Run) -> str | None:
    """The first subset that was trained on, preferably S2L's, and with a random one of the same size; if none was, the
    first of S2L's, or of all."""
    selectors = {name: stage.manifest.extra.get("selector") for name, stage in run.subsets.items()}
    chosen_by_s2l = [name for name, selector in selectors.items() if selector == "s2l"]
    others = [name for name, selector in selectors.items() if selector not in ("s2l", "random")]
    trained = [name for name in [*chosen_by_s2l, *others] if name in run.targets]
    beside_random = [n for n in trained if f"random-{run.subsets[n].manifest.extra['budget']!r}" in run.targets]
    return next(iter([*beside_random, *trained, *chosen_by_s2l, *run.subsets]), None)
