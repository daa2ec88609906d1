"""Training order in stages: the examples of a stage, or of all stages so far, in a seeded random order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from s2l_ray.data.token_examples import Examples
from s2l_ray.data.training_order import TrainPlan, Window
from s2l_ray.errors import InternalError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Phase:
    """Steps of training that draw from the same stages."""

    first_step: int
    plan: TrainPlan
    """Order of the examples that this phase draws from."""
    stages: tuple[int, ...]
    """Stages that this phase draws from."""


@dataclass(frozen=True)
class CurriculumPlan:
    """Plan that trains stage after stage, each for a number of steps in proportion to its examples.

    Like a TrainPlan, it is a function of corpus and seed, whatever the number of workers and restarts.
    """

    base: TrainPlan
    """The plan without stages."""
    counts: tuple[tuple[int, ...], ...]
    """For each part of the base plan, the number of its sequences in each stage."""
    cumulative: bool
    """Whether a stage draws from all stages so far instead of only its own examples."""

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        return self.base.parts

    @property
    def global_batch_size(self) -> int:
        return self.base.global_batch_size

    @property
    def total_steps(self) -> int:
        return self.base.total_steps

    @property
    def num_examples(self) -> int:
        return self.base.num_examples

    @property
    def steps_per_epoch(self) -> int:
        return self.base.steps_per_epoch

    def phases(self) -> list[Phase]:
        """Return the phases that have at least one step."""
        counts = np.array(self.counts)  # (parts, S)
        so_far = np.cumsum(counts.sum(axis=0))  # (S,)
        ends = np.floor(so_far * self.total_steps / so_far[-1] + 0.5).astype(int)
        phases, begin = [], 0
        for stage, end in enumerate(ends.tolist()):
            stages = tuple(range(stage + 1)) if self.cumulative else (stage,)
            rows = counts[:, list(stages)].sum(axis=1)
            parts = tuple((part, int(n)) for (part, _), n in zip(self.parts, rows, strict=True) if n)
            if end > begin:
                seed = int(np.random.SeedSequence([self.base.seed, stage]).generate_state(1)[0])
                # Parts are loaded whole, but only a window's examples of these stages are shuffled.
                window_rows = max(1, self.base.window_rows * int(rows.sum()) // int(so_far[-1]))
                plan = TrainPlan(parts, self.global_batch_size, end - begin, seed, window_rows)
                phases.append(Phase(begin, plan, stages))
            begin = end
        return phases

    def windows_from(self, start_step: int) -> list[Window]:
        """Return the windows that steps start_step, start_step + 1, … need, over all stages."""
        return [window for phase, step in self._left(start_step) for window in phase.plan.windows_from(step)]

    def batches(self, start_step: int, loaded: Iterator[Examples]) -> Iterator[tuple[int, Examples]]:
        """Yield (step, its examples); steps count from 0.

        Args:
            loaded: the examples of `windows_from(start_step)`, in that order, with their stages.
        """
        for phase, step in self._left(start_step):
            mine = islice(loaded, len(phase.plan.windows_from(step)))
            for at, batch in phase.plan.batches(step, (_of_stages(examples, phase.stages) for examples in mine)):
                yield phase.first_step + at, batch
            for _ in mine:  # skip the windows of the stage's unfinished last pass
                pass

    def _left(self, start_step: int) -> Iterator[tuple[Phase, int]]:
        """Yield the phases that have not ended at `start_step`, each with the step at which it begins."""
        for phase in self.phases():
            step = max(0, start_step - phase.first_step)
            if step < phase.plan.total_steps:
                yield phase, step


def _of_stages(examples: Examples, stages: tuple[int, ...]) -> Examples:
    if examples.stages is None:
        raise InternalError("a training in stages was given examples without them")
    return examples.take(np.flatnonzero(np.isin(examples.stages, stages)))
