"""Learning-rate schedule of all trainings, as a function of the step. No torch, because the report draws it, too."""

from __future__ import annotations

import math


def learning_rate(step: int, total_steps: int, peak: float, warmup_share: float) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then cosine decay to 0.

    It depends only on the step, so there is no state to restore.
    """
    warmup = round(total_steps * warmup_share)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
