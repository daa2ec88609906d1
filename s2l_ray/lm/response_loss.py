"""Negative log-likelihood of response tokens, the language-model head applied to them alone and in chunks.

Of (B, L) positions only those before a response token reach the head, so no (B, L, V) logits exist. In chunks, so
that a large vocabulary does not make the remaining (R, V) the largest tensor either.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from s2l_ray.errors import UserError
from s2l_ray.lm.batches import Batch

CHUNK_ELEMENTS = 2**25
"""Logits alive at once (elements): 128 MB in fp32."""


class UnsupportedModel(UserError):
    """The architecture's logits are not its head applied to its last hidden states."""


class ResponseLoss(nn.Module):
    """(batch) → one loss per response token. Wraps a causal LM of `transformers`; DDP and DeepSpeed wrap this.

    Works for architectures whose logits are `get_output_embeddings()` of the base model's last hidden state;
    `verify` proves it for the model at hand before anything is trained.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.head_loss = HeadLoss(model.get_output_embeddings())

    def forward(self, input_ids: Tensor, positions: Tensor, targets: Tensor, want_hits: bool = False) -> Any:
        """input_ids (B, L), positions (R,), targets (R,) → nll_nats (R,) float32, or what `with_hits` gives."""
        nll, hits = self.head_loss(self.hidden(input_ids, positions), targets, want_hits)
        return (nll, hits) if want_hits else nll

    def with_hits(self, input_ids: Tensor, positions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """→ (nll_nats (R,) float32, hits (R,) bool: the token is the model's first choice)."""
        return self(input_ids, positions, targets, want_hits=True)  # a call: sharded weights are fetched by its hooks

    def hidden(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """→ last hidden states at the positions, (R, H)."""
        states = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, L, H)
        return states.reshape(-1, states.shape[-1])[positions]


class HeadLoss(nn.Module):
    """The head H → V and the loss, in chunks: at most CHUNK_ELEMENTS logits at once.

    A module of its own so that sharded weights (ZeRO-3) are fetched once for all chunks: workers have different
    numbers of chunks, and a fetch is a collective.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple: not a second name of the model's own parameters

    @property
    def head(self) -> nn.Module:
        return self._head[0]

    def forward(self, hidden: Tensor, targets: Tensor, want_hits: bool = False) -> tuple[Tensor, Tensor | None]:
        """hidden (R, H), targets (R,) → nll_nats (R,) float32, and hits (R,) bool if wanted."""
        weight, bias = self.head.weight, getattr(self.head, "bias", None)  # (V, H), (V,)
        assert isinstance(weight, Tensor)
        rows = max(1, CHUNK_ELEMENTS // weight.shape[0])
        nll, hits = [], []
        for start in range(0, len(targets), rows):
            h, t = hidden[start : start + rows], targets[start : start + rows]
            if torch.is_grad_enabled() and len(targets) > rows:
                # Recomputed in the backward pass: otherwise every chunk's logits would wait there, all (R, V) of them.
                nll.append(checkpoint(_nll, h, weight, bias, t, use_reentrant=False))
                continue
            logits = F.linear(h, weight, bias).float()  # (chunk, V)
            nll.append(F.cross_entropy(logits, t, reduction="none"))
            if want_hits:
                hits.append(logits.argmax(-1) == t)
        empty = hidden.new_zeros(0, dtype=torch.float32)
        losses = torch.cat(nll) if nll else empty
        return losses, (torch.cat(hits) if hits else empty.bool()) if want_hits else None


def _nll(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias).float(), targets, reduction="none")


def mean_per_example(nll: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """nll (R,) → (mean nll per line (B,) float64, response tokens per line (B,) int64).

    Summed in float64: a mean over thousands of tokens keeps the digits that clustering looks at.
    """
    num_lines = len(batch.rows)
    sums = torch.zeros(num_lines, dtype=torch.float64, device=nll.device).index_add_(0, batch.line_of, nll.double())
    counts = torch.bincount(batch.line_of, minlength=num_lines)
    return sums / counts, counts


@torch.no_grad()
def verify(model: Any, tolerance: float = 1e-3, loss: ResponseLoss | None = None) -> None:
    """Compare with the model's own logits on a few tokens. Leaves the model in evaluation mode.

    Args:
        loss: an engine's, with the same model in it; with ZeRO-3 only that one can fetch the weights.

    Raises:
        UnsupportedModel: they differ (an architecture that scales or caps its logits outside its head).
    """
    model.eval()  # a model from scratch comes in training mode: two passes would differ by their dropout
    device = next(model.parameters()).device
    tokens = torch.arange(2, 18, device=device).remainder(model.get_input_embeddings().num_embeddings).view(2, 8)
    logits = model(input_ids=tokens, use_cache=False).logits.float()  # (2, 8, V)
    own = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1), reduction="none")
    positions = torch.arange(16, device=device).view(2, 8)[:, :-1].reshape(-1)
    ours = (loss or ResponseLoss(model))(tokens, positions, tokens[:, 1:].reshape(-1))
    gap = (own - ours).abs().max().item()
    # bf16 weights leave rounding of their own in both.
    if not gap <= max(tolerance, 2e-2 * own.abs().max().item() if model.dtype == torch.bfloat16 else 0.0):
        raise UnsupportedModel(
            f"{type(model).__name__}: the loss from the response-only head differs from the model's own by {gap:.2g} "
            "nats, so its trajectories would be wrong; this architecture changes its logits after the head. "
            "Choose another proxy (GPT-NeoX, GPT-2, Llama, Qwen, OLMo and many more work)"
        )
