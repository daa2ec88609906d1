"""Who holds the weights and updates them: plain PyTorch here, DeepSpeed in target/zero.py. Plain torch, no Ray."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.lm.response_loss import ResponseLoss

_STATE = "state.pt"


class Engine(Protocol):
    """What a training step needs. Gradients add up over the micro-batches of a step and are averaged over workers."""

    loss: ResponseLoss
    """The loss module, for scoring with the present weights."""
    lockstep: bool
    """Weights or gradients are sharded: every worker must make the same number of passes, or all would hang."""

    def micro_batch(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around a micro-batch's forward and backward pass; with the step's last one, workers exchange gradients."""

    def forward(self, input_ids: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """input_ids (B, L), positions (R,), targets (R,) → nll_nats (R,), with gradients."""

    def backward(self, loss: Tensor) -> None: ...

    def clip(self, max_norm: float) -> Tensor | None:
        """Clip the gradients to the global L2 norm; gives the norm before, or None if it is known after `update`."""

    def update(self, learning_rate: float) -> float | None:
        """One optimiser step, gradients to nothing; the gradient norm where `clip` could not give it.

        No update is made with a norm that is not finite.
        """

    def save(self, folder: Path) -> None:
        """This worker's part of the weights and the optimiser's state, as files; every worker calls it."""

    def load(self, folder: Path) -> None:
        """What `save` wrote, on any number of workers; every worker calls it."""

    def whole_weights(self) -> dict[str, Tensor] | None:
        """All weights on the CPU, under the model's names, on worker 0; None on the others. Every worker calls it."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only, as usual; frozen parameters are left out."""
    trained = [p for p in model.parameters() if p.requires_grad]
    # Under ZeRO-3 a parameter's shape lies in ds_shape, its own is empty.
    is_matrix = {p: len(getattr(p, "ds_shape", p.shape)) >= 2 for p in trained}
    groups = [
        {"params": [p for p in trained if is_matrix[p]], "weight_decay": weight_decay},
        {"params": [p for p in trained if not is_matrix[p]], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


class TorchEngine:
    """A whole model on every worker, gradients averaged by DistributedDataParallel."""

    lockstep = False

    def __init__(self, model: Any, config: TrainedModelConfig, device: torch.device, num_workers: int) -> None:
        self.model = model.to(device)
        self.loss = ResponseLoss(self.model)
        self.num_workers = num_workers
        if config.compile:
            model.base_model.compile(dynamic=True)
        self._module: nn.Module = self.loss
        if num_workers > 1:
            from torch.nn.parallel import DistributedDataParallel

            ids = [device.index] if device.type == "cuda" else None
            self._module = DistributedDataParallel(self.loss, device_ids=ids, gradient_as_bucket_view=True)
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.999), eps=1e-8,
            fused=device.type == "cuda",
        )  # fmt: skip

    def forward(self, input_ids: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        return self._module(input_ids, positions, targets)

    def micro_batch(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        # Forward pass included: DDP decides there whether it will exchange gradients.
        return contextlib.nullcontext() if last or self.num_workers == 1 else self._module.no_sync()  # type: ignore[operator]

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self, max_norm: float) -> Tensor | None:
        return torch.nn.utils.clip_grad_norm_(self._trained, max_norm)

    def update(self, learning_rate: float) -> float | None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return None

    def save(self, folder: Path) -> None:
        if dist.is_initialized() and dist.get_rank() > 0:
            return
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, folder / _STATE)

    def load(self, folder: Path) -> None:
        # weights_only: a checkpoint must not be able to run code.
        state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def whole_weights(self) -> dict[str, Tensor] | None:
        if dist.is_initialized() and dist.get_rank() > 0:
            return None
        return {n: t.detach().cpu() for n, t in self.model.state_dict().items()}


def peak_memory_bytes(device: torch.device) -> int:
    """Of this process: GPU memory on GPUs, resident memory on CPUs (bytes)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
