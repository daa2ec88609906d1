"""Packed rows: sequences one after another in one row, each attending only to itself, without padding.

One attention function serves every architecture that dispatches through the attention interface of `transformers`
(https://huggingface.co/docs/transformers/attention_interface). On GPUs it is PyTorch's variable-length flash attention,
on CPUs a call of scaled_dot_product_attention for each sequence. `choose_batching` compares it, for the model at hand,
with sequences computed separately, and falls back to padding if it is not exact.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s2l_ray.data.token_examples import Examples
from s2l_ray.errors import InternalError, S2LError, first_line, listed
from s2l_ray.lm.after_head import UnsupportedModel, find_after_head
from s2l_ray.lm.batches import LENGTHS, Batching
from s2l_ray.lm.response_loss import ResponseLoss, body_of

_NAME = "s2l_packed"
_GPU_MULTIPLE = 64
"""Multiple of tokens to which packed rows are filled up on a GPU, to suit its matrix units."""
_CPU_PASS_COST, _GPU_PASS_COST = 512, 8192
"""Cost of a pass over padded sequences in addition to its tokens (tokens): an H100 trains this many in the time in
which the host launches the kernels of a small model's pass."""
_MAX_FLASH_HEAD = 256
"""Flash attention's largest head dimension."""
_ELSEWHERE = "another worker cannot"
_ENVIRONMENT = re.compile(r"alloc|memory|connection|peer|gloo|nccl|timed out", re.IGNORECASE)
"""Messages of errors that are not the model's fault (memory, lost workers) and have no class in PyTorch."""


class _CannotPack(InternalError):
    """Error if the attention function does not support what the model requires; sequences are then padded."""


def choose_batching(
    model: Any,
    loss: ResponseLoss,
    *,
    pad_id: int,
    device: torch.device,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    agree: Callable[[bool], bool] = bool,
    pack: bool = True,
) -> Batching:
    """Verify the loss for the model at hand, and choose its batching. Leaves the model in evaluation mode.

    Args:
        loss: the engine's loss module with the same model, because with ZeRO-3 only that can fetch the weights.
        agree: returns whether all workers say yes; sharded models must be called alike on all workers.
        pack: False keeps the model's own attention, with padded sequences.

    Raises:
        UnsupportedModel: the loss differs from the model's own, padded or packed, or is not finite.
    """
    model.eval()  # new models are in training mode, in which two passes would differ by dropout
    examples = _probe(model.get_input_embeddings().num_embeddings)
    with torch.no_grad(), autocast():
        ids = torch.from_numpy(examples.tokens[: examples.offsets[1]].astype(np.int64)).to(device)[None]
        with _own_failure_named(model):
            hidden, own = _alone(model, examples, device)
            _refuse_not_finite(model, own)
            loss.head_loss.after = find_after_head(model, ids, 2e-2 if _is_bf16(model, device) else 1e-4)
        packed = Batching(True, pad_id, _GPU_MULTIPLE if device.type == "cuda" else 1)
        reason = _obstacle(model, device) if pack else "packing is turned off"
        if not agree(not reason):
            reason = reason or _ELSEWHERE
        else:
            take_back = _give_packed_attention(model)
            reason = _fault(model, loss, packed, examples, hidden, device)
            if not agree(not reason):
                take_back()
                reason = reason or _ELSEWHERE
        batching = packed
        if reason:
            pass_cost = _GPU_PASS_COST if device.type == "cuda" else _CPU_PASS_COST
            batching = Batching(False, pad_id, pass_cost=pass_cost, reason=reason)
        gap = _gap(loss, batching, examples, own, device)
        # In bf16, both are rounded.
        allowed = max(1e-3, 2e-2 * own.abs().max().item()) if _is_bf16(model, device) else 1e-3
    if not gap <= allowed:
        raise UnsupportedModel(
            f"{type(model).__name__}: the loss from the response-only head differs from the model's own by {gap:.2g} "
            "nats, so its trajectories would be wrong; this architecture transforms its states before the head in a "
            "way that s2l_ray does not support. Choose another model (GPT-NeoX, Llama, Qwen, Gemma, OLMo and many more "
            "work)"
        )
    return batching


@contextlib.contextmanager
def _own_failure_named(model: Any) -> Iterator[None]:
    """Raise UnsupportedModel instead of the error of a model that cannot read a few tokens; retrying does not help."""
    try:
        yield
    except S2LError:
        raise
    except (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and (type(error) is not RuntimeError or _ENVIRONMENT.search(str(error))):
            raise
        raise UnsupportedModel(
            f"{type(model).__name__} cannot compute the losses of a few tokens ({type(error).__name__}: "
            f"{first_line(error)}); sizes in its config do not fit together, or it needs more than token ids. Correct "
            "the config, or choose another model (GPT-NeoX, Llama, Qwen, Gemma, OLMo and many more work)"
        ) from error


def _refuse_not_finite(model: Any, losses: Tensor) -> None:
    """Raise UnsupportedModel, on all workers alike, if losses are not finite and cannot be compared."""
    if bool(losses.isfinite().all()):
        return
    wrong = [name for name, weights in model.named_parameters() if not bool(weights.isfinite().all())]
    why = f" ({', '.join(listed(wrong, 4))})" if wrong else ", or it overflows"
    raise UnsupportedModel(
        f"{type(model).__name__}: the losses of a few tokens are not finite, because its weights are not{why}. The "
        "training that produced them diverged, or their file is damaged; give other weights or, if these are intact, "
        "set precision=fp32"
    )


def _probe(vocab_size: int) -> Examples:
    """Return three sequences with equal beginnings, so that wrong positions or attention show in the states."""
    lengths = np.array([5, 11, 8])
    tokens = np.concatenate([np.arange(2, 2 + n) for n in lengths]) % vocab_size
    tokens[5:16] = tokens[5:16][::-1]
    mask = np.ones(len(tokens), dtype=bool)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Examples(np.zeros((3, 2), np.uint64), tokens.astype(np.int32), mask, offsets)


def _alone(model: Any, examples: Examples, device: torch.device) -> tuple[Tensor, Tensor]:
    """Run the model on each sequence separately: last hidden states (T, H), and losses of all but the first tokens."""
    hidden, losses = [], []
    for start, end in zip(examples.offsets[:-1], examples.offsets[1:], strict=True):
        ids = torch.from_numpy(examples.tokens[start:end].astype(np.int64)).to(device)[None]
        output = model(input_ids=ids, use_cache=False)
        losses.append(F.cross_entropy(output.logits[0, :-1].float(), ids[0, 1:], reduction="none"))
        hidden.append(body_of(model)(input_ids=ids, use_cache=False).last_hidden_state[0].float())
    return torch.cat(hidden), torch.cat(losses)


def _gap(loss: ResponseLoss, batching: Batching, examples: Examples, own: Tensor, device: torch.device) -> float:
    """Return the largest difference from the model's own losses (nats)."""
    batch = batching.batch(examples, np.arange(len(examples))).to(device)
    order = torch.argsort(batch.example_of_token, stable=True)
    return float((loss(batch)[1][order] - own).abs().max())


def _obstacle(model: Any, device: torch.device) -> str:
    """Return why packing need not be tried; "" if there is no known reason."""
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} does not dispatch through the attention interface of transformers"
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"{type(model).__name__} has other kinds of layers ({', '.join(sorted(kinds))})"
    if device.type == "cuda" and _varlen() is None:
        return f"PyTorch {torch.__version__} has no variable-length attention (2.10 and later have it)"
    return ""


def _fault(
    model: Any, loss: ResponseLoss, batching: Batching, examples: Examples, alone: Tensor, device: torch.device
) -> str:
    """Return what is wrong with the packed states; "" if they equal those of separate sequences."""
    batch = batching.batch(examples, np.arange(len(examples))).to(device)
    try:
        model.train()  # what attention does only in training (dropout) must be supported, too
        loss.states(batch)
        model.eval()
        states = loss.states(batch)[0, : len(alone)].float()
    except (_CannotPack, TypeError, ValueError, RuntimeError) as error:
        return f"{type(model).__name__}: {error}"
    finally:
        model.eval()
    gap = float((states - alone).norm() / alone.norm())
    # Attention to a neighbour changes the states by a tenth or more; smaller differences are rounding.
    if not gap <= (5e-2 if _is_bf16(model, device) else 1e-4):
        return f"{type(model).__name__}: its states differ by {gap:.1g} when sequences share a row"
    return ""


def _is_bf16(model: Any, device: torch.device) -> bool:
    return model.dtype == torch.bfloat16 or torch.is_autocast_enabled(device.type)


def _give_packed_attention(model: Any) -> Callable[[], None]:
    """Make the model use `packed_attention`, and return a function that undoes this."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, packed_attention)
    before = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    return lambda: model.set_attn_implementation("sdpa" if before == _NAME else before)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention within each sequence of a packed row, with the signature that `transformers` expects.

    Args:
        query: (1, heads, T, head dimension).
        key, value: (1, key heads, T, head dimension); if there are fewer heads, groups of query heads share them.
        cu_seq_lens_q: (S + 1,) int32, where the sequences begin.

    Returns:
        (1, T, heads, head dimension).
    """
    if s_aux is not None:
        raise _CannotPack("attention sinks")
    if cu_seq_lens_q is None:  # in the model's own forward pass, every row is one sequence
        if key.shape[2] != query.shape[2]:
            raise _CannotPack("generation with a cache")
        return _by_sequence(query, key, value, scaling, dropout, sliding_window, softcap, (query.shape[2],)), None
    if query.is_cuda:
        if softcap is not None:
            raise _CannotPack("capped attention scores on a GPU")
        assert max_length_q is not None
        return _on_gpu(query, key, value, scaling, dropout, sliding_window, cu_seq_lens_q, max_length_q), None
    return _by_sequence(query, key, value, scaling, dropout, sliding_window, softcap, arguments[LENGTHS]), None


@functools.cache
def leave_uncompiled() -> None:
    """Exclude the loop over sequences from compilation, because its lengths are never the same twice.

    As a decorator, this would import the compiler, a third of the imports of a process that only scores.
    """
    global _by_sequence
    _by_sequence = torch.compiler.disable(_by_sequence)


def _varlen() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size"} <= set(inspect.signature(varlen_attn).parameters) else None


def _on_gpu(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, window: int | None,
    bounds: Tensor, longest: int,
) -> Tensor:  # fmt: skip
    from torch.nn.attention.varlen import varlen_attn

    if dropout:
        raise _CannotPack(f"attention dropout of {dropout:g} on a GPU")
    if query.shape[-1] > _MAX_FLASH_HEAD or value.shape[-1] != query.shape[-1]:
        raise _CannotPack(f"heads with {query.shape[-1]} and {value.shape[-1]} values")
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else value.dtype
    if dtype not in (torch.bfloat16, torch.float16):
        raise _CannotPack("fp32 on a GPU")
    q, k, v = (t[0].transpose(0, 1).to(dtype) for t in (query, key, value))  # (T, heads, head dimension)
    shared: dict[str, Any] = {}
    if k.shape[1] != q.shape[1]:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            shared = {"enable_gqa": True}
        else:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    # A window of W tokens is the token itself and W - 1 before it.
    reach = -1 if window is None else window - 1
    found = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(reach, 0), **shared)
    assert isinstance(found, Tensor)
    return found[None]


def _by_sequence(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, window: int | None,
    softcap: float | None, lengths: tuple[int, ...],
) -> Tensor:  # fmt: skip
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    sizes = list(lengths)
    found: list[Tensor] = []
    for q, k, v in zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True):
        mask = _window_mask(q.shape[2], window, q.device)
        if softcap is not None:
            found.append(_capped(q, k, v, scaling, dropout, softcap, mask))
        else:
            found.append(
                F.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
                )
            )
    return torch.cat(found, dim=2).transpose(1, 2)


def _window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Return (L, L) bool, True where a token attends; None: to all tokens before it."""
    if window is None or length <= window:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril() & ones.triu(1 - window)


def _capped(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, dropout: float, cap: float, mask: Tensor | None
) -> Tensor:
    """Compute attention with smoothly capped scores, as in Gemma 2 (https://arxiv.org/abs/2408.00118, section 2)."""
    length = query.shape[2]
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.tanh(query @ key.transpose(-1, -2) * (scale / cap)) * cap
    weights = scores.float().masked_fill(~mask, -torch.inf).softmax(-1).to(query.dtype)
    return F.dropout(weights, dropout, training=dropout > 0) @ value
