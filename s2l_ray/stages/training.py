"""What the proxy's and the target's trainings have in common: the settings that their numbers depend on."""

from __future__ import annotations

from typing import Any, Literal

from s2l_ray.config.model import RENDER_FIELDS, TrainedModelConfig

_KEY_EXCLUDES = {"log_every_steps", "checkpoint_every_steps", "compile", "seed", "precision", *RENDER_FIELDS}


def training_settings(model: TrainedModelConfig, device: str, seed: int) -> dict[str, Any]:
    """What a training's numbers depend on.

    What changes none stays out: a run may be resumed on other machines, with another number of workers.
    """
    precision = precision_of(model, device)
    return model.stored(exclude=_KEY_EXCLUDES) | {"precision": precision, "seed": seed}


def precision_of(model: TrainedModelConfig, device: str) -> Literal["fp32", "bf16"]:
    """What `auto` means on this device."""
    return model.precision if model.precision != "auto" else ("bf16" if device == "gpu" else "fp32")
