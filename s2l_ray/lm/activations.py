"""What a micro-batch needs in memory beside the weights, counted on a model without any: a training pass of two small
depths runs on the meta device, where tensors have shapes and no content, and every storage is counted while it lives.

Activations are proportional to the tokens of a micro-batch and, past the first layers, to the number of layers; so two
depths give what a layer takes and what the rest does. The head and its loss, which go over the tokens in chunks, are
not in it (`lm.memory`).
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
"""Of the micro-batch that is counted; what does not grow with it (a rotary table) is small beside what does."""
_DEPTHS = (2, 4)
"""Layers of two kinds in turn (full and sliding attention) are half of each."""


@dataclass(frozen=True)
class ActivationCosts:
    """Bytes for each token of a micro-batch at the peak of a training pass."""

    layer: float
    rest: float
    checkpointed_layer: float
    """With gradient checkpointing: of a layer that is not being computed again."""
    checkpointed_rest: float
    """What is computed again included."""

    def of(self, tokens: int, num_layers: int, checkpointing: bool) -> float:
        layer, rest = (self.checkpointed_layer, self.checkpointed_rest) if checkpointing else (self.layer, self.rest)
        return tokens * (rest + num_layers * layer)


def count_activations(model: Any, dtype: torch.dtype, on_gpu: bool, longest: int) -> ActivationCosts | None:
    """Of training the model, without its head; None: it cannot be run without content (experts that are chosen by their
    input), or has no depth.

    Args:
        model: on the meta device, adapters included; it is not changed.
        dtype: of its weights while it trains.
        on_gpu: attention is the fused kernel of GPUs, else a call for each sequence.
        longest: tokens of a sequence.
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
    # What an architecture asks of a tensor without content, or of a config that counts other layers.
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        _log.info("activations of %s are estimated, as they cannot be counted: %r", type(model).__name__, error)
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
    """A copy with so many of its layers; the others are not copied."""
    count = model.config.get_text_config().num_hidden_layers
    [layers] = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == count]
    copied: dict[int, Any] = {}  # of all at once: layers and model share their config
    copied[id(layers)] = torch.nn.ModuleList(copy.deepcopy(layer, copied) for layer in layers[:depth])
    small = copy.deepcopy(model, copied)
    small.config.get_text_config().num_hidden_layers = depth
    return small


def _forget_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _give_counted_attention(model: Any, on_gpu: bool, longest: int) -> None:
    from transformers import AttentionInterface

    if not getattr(model, "_supports_attention_backend", False):
        raise NotImplementedError("attention of its own")
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
    if dropout:  # which no kernel fuses here: every sequence keeps its matrix
        by_sequence = zip(*(each.split(longest, 2) for each in (query, key, value)), strict=True)
        found = [F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True) for q, k, v in by_sequence]
        return torch.cat(found, dim=2).transpose(1, 2), None
    # What the sequences give is joined, which is another copy.
    return _Attention.apply(query, key, value).clone().transpose(1, 2), None


class _Attention(torch.autograd.Function):
    """What a fused kernel keeps: its inputs, its output, and the normaliser of every row."""

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
    """Counts the bytes of all tensors that are made while it is on, as long as each lives."""

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
