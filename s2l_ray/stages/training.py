"""What the proxy's and the target's trainings have in common: the settings that their numbers depend on."""

from __future__ import annotations

from typing import Any

from s2l_ray.config.model import RENDER_FIELDS, TrainedModelConfig

_KEY_EXCLUDES = {"log_every_steps", "checkpoint_every_steps", "compile", "seed", "precision", *RENDER_FIELDS}


def training_settings(model: TrainedModelConfig, precision: str, seed: int) -> dict[str, Any]:
    """What a training's numbers depend on.

    What changes none stays out: a run may be resumed on other machines, with another number of workers.
    """
    return model.stored(exclude=_KEY_EXCLUDES) | {"precision": precision, "seed": seed}
