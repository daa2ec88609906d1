"""The learning rate of every training, as a function of the step alone. No torch: the report draws it, too."""

from __future__ import annotations

import math


def learning_rate(step: int, total_steps: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up, cosine decay to 0; `step` counts from 0. A function of the step alone: nothing to restore."""
    warmup = round(total_steps * warmup_share)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
