"""Engines hold the weights and update them: plain PyTorch here, DeepSpeed in zero.py. No Ray."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.lm.batches import Batch
from s2l_ray.lm.load import compile_each_layer
from s2l_ray.lm.packing import leave_uncompiled
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.storage.processes import peak_resident_bytes

_STATE = "state.pt"


class Engine(Protocol):
    """Interface for a training step. Gradients add up over a step's micro-batches and are averaged over workers."""

    loss: ResponseLoss
    """Loss module, for scoring with the current weights."""
    lockstep: bool
    """Whether weights or gradients are sharded, so that all workers must make the same number of passes or hang."""

    def micro_batch(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a micro-batch's passes; in the step's last one, workers exchange gradients."""

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses, with gradients, and the losses nll_nats (R,), without."""

    def compile(self) -> None:
        """Compile layers and head; call this after batching is chosen and before the first step."""

    def backward(self, loss: Tensor) -> None: ...

    def clip(self, max_norm: float) -> Tensor | None:
        """Clip gradients to the global L2 norm; return the norm before, or None if only `update` knows it."""

    def update(self, learning_rate: float) -> float | None:
        """Make one optimiser step and reset gradients; return the gradient norm if `clip` could not.

        No update is made if the norm is not finite.
        """

    def save(self, folder: Path) -> None:
        """Write this worker's part of the weights and the optimiser's state as files; every worker must call it."""

    def load(self, folder: Path) -> None:
        """Load what `save` wrote, on any number of workers; every worker must call it."""

    def whole_weights(self) -> dict[str, Tensor] | None:
        """Return all weights on the CPU by name on worker 0, None on others; every worker must call it."""


class MasterWeights:
    """fp32 copies of a model's trained weights, while the model's own weights become bf16.

    Small updates would vanish in bf16 weights, so the optimiser updates the copies, and gradients of micro-batches are
    added up there in fp32. A bf16 gradient lives only until it is added. AdamW needs 18 bytes per trained parameter, as
    with autocast over fp32 weights, but activations are half as large and weights are not cast at every use.
    """

    def __init__(self, model: nn.Module) -> None:
        self.of: dict[nn.Parameter, nn.Parameter] = {}
        """bf16 weight → fp32 copy, for trained weights."""
        for parameter in model.parameters():
            exact = parameter.detach()
            parameter.data = exact.to(torch.bfloat16)
            if parameter.requires_grad:
                self.of[parameter] = nn.Parameter(exact.float())
                # The hook refers only to the copy: a reference to the dict of all weights would keep the model alive.
                parameter.register_post_accumulate_grad_hook(functools.partial(_add_gradient, self.of[parameter]))

    @torch.no_grad()
    def round(self) -> None:
        """Set the bf16 weights to the rounded copies."""
        torch._foreach_copy_(list(self.of), list(self.of.values()))

    def average_gradients(self) -> None:
        """Average gradients over all workers; every worker must call it after its micro-batches."""
        gradients = [torch.zeros_like(copy) if copy.grad is None else copy.grad for copy in self.of.values()]
        # Sent in bf16, at half the bytes: every micro-batch's gradient was rounded to it anyway.
        sent = [gradient.to(torch.bfloat16) for gradient in gradients]
        works = [dist.all_reduce(gradient, async_op=True) for gradient in sent]
        for work in works:
            work.wait()
        torch._foreach_copy_(gradients, sent)
        torch._foreach_mul_(gradients, 1 / dist.get_world_size())
        for copy, gradient in zip(self.of.values(), gradients, strict=True):
            copy.grad = gradient


def _exchange_in_bf16(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients over all workers, sent in bf16.

    PyTorch refuses its own hook, by name, where there is no NCCL, though Gloo adds bf16, too.
    """
    return default_hooks.bf16_compress_hook(dist.group.WORLD, bucket)  # type: ignore[arg-type]


_exchange_in_bf16.__annotations__ = {}  # PyTorch compares them with its classes, and here they are text


def _add_gradient(copy: nn.Parameter, parameter: Tensor) -> None:
    """Add the bf16 weight's gradient to the fp32 copy's gradient from earlier micro-batches."""
    if parameter.grad is not None:
        if copy.grad is None:
            copy.grad = parameter.grad.float()
        else:
            copy.grad += parameter.grad
        parameter.grad = None


def parameter_groups(trained: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Group parameters for the optimiser, with weight decay only on matrices, as is usual."""
    # Under ZeRO-3, a parameter's shape is in ds_shape, and the parameter itself is empty.
    is_matrix = {p: len(getattr(p, "ds_shape", p.shape)) >= 2 for p in trained}
    groups = [
        {"params": [p for p in trained if is_matrix[p]], "weight_decay": weight_decay},
        {"params": [p for p in trained if not is_matrix[p]], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def compile_layers(loss: ResponseLoss) -> None:
    """Compile each of the model's layers, which share kernels, and the operations on the head's logits."""
    leave_uncompiled()
    compile_each_layer(loss.model)
    loss.head_loss.fuse()


class TorchEngine:
    """Engine with a whole model on every worker, in fp32 with DistributedDataParallel or in bf16."""

    lockstep = False

    def __init__(
        self,
        model: Any,
        config: TrainedModelConfig,
        device: torch.device,
        num_workers: int,
        bf16: bool = False,
        send_bf16: bool = False,
    ) -> None:
        """Create the engine.

        Args:
            bf16: weights become bf16 and the optimiser has fp32 copies: do not autocast.
            send_bf16: workers exchange fp32 gradients in bf16, with half the bytes; for autocast, which rounds to bf16
                anyway. With `bf16` they always do.
        """
        self.model = model.to(device)
        self.loss = ResponseLoss(self.model)
        self.num_workers = num_workers
        trained = [p for p in model.parameters() if p.requires_grad]
        self.masters = MasterWeights(model) if bf16 else None
        self._module: nn.Module = self.loss
        if num_workers > 1 and self.masters is None:
            from torch.nn.parallel import DistributedDataParallel

            ids = [device.index] if device.type == "cuda" else None
            distributed = DistributedDataParallel(self.loss, device_ids=ids, gradient_as_bucket_view=True)
            if send_bf16:
                distributed.register_comm_hook(None, _exchange_in_bf16)
            self._module = distributed
        self._trained = trained if self.masters is None else [self.masters.of[p] for p in trained]
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self._trained, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.999),
            eps=1e-8, fused=device.type == "cuda",
        )  # fmt: skip

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        total, nll, _ = self._module(batch)
        return total, nll

    def compile(self) -> None:
        compile_layers(self.loss)

    def micro_batch(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        # This includes the forward pass, in which DDP decides whether it will exchange gradients.
        return contextlib.nullcontext() if last or self._module is self.loss else self._module.no_sync()  # type: ignore[operator]

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self, max_norm: float) -> Tensor | None:
        if self.masters is not None and self.num_workers > 1:
            self.masters.average_gradients()
        return torch.nn.utils.clip_grad_norm_(self._trained, max_norm)

    def update(self, learning_rate: float) -> float | None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.masters is not None:
            self.masters.round()
        return None

    def save(self, folder: Path) -> None:
        if dist.is_initialized() and dist.get_rank() > 0:
            return
        copies = [] if self.masters is None else [p.detach() for p in self._trained]
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "masters": copies}
        torch.save(state, folder / _STATE)

    def load(self, folder: Path) -> None:
        # weights_only: a checkpoint must not be able to run code.
        state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.masters is not None:
            with torch.no_grad():
                torch._foreach_copy_(self._trained, state["masters"])

    def whole_weights(self) -> dict[str, Tensor] | None:
        if dist.is_initialized() and dist.get_rank() > 0:
            return None
        return {n: t.detach().cpu() for n, t in self.model.state_dict().items()}


def peak_memory_bytes(device: torch.device) -> int:
    """Return this process's peak memory in bytes: GPU memory on GPUs, resident memory on CPUs."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return peak_resident_bytes()


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
