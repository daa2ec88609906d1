"""Count the activation memory of a micro-batch on a model without weights.

A training pass runs on the meta device, where tensors have shapes but no content, and every storage is counted while it
is alive. Activations are proportional to the tokens of a micro-batch and, after the first layers, to the number of
layers; so passes through models of two small depths give the memory of one layer and that of the rest. The head and its
loss, which process the tokens in chunks, are not included (see `lm.memory`).

Compiled layers keep less, because cheap operations are repeated in the backward pass. Which ones is decided by the
compiler's partitioner, which works on the meta device as well; no kernels are generated.
"""

from __future__ import annotations

import copy
import functools
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from s2l_ray.lm.load import compile_each_layer, fuse_activations
from s2l_ray.lm.response_loss import body_of

_log = logging.getLogger(__name__)

_NAME = "s2l_counted"
_TOKENS = 2048
"""Tokens of the counted micro-batch; what does not grow with it (a rotary table) is small in comparison."""
_UNCOUNTABLE = (
    AssertionError, AttributeError, ImportError, IndexError, KeyError, RuntimeError, TypeError, ValueError
)  # fmt: skip
"""Raised by architectures that read tensors' content, or whose config counts other layers, and by the compiler."""
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


def count_activations(
    model: Any, dtype: torch.dtype, on_gpu: bool, longest: int, compiled: bool = False
) -> ActivationCosts | None:
    """Count the activations of training the model without its head.

    Args:
        model: the model on the meta device, including adapters; it is not changed.
        dtype: data type of the weights during training.
        on_gpu: whether attention is the fused kernel of GPUs, or a call for each sequence.
        longest: tokens of a sequence.
        compiled: whether layers are compiled. This reduces what they keep for the backward pass without checkpointing
            on GPUs; everything else is counted as if it were not compiled, and is at most that. (On CPUs, attention
            divides the graphs of layers.)

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
    except _UNCOUNTABLE as error:
        _log.info("activations of %s are estimated because they cannot be counted: %r", type(model).__name__, error)
        return None
    costs = ActivationCosts(*found[False], *found[True])
    if not (compiled and on_gpu and few < many):
        return costs
    try:
        less, more = (_bytes_kept_compiled(model, depth, dtype) / _TOKENS for depth in (few, many))
    # Layers that the compiler cannot compile run as they are, and are counted above.
    except _UNCOUNTABLE as error:
        _log.info("compiled layers of %s cannot be counted: %r", type(model).__name__, error)
        return costs
    return replace(costs, layer=min(costs.layer, (more - less) / (many - few)))


def _peak_bytes(model: Any, depth: int, dtype: torch.dtype, on_gpu: bool, longest: int, checkpointing: bool) -> int:
    attention = _attention_on_gpu if on_gpu else functools.partial(_attention_on_cpu, longest=longest)
    small = _cut_for_training(model, depth, dtype, attention)
    if checkpointing:
        small.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for parameter in small.parameters():
        if parameter.requires_grad:  # gradients are counted with the model's states
            parameter.register_post_accumulate_grad_hook(_forget_gradient)
    with LiveBytes() as live:
        hidden = _hidden_states(small)
        hidden.backward(torch.empty_like(hidden))
    return live.peak


def _bytes_kept_compiled(model: Any, depth: int, dtype: torch.dtype) -> int:
    """Count what a pass through compiled layers keeps for the backward pass (in `LiveBytes`, nothing is compiled)."""
    small = _cut_for_training(model, depth, dtype, _opaque_attention_on_gpu())
    compile_each_layer(small, _partitioner())
    weights = {each.untyped_storage()._cdata for each in small.parameters()}
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no storage takes the address of another

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _hidden_states(small)
    return sum(each.untyped_storage().nbytes() for key, each in kept.items() if key not in weights)


@functools.cache
def _partitioner() -> Any:
    """Return a backend of torch.compile that does what inductor does before it generates kernels."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    return aot_autograd(
        fw_compiler=_run_as_it_is,
        bw_compiler=_run_as_it_is,
        decompositions=select_decomp_table(),
        partition_fn=functools.partial(min_cut_rematerialization_partition, compiler="inductor"),
    )


def _run_as_it_is(graph: Any, _: Any) -> Any:
    from torch._functorch.aot_autograd import make_boxed_func

    return make_boxed_func(graph)


def _hidden_states(model: Any) -> Tensor:
    ids = torch.zeros(1, _TOKENS, dtype=torch.int64, device="meta")
    states: Tensor = body_of(model)(input_ids=ids, position_ids=ids, use_cache=False).last_hidden_state
    return states


def _cut_for_training(model: Any, depth: int, dtype: torch.dtype, attention: Callable[..., Any]) -> Any:
    from transformers import AttentionInterface

    small = _cut(model, depth).to(dtype).train()
    fuse_activations(small)
    if not getattr(small, "_supports_attention_backend", False):
        raise NotImplementedError("it has its own attention")
    AttentionInterface.register(_NAME, attention)
    small.set_attn_implementation(_NAME)
    return small


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
    found = _Attention.apply(query, key, value).clone(memory_format=torch.contiguous_format)
    return found.transpose(1, 2), None


class _Attention(torch.autograd.Function):
    """Stand-in for a fused kernel, which keeps its inputs, its output, and the normaliser of every row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output, normaliser = _output_and_normaliser(query, key, value)
        ctx.save_for_backward(query, key, value, output, normaliser)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _output_and_normaliser(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    batch, heads, length, _ = query.shape
    # The tokens' heads lie side by side, as the output projection needs them.
    output = query.new_empty((batch, length, heads, value.shape[3])).transpose(1, 2)
    return output, query.new_empty((batch, heads, length), dtype=torch.float32)


@functools.cache
def _opaque_attention_on_gpu() -> Callable[..., Any]:
    """Return `_attention_on_gpu` with an operator that the compiler does not look into, as fused kernels are."""
    attention = torch.library.custom_op(f"s2l_ray::{_NAME}_attention", _no_kernel, mutates_args=(), schema=(
        "(Tensor query, Tensor key, Tensor value) -> (Tensor, Tensor)"))  # fmt: skip
    backward = torch.library.custom_op(f"s2l_ray::{_NAME}_attention_backward", _no_kernel, mutates_args=(), schema=(
        "(Tensor gradient, Tensor query, Tensor key, Tensor value, Tensor output, Tensor normaliser) "
        "-> (Tensor, Tensor, Tensor)"))  # fmt: skip

    def keep(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs, *output)

    attention.register_fake(_output_and_normaliser)
    backward.register_fake(lambda gradient, *kept: tuple(torch.empty_like(each) for each in kept[:3]))
    attention.register_autograd(lambda ctx, gradient, _: backward(gradient, *ctx.saved_tensors), setup_context=keep)
    return lambda _, query, key, value, *_args, **_named: (attention(query, key, value)[0].transpose(1, 2), None)


def _no_kernel(*_: Tensor) -> Any:
    raise NotImplementedError("only shapes are computed")


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
