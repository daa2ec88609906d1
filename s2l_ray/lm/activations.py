"""Count the activation memory of a micro-batch on a model without weights.

A training pass runs on the meta device, where tensors have shapes but no content, and every storage is counted while it
is alive. Activations are proportional to the tokens of a micro-batch and, after the first layers, to the number of
layers; so passes through models of two small depths give the memory of one layer and that of the rest. The head and its
loss, which process the tokens in chunks, are not included (see `lm.memory`).
"""

from __future__ import annotations

import copy
import functools
import logging
import weakref
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from s2l_ray.lm.load import fuse_activations
from s2l_ray.lm.response_loss import body_of

_log = logging.getLogger(__name__)

_NAME = "s2l_counted"
_TOKENS = 2048
"""Tokens of the counted micro-batch; what does not grow with it (a rotary table) is small in comparison."""
_DEPTHS = (2, 4)
"""Depths of the two models; both even, so that of two alternating kinds of layers (full and sliding attention) each has
half."""


@dataclass(frozen=True)
class ActivationCosts:
    """Activation memory at the peak of a training pass, in bytes per token of a micro-batch."""

    layer: float
    rest: float
    checkpointed_layer: float
    """With gradient checkpointing, for a layer that is not being recomputed."""
    checkpointed_rest: float
    """With gradient checkpointing, including the layer that is being recomputed."""

    def of(self, tokens: int, num_layers: int, checkpointing: bool) -> float:
        layer, rest = (self.checkpointed_layer, self.checkpointed_rest) if checkpointing else (self.layer, self.rest)
        return tokens * (rest + num_layers * layer)


def count_activations(model: Any, dtype: torch.dtype, on_gpu: bool, longest: int) -> ActivationCosts | None:
    """Count the activations of training the model without its head.

    Args:
        model: the model on the meta device, including adapters; it is not changed.
        dtype: data type of the weights during training.
        on_gpu: whether attention is the fused kernel of GPUs, or a call for each sequence.
        longest: tokens of a sequence.

    Returns:
        None if the model cannot be run without content (experts chosen by their input), or has no depth.
    """
    found = {}
    try:
        count = model.config.get_text_config().num_hidden_layers
        few, many = (min(depth, count) for depth in _DEPTHS)
        for checkpointing in (False, True):
            less, more = (
                _peak_bytes(model, depth, dtype, on_gpu, longest, checkpointing) / _TOKENS for depth in (few, many)
            )
            layer = (more - less) / max(1, many - few)
            found[checkpointing] = (layer, less - few * layer)
    # Raised by architectures that read tensors' content, or whose config counts other layers.
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        _log.info("activations of %s are estimated because they cannot be counted: %r", type(model).__name__, error)
        return None
    return ActivationCosts(*found[False], *found[True])


def _peak_bytes(model: Any, depth: int, dtype: torch.dtype, on_gpu: bool, longest: int, checkpointing: bool) -> int:
    small = _cut(model, depth).to(dtype).train()
    fuse_activations(small)
    _give_counted_attention(small, on_gpu, longest)
    if checkpointing:
        small.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for parameter in small.parameters():
        if parameter.requires_grad:  # gradients are counted with the model's states
            parameter.register_post_accumulate_grad_hook(_forget_gradient)
    ids = torch.zeros(1, _TOKENS, dtype=torch.int64, device="meta")
    with LiveBytes() as live:
        hidden = body_of(small)(input_ids=ids, position_ids=ids, use_cache=False).last_hidden_state
        hidden.backward(torch.empty_like(hidden))
    return live.peak


def _cut(model: Any, depth: int) -> Any:
    """Copy the model with only its first `depth` layers."""
    count = model.config.get_text_config().num_hidden_layers
    [layers] = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == count]
    copied: dict[int, Any] = {}  # shared memo, because layers and model share their config
    copied[id(layers)] = torch.nn.ModuleList(copy.deepcopy(layer, copied) for layer in layers[:depth])
    small = copy.deepcopy(model, copied)
    small.config.get_text_config().num_hidden_layers = depth
    return small


def _forget_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _give_counted_attention(model: Any, on_gpu: bool, longest: int) -> None:
    from transformers import AttentionInterface

    if not getattr(model, "_supports_attention_backend", False):
        raise NotImplementedError("it has its own attention")
    on_cpu = functools.partial(_attention_on_cpu, longest=longest)
    AttentionInterface.register(_NAME, _attention_on_gpu if on_gpu else on_cpu)
    model.set_attn_implementation(_NAME)


def _attention_on_gpu(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    return _Attention.apply(query, key, value).transpose(1, 2), None


def _attention_on_cpu(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, longest: int, dropout: float = 0.0, **__: Any
) -> tuple[Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
    if dropout:  # not fused by any kernel on CPUs: every sequence keeps its matrix
        by_sequence = zip(*(each.split(longest, 2) for each in (query, key, value)), strict=True)
        found = [F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True) for q, k, v in by_sequence]
        return torch.cat(found, dim=2).transpose(1, 2), None
    # The outputs of the sequences are concatenated, which makes another copy.
    return _Attention.apply(query, key, value).clone().transpose(1, 2), None


class _Attention(torch.autograd.Function):
    """Stand-in for a fused kernel, which keeps its inputs, its output, and the normaliser of every row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        normaliser = query.new_empty(query.shape[:3], dtype=torch.float32)
        output = query.new_empty((*query.shape[:3], value.shape[3]))
        ctx.save_for_backward(query, key, value, output, normaliser)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class LiveBytes(TorchDispatchMode):
    """Mode that counts the bytes of all tensors created in it for as long as they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._outside: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._known:
                self._outside.add(tensor.untyped_storage()._cdata)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known or key in self._outside:
            return
        self._known[key] = storage
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self.live -= size
