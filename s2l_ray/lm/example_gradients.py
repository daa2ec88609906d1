"""Gradients of single examples' losses, sketched to a fixed size with unbiased inner products. Plain torch.

Gradients with respect to the head have a closed form: one forward pass, no backward pass. Gradients with respect to
adapters (LoRA) take a forward and a backward pass for each example. Sketches serve averages over many pairs; for a
single pair they say little.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from s2l_ray.config.target import LoraConfig
from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.adapters import add_adapters
from s2l_ray.lm.batches import Batch, Batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.selection.gradient_similarity import NUM_BLOCKS

LORA = LoraConfig(rank=8, alpha=16)
"""Adapters whose gradients represent those of the layers that they adapt."""


class ExampleGradients(Protocol):
    """Interface of the classes below."""

    def __call__(self, examples: Examples) -> np.ndarray:
        """Return sketched gradients of the mean loss of each sequence's response tokens, (N, D) float32."""


class HeadGradients:
    """Gradients with respect to the head's weight (and bias): g = (1/R) Σ_r e_r h_rᵀ.

    e_r, the gradient of token r's loss with respect to the head's output, is p_r − [the token], times the slope of the
    model's transformation after the head. For a head tied to the embeddings, it is only the head's part. The sketch has
    `blocks` independent blocks, whose differences show how accurate it is; each is (A e_r) ⊗ (B h_r) with scaled random
    signs A (rows, V) and B (columns, H). A side that is no longer than its sketch is left as it is.

    Memory: A, B, a batch's last hidden states, the head's logits in chunks (lm.response_loss.CHUNK_ELEMENTS) and their
    gradients in float32.
    """

    def __init__(
        self,
        loss: ResponseLoss,
        batching: Batching,
        *,
        tokens_per_batch: int,
        device: torch.device,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        blocks: int = NUM_BLOCKS,
        rows: int = 16,
        columns: int = 16,
        seed: int = 0,
    ) -> None:
        self.loss, self.batching, self.tokens_per_batch = loss, batching, tokens_per_batch
        self.device, self.autocast, self.blocks = device, autocast, blocks
        weight = loss.head_loss.head.weight
        assert isinstance(weight, torch.Tensor)
        self.has_bias = getattr(loss.head_loss.head, "bias", None) is not None
        generator = torch.Generator().manual_seed(seed)
        self._left = _signs(weight.shape[0], rows, blocks, generator, device)
        self._right = _signs(weight.shape[1] + self.has_bias, columns, blocks, generator, device)

    @torch.no_grad()
    def __call__(self, examples: Examples) -> np.ndarray:
        """Return the sketched gradients, (N, D) float32 in the order of the examples."""
        self.loss.eval()
        pending = []
        for rows in self.batching.plan(examples.lengths, self.tokens_per_batch):
            batch = self.batching.batch(examples, rows)
            pending.append((rows, self._sketch(batch)))  # fetched after the loop: a copy here would wait for the device
        out = np.empty((len(examples), pending[0][1].shape[1] if pending else 0), dtype=np.float32)
        for rows, found in pending:
            out[rows] = found.cpu().numpy()
        return out

    def _sketch(self, batch: Batch) -> torch.Tensor:
        """Return the sketched gradients of a batch, (B, D) float32."""
        moved = batch.to(self.device)
        with self.autocast():
            states = self.loss.states(moved)
            hidden = states.reshape(-1, states.shape[-1])[moved.positions]  # (R, H)
            errors = [_times(error, self._left) for error in self.loss.head_loss.errors(hidden, moved.targets)]
        if self.has_bias:
            hidden = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
        left = self._in_blocks(torch.cat(errors), self._left)  # (blocks, R, a)
        right = self._in_blocks(_times(hidden.float(), self._right), self._right)  # (blocks, R, b)
        sizes = batch.counts.tolist()  # tokens of one sequence are adjacent
        pairs = zip(sizes, left.split(sizes, 1), right.split(sizes, 1), strict=True)
        found = [(of_left.mT @ of_right / n).reshape(-1) for n, of_left, of_right in pairs]
        return (torch.stack(found) / math.sqrt(self.blocks)).float()

    def _in_blocks(self, values: torch.Tensor, signs: torch.Tensor | None) -> torch.Tensor:
        """Split (R, ·) into (blocks, R, ·) float64; a side without a sketch is the same in all blocks."""
        if signs is None:
            return values.double().expand(self.blocks, -1, -1)
        return values.double().reshape(len(values), self.blocks, -1).transpose(0, 1)


class LoraGradients:
    """Gradients with respect to fresh adapters in all linear layers except the head; see lm.adapters.

    Fresh adapters have no effect yet, so only their second matrices have a gradient: the layer's own, times a random
    matrix. It is hashed to `dim` numbers with random signs (feature hashing, https://arxiv.org/abs/0902.2206), because
    a dense projection of a million numbers to 4,096 would take 16 GB.

    The adapters are added to the model in place. Memory: the activations of one example, and 5 bytes for each number
    of the gradient.

    Raises:
        ModelError: the model has no such layers.
    """

    def __init__(
        self,
        loss: ResponseLoss,
        batching: Batching,
        *,
        device: torch.device,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        dim: int = 4096,
        seed: int = 0,
    ) -> None:
        self.loss, self.batching, self.device, self.autocast, self.dim = loss, batching, device, autocast, dim
        add_adapters(
            loss.model, LORA, seed, "gradients.kind=lora", "The proxy has no layers that adapters fit; use head"
        ).to(device)
        named = [(name, one) for name, one in loss.model.named_parameters() if one.requires_grad]
        for name, parameter in named:
            parameter.requires_grad_("lora_B" in name)
        self.parameters = [parameter for name, parameter in named if "lora_B" in name]
        num = sum(parameter.numel() for parameter in self.parameters)
        generator = torch.Generator().manual_seed(seed)
        self._place = torch.randint(0, dim, (num,), generator=generator, dtype=torch.int32).to(device)
        self._sign = (torch.randint(0, 2, (num,), generator=generator, dtype=torch.int8) * 2 - 1).to(device)

    def __call__(self, examples: Examples) -> np.ndarray:
        """Return the hashed gradients, (N, dim) float32 in the order of the examples."""
        self.loss.eval()
        return np.stack([self._of(examples, row) for row in range(len(examples))])

    def _of(self, examples: Examples, row: int) -> np.ndarray:
        batch = self.batching.batch(examples, np.array([row]))
        with torch.enable_grad():
            with self.autocast():
                total, _, _ = self.loss(batch.to(self.device))
            found = torch.autograd.grad(total, self.parameters)
        gradient = torch.cat([one.reshape(-1) for one in found]).double() / int(batch.counts[0])
        sums = torch.zeros(self.dim, dtype=torch.float64, device=self.device)
        sums.index_add_(0, self._place, gradient * self._sign)
        return sums.float().cpu().numpy()


def _signs(
    height: int, width: int, blocks: int, generator: torch.Generator, device: torch.device
) -> torch.Tensor | None:
    """Return random signs / √width (Achlioptas 2003), (height, blocks · width) float32; None if height ≤ width."""
    if height <= width:
        return None
    signs = torch.randint(0, 2, (height, blocks * width), generator=generator, dtype=torch.int8)
    return (signs.float() * 2 - 1).div_(math.sqrt(width)).to(device)


def _times(values: torch.Tensor, signs: torch.Tensor | None) -> torch.Tensor:
    if signs is None:
        return values
    with torch.autocast(values.device.type, enabled=False):
        return values @ signs
