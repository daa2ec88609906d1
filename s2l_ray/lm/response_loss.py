"""Negative log-likelihood of response tokens, with the language-model head applied only to these and in chunks.

Only positions before a response token reach the head, so logits of all positions never exist. Chunks prevent the
remaining (R, V) logits from becoming the largest tensor if the vocabulary is large. In training, a chunk's gradients
are computed while its logits exist, so that logits are neither kept for the backward pass nor computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from s2l_ray.lm.after_head import AfterHead
from s2l_ray.lm.batches import Batch

CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**28}
"""Logits that exist at once (elements), by device: on CPUs 64 MB in fp32, a compromise between caches and the rows of
matrix products (machines differ); on GPUs 512 MB in bf16, so that matrix products are large."""

TokenLosses = tuple[Tensor, Tensor, Tensor | None]
"""Sum of the losses with gradients, weighted if tokens have weights; nll_nats (R,) float32, without gradients; and, if
requested, hits (R,) bool: whether the token is the model's top prediction."""


@dataclass(frozen=True)
class TokenScores:
    """Scores of R response tokens."""

    nll: Tensor
    """(R,) float32, negative log-likelihoods in nats."""
    hits: Tensor
    """(R,) bool: whether the token is the model's top prediction."""
    el2n: Tensor
    """(R,) float32: norm of the probabilities minus the one-hot token (https://arxiv.org/abs/2107.07075), 0 to √2."""


def body_of(model: Any) -> Any:
    """Return the part of a causal language model that computes the states for its head."""
    body = model.base_model
    return model.model if body is model and hasattr(model, "model") else body  # Llama 4 uses another name for its body


class ResponseLoss(nn.Module):
    """Module that maps a batch to the losses of its response tokens.

    It wraps a causal LM of `transformers`, and DDP and DeepSpeed wrap it. It works for architectures whose logits are
    `get_output_embeddings()` of the base model's last hidden state, scaled or capped in a way that `lm.after_head`
    supports; `lm.packing.choose_batching` verifies this for each model before anything is trained.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.head_loss = HeadLoss(model.get_output_embeddings())

    def forward(self, batch: Batch, want_top1: bool = False) -> TokenLosses:
        states = self.states(batch)
        hidden = states.reshape(-1, states.shape[-1])[batch.positions]
        return self.head_loss(hidden, batch.targets, want_top1, batch.token_weights)

    def score(self, batch: Batch) -> TokenScores:
        """Score every response token of a batch, without gradients; only for models that are not sharded."""
        states = self.states(batch)
        return self.head_loss.score(states.reshape(-1, states.shape[-1])[batch.positions], batch.targets)

    def states(self, batch: Batch) -> Tensor:
        """Compute the last hidden states, (B, L, H), or (1, T, H) if the sequences are packed."""
        where = {} if batch.sequences is None else batch.sequences.arguments()
        return body_of(self.model)(input_ids=batch.input_ids, use_cache=False, **where).last_hidden_state


class HeadLoss(nn.Module):
    """Head H → V and loss, in chunks of at most CHUNK_ELEMENTS logits.

    This is a separate module so that sharded weights (ZeRO-3) are fetched once for all chunks: fetching is a collective
    operation, and workers have different numbers of chunks.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple, so that the parameters are not registered a second time
        self.after = AfterHead()
        """Transformation that the model applies to its logits after the head."""
        self._kernels = _Kernels(_nll, _nll_and_gradient, _nll_and_error)

    @property
    def head(self) -> nn.Module:
        return self._head[0]

    def fuse(self) -> None:
        """Compile the operations on a chunk's logits, so that they are read once instead of five times."""
        kernels = (_nll, _nll_and_gradient, _nll_and_error)
        self._kernels = _Kernels(*(torch.compile(kernel, dynamic=True) for kernel in kernels))

    @torch.no_grad()
    def score(self, hidden: Tensor, targets: Tensor) -> TokenScores:
        """Score response tokens, given hidden states (R, H) and targets (R,)."""
        empty = hidden.new_zeros(0, dtype=torch.float32)
        nll, hits, error = [empty], [empty.bool()], [empty]
        for logits, chosen in self._chunks(hidden, targets):
            first = logits.argmax(-1)
            hits.append(first == chosen)
            of_chunk, of_error = self._kernels.error(logits, chosen, first, self.after)
            nll.append(of_chunk)
            error.append(of_error)
        return TokenScores(torch.cat(nll), torch.cat(hits), torch.cat(error))

    def errors(self, hidden: Tensor, targets: Tensor) -> Iterator[Tensor]:
        """Yield gradients of the tokens' losses with respect to the head's output, (C, V) float32 in chunks."""
        for given, chosen in self._chunks(hidden, targets):
            yield _nll_and_gradient(given.float(), chosen, self.after)[1]

    def _how(self, hidden: Tensor) -> tuple[Tensor, Tensor | None, torch.dtype, int]:
        """Return the head's weight (V, H) and bias (V,), the data type of its product, and the rows of a chunk."""
        weight, bias = self.head.weight, getattr(self.head, "bias", None)
        assert isinstance(weight, Tensor)
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        return weight, bias, dtype, max(1, CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS["cuda"]) // weight.shape[0])

    def _chunks(self, hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (output of the head (C, V), targets (C,)), without gradients."""
        weight, bias, dtype, rows = self._how(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            narrow, low, offset = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
            for start in range(0, len(targets), rows):
                yield F.linear(narrow[start : start + rows], low, offset), targets[start : start + rows]

    def forward(
        self, hidden: Tensor, targets: Tensor, want_top1: bool = False, weights: Tensor | None = None
    ) -> TokenLosses:
        """Compute the losses, given hidden states (R, H), targets (R,) and optionally token weights (R,) float32."""
        weight, bias, dtype, rows = self._how(hidden)
        if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
            how = (rows, dtype, self._kernels, self.after)
            total, nll = _LossWithGradients.apply(hidden, weight, bias, targets, weights, *how)
            return total, nll, None
        nll, hits = [], []
        for logits, chosen in self._chunks(hidden, targets):
            nll.append(self._kernels.nll(logits, chosen, self.after))
            if want_top1:
                hits.append(logits.argmax(-1) == chosen)
        empty = hidden.new_zeros(0, dtype=torch.float32)
        losses = torch.cat(nll) if nll else empty
        total = losses.sum() if weights is None else (losses * weights).sum()
        return total, losses, (torch.cat(hits) if hits else empty.bool()) if want_top1 else None


class _Kernels:
    """Operations on a chunk's logits, compiled or not."""

    def __init__(self, nll: Callable[..., Any], both: Callable[..., Any], error: Callable[..., Any]) -> None:
        self.nll, self.both, self.error = nll, both, error


def _nll(given: Tensor, targets: Tensor, after: AfterHead) -> Tensor:
    logits = given.float() if after.is_nothing else after(given.float())
    return F.cross_entropy(logits, targets, reduction="none")


def _nll_and_error(given: Tensor, targets: Tensor, first: Tensor, after: AfterHead) -> tuple[Tensor, Tensor]:
    """Compute nll (C,) and √(Σ_v (p_v − [v is the target])²) (C,), both float32.

    Args:
        given: the head's output (C, V), which is overwritten: on a CPU, new memory for it costs as much as the sums.
        first: its largest entries' columns (C,).
    """
    logits = given.float() if after.is_nothing else after(given.float())
    highest = logits.gather(1, first[:, None])
    below = (logits.gather(1, targets[:, None]) - highest)[:, 0]
    shares = logits.sub_(highest).exp_()
    total = shares.sum(-1)
    log_share = below - total.log()
    squares = (torch.linalg.vector_norm(shares, dim=-1) / total).square()
    return -log_share, (squares - 2 * log_share.exp() + 1).clamp(min=0).sqrt()  # rounding goes below 0


def _nll_and_gradient(given: Tensor, targets: Tensor, after: AfterHead) -> tuple[Tensor, Tensor]:
    """Compute nll (C,) float32 and its gradient with respect to the head's output (C, V), in the output's data type."""
    logits = given if after.is_nothing else after(given.float())
    log_shares = F.log_softmax(logits, -1, dtype=torch.float32)
    at = targets[:, None]
    nll = -log_shares.gather(1, at)[:, 0]
    gradient = log_shares.exp_()
    gradient.scatter_add_(1, at, gradient.new_full(at.shape, -1.0))
    if not after.is_nothing:
        gradient = gradient * after.slope(logits)
    return nll, gradient.to(given.dtype)


class _LossWithGradients(torch.autograd.Function):
    """Summed loss of (hidden, weight, bias), whose gradients are computed chunk by chunk in the forward pass.

    The idea comes from Liger's fused linear cross entropy (https://arxiv.org/abs/2410.10989, section 3.2) and PyTorch's
    `linear_cross_entropy`, which do not return the losses of single tokens.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, weights: Tensor | None,
        rows: int, dtype: torch.dtype, kernels: _Kernels, after: AfterHead,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        wants_weight, wants_bias = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
        nll = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        by_hidden = torch.empty(hidden.shape, dtype=dtype, device=hidden.device)
        by_weight = torch.zeros(weight.shape, dtype=torch.float32, device=hidden.device) if wants_weight else None
        by_bias = torch.zeros(weight.shape[0], dtype=torch.float32, device=hidden.device) if wants_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            narrow, low, offset = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
            for start in range(0, len(targets), rows):
                chunk, chosen = narrow[start : start + rows], targets[start : start + rows]
                nll[start : start + rows], gradient = kernels.both(F.linear(chunk, low, offset), chosen, after)
                if weights is not None:
                    gradient *= weights[start : start + rows, None].to(gradient.dtype)
                torch.mm(gradient, low, out=by_hidden[start : start + rows])
                if by_weight is not None:
                    _add_product(by_weight, gradient.t(), chunk)
                if by_bias is not None:
                    by_bias += gradient.sum(0, dtype=torch.float32)
        ctx.save_for_backward(by_hidden, by_weight, by_bias)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(nll)
        return (nll if weights is None else nll * weights).sum(), nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_total: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight, by_bias = ctx.saved_tensors
        of_hidden, of_weight = ctx.dtypes
        scaled = [  # in place, because with a large vocabulary a copy would take gigabytes
            None if gradient is None else gradient.mul_(by_total).to(dtype)
            for gradient, dtype in ((by_hidden, of_hidden), (by_weight, of_weight), (by_bias, of_weight))
        ]
        return *scaled, *[None] * 6


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to `total` in fp32, whatever the factors' data type."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def mean_per_example(nll: Tensor, batch: Batch) -> Tensor:
    """Average nll (R,) over each sequence → (B,) float64.

    Sums are in float64, so that means over thousands of tokens keep the digits that clustering uses.
    """
    sums = torch.zeros(len(batch.rows), dtype=torch.float64, device=nll.device)
    sums.index_add_(0, batch.example_of_token, nll.double())
    return sums / torch.from_numpy(batch.counts).to(nll.device, non_blocking=True)
