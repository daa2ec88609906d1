"""The target whole on every worker, in plain PyTorch, with the checkpoints of ZeRO training.

So a training that was interrupted goes on with another ZeRO stage, or with none: `auto` may choose another when there
are fewer workers, and the stage is not part of what a target is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from s2l_ray.lm.engine import TorchEngine
from s2l_ray.lm.zero_checkpoint import MOMENTS, WEIGHT, Checkpoint, write_checkpoint


class WholeEngine(TorchEngine):
    """`TorchEngine` for targets."""

    def save(self, folder: Path) -> None:
        """Trained parameters only, no pickles; the workers share the writing."""
        trained, states = self._named(), self.optimizer.state

        def whole(name: str, kind: str) -> Tensor:
            parameter = trained[name]
            if kind == WEIGHT:
                return parameter.detach()
            return states[parameter][kind] if parameter in states else torch.zeros_like(parameter)

        step = max((int(state["step"]) for state in states.values()), default=0)
        write_checkpoint(folder, trained, whole, step, stage=0)

    def load(self, folder: Path) -> None:
        """Raises CheckpointMismatch: nothing was changed yet."""
        trained = self._named()
        checkpoint = Checkpoint(folder, {name: p.numel() for name, p in trained.items()})
        for name, parameter in trained.items():
            with torch.no_grad():
                parameter.copy_(checkpoint.part(name, WEIGHT).view_as(parameter))
            moments = {kind: checkpoint.part(name, kind).view_as(parameter).to(parameter) for kind in MOMENTS}
            fused = self.optimizer.defaults["fused"]  # then the count lies where the parameter lies
            step = torch.tensor(float(checkpoint.step), device=parameter.device if fused else "cpu")
            self.optimizer.state[parameter] = {"step": step, **moments}
        if self.masters is not None:
            self.masters.round()

    def _named(self) -> dict[str, nn.Parameter]:
        """What the optimiser has: fp32, whatever the model's weights are."""
        copies = {} if self.masters is None else self.masters.of
        return {n: copies.get(p, p) for n, p in self.model.named_parameters() if p.requires_grad}
