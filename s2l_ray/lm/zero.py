"""DeepSpeed ZeRO behind the `Engine` protocol. This is the only module that imports DeepSpeed. No Ray.

ZeRO stage 1 shards the optimiser's state over the workers, stage 2 also the gradients, stage 3 also the parameters
(https://www.deepspeed.ai/tutorials/zero/). For offload, DeepSpeed compiles C++ extensions at first use (g++ and ninja).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s2l_ray.config.target import TargetConfig
from s2l_ray.errors import UserError
from s2l_ray.lm.batches import Batch, empty_batch
from s2l_ray.lm.engine import compile_layers, parameter_groups
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.lm.zero_checkpoint import MOMENTS, WEIGHT, Checkpoint, write_checkpoint
from s2l_ray.lm.zero_config import BETAS, EPS
from s2l_ray.storage.scratch import scratch_folder

WHOLE_BUILD_LIMIT = 500_000_000
"""Random models with at most this many parameters are built whole on every worker (2 GB each) and then sharded."""


class DeepSpeedMissing(UserError):
    """Error if ZeRO is configured, but DeepSpeed is not installed."""


_BUILD_S = 900.0
"""Time in which any of DeepSpeed's extensions compiles, even on a busy machine (seconds)."""


def import_deepspeed() -> Any:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _forget_dead_builds()
    try:
        import deepspeed
    except ImportError as error:
        raise DeepSpeedMissing(
            f"target.zero_stage above 0 and offload need DeepSpeed, which cannot be imported ({error}); "
            'run pip install "s2l_ray[target]" on every node, or set target.zero_stage=0'
        ) from error
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        # Disables an extension for shared memory between a node's workers, which takes minutes to compile: use gloo.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _forget_dead_builds() -> None:
    """Delete locks of processes that were killed while compiling, for which PyTorch would wait indefinitely."""
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in (*root.glob("*/lock"), *root.glob("*/*/lock")):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - lock.stat().st_mtime > _BUILD_S:
                lock.unlink()


@contextlib.contextmanager
def sharded_build(ds_config: dict[str, Any], random_parameters: int | None = None) -> Iterator[None]:
    """Make `transformers` build causal LMs in shards (ZeRO-3) within the block, so that no worker holds a whole model.

    torch.distributed must be initialised. Worker 0 reads pretrained weights and scatters them.

    Args:
        ds_config: DeepSpeed's configuration; this has no effect with stages other than 3.
        random_parameters: number of parameters, if they are random. When building in shards, `transformers` draws them
            in another order, so the same seed gives other weights than without ZeRO-3. Therefore, up to
            WHOLE_BUILD_LIMIT, the model is built whole on every worker, with the seed's weights, and `ZeroEngine`
            shards it.
    """
    small = random_parameters is not None and random_parameters <= WHOLE_BUILD_LIMIT
    if ds_config["zero_optimization"]["stage"] != 3 or small:
        yield
        return
    deepspeed = import_deepspeed()
    from transformers.integrations import HfDeepSpeedConfig

    _start_deepspeed(deepspeed)
    alive = HfDeepSpeedConfig(ds_config)  # `transformers` holds a weak reference: sharding ends with this object
    try:
        yield
    finally:
        del alive
        gc.collect()


class ZeroEngine:
    """Engine that shards the weights, gradients and optimiser's state of `ResponseLoss(model)` over the workers.

    Updates with non-finite gradients are skipped at any stage and precision, because DeepSpeed checks the global norm
    first; `update` then returns infinity on every worker.

    With bf16, the model's weights are bf16, and the optimiser's fp32 copies start from them (not from an fp32 file);
    gradients of micro-batches add up in fp32. Do not use autocast.

    Evaluate under `torch.no_grad()`, not `inference_mode`, in which weights that ZeRO-3 keeps whole (below 1e5
    elements) would permanently become inference tensors. Offload to NVMe needs libaio; its checkpoints are slow,
    because a whole sub-group is read from disk for each parameter.
    """

    lockstep = True

    def __init__(
        self, model: Any, config: TargetConfig, device: torch.device, num_workers: int, ds_config: dict[str, Any]
    ) -> None:
        """`model`: whole, or from `sharded_build`; frozen weights stay so. `ds_config`: from `make_zero_config`."""
        deepspeed = import_deepspeed()
        _start_deepspeed(deepspeed, device)
        self._deepspeed, self.model, self.num_workers = deepspeed, model, num_workers
        self.stage: int = ds_config["zero_optimization"]["stage"]
        self._has_stepped = False
        self.loss = ResponseLoss(model)
        self.optimizer = _make_optimizer(model, config, device, ds_config)
        self._engine = deepspeed.initialize(model=self.loss, optimizer=self.optimizer, config=ds_config)[0]
        if self._engine.device.type != device.type or (device.index or 0) != (self._engine.device.index or 0):
            raise UserError(
                f"DeepSpeed chose {self._engine.device}, but this worker's device is {device}, so the two would not "
                f"match; set LOCAL_RANK={device.index}"
            )
        if self.stage < 3:
            self._make_adam_states()
        else:
            self._spare_second_gradients()
            # HeadLoss uses parameters of another module: fetch them once around its forward and backward pass.
            for parameter in self.loss.head_loss.head.parameters(recurse=False):
                deepspeed.zero.register_external_parameter(self.loss.head_loss, parameter)
        _return_freed_memory()

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        total, nll, _ = self._engine(batch)
        return total, nll

    def compile(self) -> None:
        compile_layers(self.loss)

    @contextlib.contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def clip(self, max_norm: float) -> None:
        """Do nothing: DeepSpeed clips within `update`, to the `gradient_clipping` of its configuration."""

    def update(self, learning_rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        _return_freed_memory()
        self._engine.step()
        self._has_stepped = True
        return float(self._engine.get_global_grad_norm())

    def save(self, folder: Path) -> None:
        """Save only trained parameters, without pickles, for any stage and number of workers; see zero_checkpoint."""
        self._release()
        if not self._has_stepped:
            self._empty_step()
        step = max(int(state["step"]) for state in self._adam_states())
        trained = self._trained()
        write_checkpoint(folder, trained, lambda name, kind: self._whole(trained[name], kind), step, self.stage)

    def load(self, folder: Path) -> None:
        """Load a checkpoint: with stages 1 and 2, every worker reads all of it; with 3, only worker 0 does.

        Raises:
            CheckpointMismatch: the checkpoint does not fit; nothing has been changed.
        """
        trained = self._trained()
        checkpoint = Checkpoint(folder, {n: _num_elements(p) for n, p in trained.items()})
        self._empty_step()
        self._release()
        for name, parameter in trained.items():
            self._set_weight(parameter, checkpoint, name)
            for kind in (WEIGHT, *MOMENTS):
                self._set_master(parameter, checkpoint, name, kind)
        self._set_adam_step(checkpoint.step)

    def whole_weights(self) -> dict[str, Tensor] | None:
        self._release()
        whole: dict[str, Tensor] = {}
        seen: dict[int, Tensor] = {}  # tied weights stay one tensor
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            with self._gathered(tensor):
                if dist.get_rank() == 0:
                    if id(tensor) not in seen:
                        seen[id(tensor)] = _copy_on_disk(tensor.detach())
                    whole[name] = seen[id(tensor)]
        return whole if dist.get_rank() == 0 else None

    def _trained(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def _adam_states(self) -> list[dict[str, Any]]:
        return [state for state in self.optimizer.state.values() if "exp_avg" in state]

    def _gathered(self, parameter: Tensor, modifier_rank: int | None = None) -> contextlib.AbstractContextManager[Any]:
        """Return a context with the whole parameter in ZeRO-3; changes by `modifier_rank` are kept."""
        return self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=modifier_rank)

    def _whole(self, parameter: nn.Parameter, kind: str) -> Tensor:
        """Return the whole fp32 weight or moment, on every worker."""
        utils = self._deepspeed.utils
        if kind == WEIGHT:
            return utils.safe_get_full_fp32_param(parameter)
        return utils.safe_get_full_optimizer_state(parameter, kind)

    def _set_weight(self, parameter: nn.Parameter, checkpoint: Checkpoint, name: str) -> None:
        """Set the weight with which the model computes."""
        with torch.no_grad(), self._gathered(parameter, modifier_rank=0):
            if self.stage < 3 or dist.get_rank() == 0:
                parameter.data.copy_(checkpoint.part(name, WEIGHT).view_as(parameter))

    def _set_master(self, parameter: nn.Parameter, checkpoint: Checkpoint, name: str, kind: str) -> None:
        """Set this worker's part of the optimiser's own fp32 weight or a moment."""
        utils = self._deepspeed.utils
        if self.stage == 3:
            # safe_set_full_… is not used: if the number of workers does not divide a parameter's size, it takes the
            # last worker's part from beyond the end (DeepSpeed 0.19).
            size, total = utils.safe_get_local_fp32_param(parameter).numel(), _num_elements(parameter)
            start, end = (min(total, (dist.get_rank() + i) * size) for i in (0, 1))
            value = torch.zeros(size)
            value[: end - start] = checkpoint.part(name, kind, start, end)
            to_weight, to_state = utils.safe_set_local_fp32_param, utils.safe_set_local_optimizer_state
        else:
            value = checkpoint.part(name, kind).view_as(parameter)
            to_weight, to_state = utils.safe_set_full_fp32_param, utils.safe_set_full_optimizer_state
        to_weight(parameter, value) if kind == WEIGHT else to_state(parameter, value, kind)

    def _release(self) -> None:
        """Release weights that ZeRO-3 still holds whole, or prefetches, after a pass."""
        self._engine.empty_partition_cache()

    def _spare_second_gradients(self) -> None:
        """Avoid a second copy of offloaded gradients: DeepSpeed adds up micro-batches in one buffer and copies the sums
        into another one, 4 bytes per parameter each. If both are fp32 and in the node's memory, the second becomes a
        view of the first, which is then copied onto itself (DeepSpeed 0.19; other layouts are left as they are)."""
        zero = self._engine.optimizer
        sums, groups = getattr(zero, "grad_partitions_flat_buffer", None), zero.fp32_partitioned_groups_flat
        if not zero.offload_optimizer or zero.swap_optimizer or sums is None:
            return
        start = 0
        for group in groups:
            if group.grad is None or (group.grad.dtype, group.grad.device) != (sums.dtype, sums.device):
                return
            group.grad = sums.narrow(0, start, group.numel())
            start += group.numel()

    def _make_adam_states(self) -> None:
        """Create Adam's states by an update with zero gradients: DeepSpeed links them to the parameters after the first
        group's first update, when those of the second would not exist yet (stages 1 and 2, DeepSpeed 0.19)."""
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
            for flat in group["params"]:
                before = flat.grad
                flat.grad = torch.zeros_like(flat) if before is None else before.zero_()
                self.optimizer.step()
                flat.grad = before
        self._set_adam_step(0)

    def _empty_step(self) -> None:
        """Make a step with gradient and learning rate 0, which only completes DeepSpeed's initialisation."""
        with self.micro_batch(last=True):
            total, _ = self.forward(empty_batch().to(self._engine.device))
            self.backward(total)
        self.update(0.0)
        self._set_adam_step(0)

    def _set_adam_step(self, step: int) -> None:
        for state in self._adam_states():
            if isinstance(state["step"], Tensor):
                state["step"].fill_(step)
            else:
                state["step"] = step


def sharded_loss(model: Any, device: torch.device, ds_config: dict[str, Any]) -> ResponseLoss:
    """Shard `ResponseLoss(model)` for scoring, without gradients and optimiser; every worker must call this.

    Args:
        model: a whole model, or one from `sharded_build`.
        ds_config: DeepSpeed's configuration for stage 3.
    """
    deepspeed = import_deepspeed()
    _start_deepspeed(deepspeed, device)
    loss = ResponseLoss(model.requires_grad_(False))
    zero = {name: value for name, value in ds_config["zero_optimization"].items() if name != "offload_optimizer"}
    engine = deepspeed.initialize(model=loss, config=ds_config | {"zero_optimization": zero})[0]
    for parameter in loss.head_loss.head.parameters(recurse=False):
        deepspeed.zero.register_external_parameter(loss.head_loss, parameter)
    loss.__dict__["engine"] = engine  # keeps the engine alive with the loss, without registering it as a module
    return loss


def _return_freed_memory() -> None:
    """Return freed memory to the system, in hundredths of a second. glibc keeps freed blocks of up to 32 MB: those of
    the unsharded model and of gathered weights are scattered between live ones, a quarter of a worker's memory with
    offloaded states when the first update creates the moments."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl and macOS have none
    if trim is not None:
        trim(0)


def _copy_on_disk(tensor: Tensor) -> Tensor:
    """Copy a tensor to a temporary file that disappears with it: a whole model in addition to its training would exceed
    many nodes' memory, and the copy is read only once, to be written to another file."""
    if tensor.numel() == 0:
        return tensor.cpu()
    with scratch_folder() as folder:
        name = os.path.join(folder, "tensor")
        copy = torch.from_file(name, shared=True, size=tensor.numel(), dtype=tensor.dtype)  # held by its mapping
    return copy.view(tensor.shape).copy_(tensor)


def _num_elements(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _make_optimizer(model: Any, config: TargetConfig, device: torch.device, ds_config: dict[str, Any]) -> Any:
    groups = parameter_groups([p for p in model.parameters() if p.requires_grad], config.weight_decay)
    where = ds_config["zero_optimization"].get("offload_optimizer", {}).get("device", "none")
    if where != "none":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, lr=config.learning_rate, betas=BETAS, eps=EPS, adamw_mode=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, eps=EPS, fused=device.type == "cuda")


def _start_deepspeed(deepspeed: Any, device: torch.device | None = None) -> None:
    """Initialise DeepSpeed with the existing process group; it reads this worker's device from LOCAL_RANK."""
    index = device.index if device is not None else torch.cuda.current_device() if torch.cuda.is_available() else 0
    os.environ.setdefault("LOCAL_RANK", str(index or 0))
    deepspeed.init_distributed(verbose=False)
