"""Engine with the whole target on every worker, in plain PyTorch, using the checkpoints of ZeRO training.

An interrupted training can therefore continue with another ZeRO stage, or with none: `auto` may choose a different one
for fewer workers, and the stage is not part of a target's key.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from s2l_ray.lm.engine import TorchEngine
from s2l_ray.lm.zero_checkpoint import MOMENTS, WEIGHT, Checkpoint, write_checkpoint


class WholeEngine(TorchEngine):
    """TorchEngine for targets."""

    def save(self, folder: Path) -> None:
        """Save only trained parameters, without pickles; the workers share the writing."""
        trained, states = self._named(), self.optimizer.state

        def whole(name: str, kind: str) -> Tensor:
            parameter = trained[name]
            if kind == WEIGHT:
                return parameter.detach()
            return states[parameter][kind] if parameter in states else torch.zeros_like(parameter)

        step = max((int(state["step"]) for state in states.values()), default=0)
        write_checkpoint(folder, trained, whole, step, stage=0)

    def load(self, folder: Path) -> None:
        """Load a checkpoint.

        Raises:
            CheckpointMismatch: the checkpoint does not fit; nothing has been changed.
        """
        trained = self._named()
        checkpoint = Checkpoint(folder, {name: p.numel() for name, p in trained.items()})
        for name, parameter in trained.items():
            with torch.no_grad():
                parameter.copy_(checkpoint.part(name, WEIGHT).view_as(parameter))
            moments = {kind: checkpoint.part(name, kind).view_as(parameter).to(parameter) for kind in MOMENTS}
            fused = self.optimizer.defaults["fused"]  # the fused optimiser keeps the count on the parameter's device
            step = torch.tensor(float(checkpoint.step), device=parameter.device if fused else "cpu")
            self.optimizer.state[parameter] = {"step": step, **moments}
        if self.masters is not None:
            self.masters.round()

    def _named(self) -> dict[str, nn.Parameter]:
        """Return the optimiser's parameters by name: fp32, whatever the data type of the model's weights."""
        copies = {} if self.masters is None else self.masters.of
        return {n: copies.get(p, p) for n, p in self.model.named_parameters() if p.requires_grad}
