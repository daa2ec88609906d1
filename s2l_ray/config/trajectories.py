"""The section `trajectories`: where the examples' losses come from, and how often they are recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from s2l_ray.config.section import Section, bounded

_DEFAULT_SNAPSHOTS = {"snapshots": 12, "training": 0, "hybrid": 3}


class TrajectoriesConfig(Section):
    source: Literal["snapshots", "training", "hybrid"] = "snapshots"
    """Where the losses come from. `snapshots`: the whole corpus is scored repeatedly, as in the paper. `training`: what
    training computes anyway, one loss per example and full epoch, without an extra pass. `hybrid`: both, with few
    snapshots."""
    num_snapshots: int | None = bounded(None, 1000, "each snapshot scores the whole corpus again", ge=1)
    """T: how many times every example is scored, evenly spaced over the optimiser steps, including the first and the
    last (with `hybrid`: the last). None: 12; with `hybrid` 3, with `training` none."""
    include_step_zero: bool = False
    """Make the untrained proxy (step 0) the first snapshot, instead of the proxy after its first step."""
    tokens_per_batch: int = bounded(8192, 2**24, "a larger batch does not fit in any device's memory", ge=8)
    """Tokens scored at once; 65,536 or more is faster on GPUs."""
    examples_per_part: int | None = bounded(None, 1_000_000, "each part is held in one worker's memory", ge=1)
    """Unit of work and of restart (examples per file); None: depends on the corpus, 64 to 4,096, and more above 17
    million examples, for about 3,000 files per stage."""

    @property
    def num_scored(self) -> int:
        """How many snapshots are scored."""
        return _DEFAULT_SNAPSHOTS[self.source] if self.num_snapshots is None else self.num_snapshots

    @property
    def settings(self) -> dict[str, Any]:
        """What the losses depend on."""
        found: dict[str, Any] = {"num_snapshots": self.num_scored, "include_step_zero": self.include_step_zero}
        if self.num_scored:
            found["tokens_per_batch"] = self.tokens_per_batch
        # Runs from before there was a choice keep their keys.
        return found if self.source == "snapshots" else {**found, "source": self.source}

    def contradictions(self) -> Iterator[str]:
        here = f"trajectories.source={self.source}"
        if self.source == "training" and self.num_snapshots is not None:
            yield (
                f"trajectories.num_snapshots={self.num_snapshots} would do nothing, since with {here} nothing is "
                "scored; set it to null, or use source=hybrid"
            )
        if self.source == "training" and self.include_step_zero:
            yield (
                f"trajectories.include_step_zero=true would do nothing, since with {here} nothing is scored; remove "
                "it, or use source=hybrid"
            )
        if self.num_scored == 1 and (self.source == "snapshots" or self.include_step_zero):
            zero = " and include_step_zero=true" if self.include_step_zero else ""
            yield (
                f"trajectories.num_snapshots=1 with source={self.source}{zero} leaves nothing that a first and a last "
                "snapshot could be; use 2 or more"
            )
