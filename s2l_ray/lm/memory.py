"""Estimate the memory that a target worker needs, before anything is started.

Model states follow Rajbhandari et al., ZeRO (https://arxiv.org/abs/1910.02054), section 3. Activations are counted on a
model without weights (lm/activations.py). For models that cannot be counted, or are so small that activations hardly
matter, they follow Korthikanti et al. (https://arxiv.org/abs/2205.05198), section 4.1, without the attention matrix,
which fused kernels never store.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from s2l_ray.config.target import TargetConfig
from s2l_ray.lm.activations import ActivationCosts, count_activations
from s2l_ray.lm.response_loss import CHUNK_ELEMENTS
from s2l_ray.lm.zero_config import read_user_config

_GB = 1e9
_PROCESS_BYTES = 0.7e9
"""Memory of Python, PyTorch and Ray in one worker; on GPUs, the CUDA context needs about as much."""
_SMALL_BYTES = 3e8
"""Activations below this are not worth the second that counting takes."""
_BUCKET_ELEMENTS = 5e7
"""DeepSpeed's reduce and prefetch buckets, as zero_config.py sets them."""
_MAX_LIVE_PARAMETERS = 1e8
"""Gathered parameters that ZeRO-3 holds at once, as zero_config.py sets them."""


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a model that determine its memory."""

    num_parameters: int
    num_trained: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    largest_layer: int
    """Parameters of the largest single tensor that is fetched at once (usually the embedding)."""
    activations: ActivationCosts | None = None
    """Counted activations; None: estimated by formula."""

    @staticmethod
    def counted(model: Any, target: TargetConfig, precision: str, on_gpu: bool) -> ModelSizes:
        """Return the sizes of a model, with activations counted if they matter.

        Args:
            model: the target on the meta device; see `meta_model`.
        """
        import torch

        sizes = ModelSizes.of(model)
        if _activation_bytes(sizes, target, precision, on_gpu) < _SMALL_BYTES:
            return sizes
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return replace(sizes, activations=count_activations(model, dtype, on_gpu, target.max_length, target.compile))

    @staticmethod
    def of(model: Any) -> ModelSizes:
        """Return the sizes of a model on any device (`meta` needs no memory)."""
        config = model.config.get_text_config()
        hidden = int(getattr(config, "hidden_size", None) or model.get_input_embeddings().embedding_dim)
        return ModelSizes(
            num_parameters=sum(p.numel() for p in model.parameters()),
            num_trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
            num_layers=int(getattr(config, "num_hidden_layers", None) or 1),
            hidden_size=hidden,
            intermediate_size=getattr(config, "intermediate_size", None) or 4 * hidden,
            vocab_size=config.vocab_size,
            largest_layer=max(p.numel() for p in model.parameters()),
        )


def meta_model(target: TargetConfig) -> Any:
    """Build the target, including adapters, on the meta device; only small JSON files are downloaded, no weights.

    Raises:
        ModelError: the config or the tokenizer cannot be loaded.
    """
    import torch

    from s2l_ray.lm.adapters import add_adapters
    from s2l_ray.lm.checks import meta_model as without_adapters
    from s2l_ray.lm.load import load_model_config, load_tokenizer
    from s2l_ray.lm.vocabulary import num_token_ids

    vocab = target.train_tokenizer.vocab_size if target.train_tokenizer else None
    if target.from_config is not None and vocab is None:
        vocab = num_token_ids(load_tokenizer(target))
    model = without_adapters(load_model_config(target, vocab_size=vocab), target)
    if target.lora is not None:
        with torch.device("meta"):
            add_adapters(model, target.lora, 0)
    return model


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one worker, in bytes by purpose."""

    device: dict[str, float]
    """Memory on the worker's GPU or, on CPUs, in its process."""
    host: dict[str, float]
    """Memory of its node used by offload; on CPUs, everything counts as `device`."""

    @property
    def device_bytes(self) -> float:
        return sum(self.device.values())

    @property
    def host_bytes(self) -> float:
        return sum(self.host.values())

    def describe(self) -> str:
        """Describe the estimate, largest part first: `13.2 GB per worker (optimiser 8.1, weights 4.0, …)`."""
        parts = sorted(self.device.items(), key=lambda i: -i[1])
        listed = ", ".join(f"{name} {size / _GB:.1f}" for name, size in parts if size >= 0.05 * _GB)
        host = f" + {self.host_bytes / _GB:.1f} GB of its node's memory" if self.host else ""
        return f"{self.device_bytes / _GB:.1f} GB per worker ({listed}){host}"

    def plain(self) -> dict[str, Any]:
        return {"device_bytes": self.device_bytes, "host_bytes": self.host_bytes, "device": self.device,
                "host": self.host}  # fmt: skip


def estimate_memory(
    sizes: ModelSizes, target: TargetConfig, stage: int, num_workers: int, precision: str, on_gpu: bool
) -> MemoryEstimate:
    """Estimate the memory of one of `num_workers` workers under ZeRO `stage` (0: PyTorch without DeepSpeed)."""
    all_parameters, trained = sizes.num_parameters, sizes.num_trained
    shard = 1 / num_workers
    device: dict[str, float] = {"process": _PROCESS_BYTES}
    host: dict[str, float] = {}
    if stage == 0:
        # With bf16 weights, the optimiser has fp32 copies of those that are trained.
        low = precision == "bf16"
        device |= {"weights": (2 if low else 4) * all_parameters, "gradients": 4 * trained}
        device["optimiser"] = (12 if low else 8) * trained
    else:
        width = 2 if precision == "bf16" else 4
        optimiser = {"optimiser": 12 * trained * shard}  # fp32 weights and both moments
        weights = {"weights": width * all_parameters * (shard if stage == 3 else 1)}
        gradients = _gradient_width(target) * trained * (1 if stage == 1 else shard)
        # With an offloaded optimiser, ZeRO-3 adds up micro-batches in the node's memory, whatever goes to NVMe.
        (host if stage == 3 and target.offload_optimizer != "none" else device)["gradients"] = gradients
        device["buckets"] = 2 * width * min(_BUCKET_ELEMENTS, trained)
        if stage == 3:
            device["gathered weights"] = width * min(max(_MAX_LIVE_PARAMETERS, 2 * sizes.largest_layer), all_parameters)
        if target.offload_optimizer != "none" and (stage < 3 or _gradient_width(target) < 4):
            optimiser["gradients beside it"] = 4 * trained * shard  # DeepSpeed's second copy; see zero.py
        (device if target.offload_optimizer == "none" else host).update(optimiser)
        (device if target.offload_parameters == "none" else host).update(weights)
        for place, names in ((target.offload_optimizer, optimiser), (target.offload_parameters, weights)):
            if place == "nvme":
                for name in names:
                    host[name] *= 0.1  # the part in memory on its way to and from the disk
    device["activations"] = _activation_bytes(sizes, target, precision, on_gpu)
    return MemoryEstimate(device, host) if on_gpu else MemoryEstimate({**device, **host}, {})


def _gradient_width(target: TargetConfig) -> int:
    """Return the bytes of a gradient: micro-batches add up in fp32, unless the user's DeepSpeed file says bf16."""
    user = {} if target.deepspeed_config is None else read_user_config(target.deepspeed_config)
    return 2 if user.get("data_types", {}).get("grad_accum_dtype") in ("bf16", "bfloat16") else 4


def _activation_bytes(sizes: ModelSizes, target: TargetConfig, precision: str, on_gpu: bool) -> float:
    width = 2 if precision == "bf16" else 4
    tokens, hidden = max(target.tokens_per_microbatch, target.max_length), sizes.hidden_size
    if sizes.activations is not None:
        layers = sizes.activations.of(tokens, sizes.num_layers, target.gradient_checkpointing)
    else:
        # In 16 bits, 34 bytes per hidden unit, of which 19 are the MLP's at four times the width.
        layer = width / 2 * tokens * (15 * hidden + 19 / 4 * sizes.intermediate_size)
        layers = sizes.num_layers * (width * tokens * hidden) + layer if target.gradient_checkpointing else (
            sizes.num_layers * layer
        )  # fmt: skip
    # A chunk's logits, rounded up to fp32, and their gradient.
    logits = 3 * 4 * min(CHUNK_ELEMENTS["cuda" if on_gpu else "cpu"], tokens * sizes.vocab_size)
    # The head's gradient, which is added up over chunks in fp32 between its forward and backward pass.
    head = 4 * sizes.vocab_size * hidden if target.lora is None else 0
    return layers + logits + head
