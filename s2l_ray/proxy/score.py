"""Score examples: the mean negative log-likelihood of each one's response tokens. Plain torch."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from s2l_ray.corpus.example_id import ID_TYPE, array_to_hex, array_to_ids
from s2l_ray.lm.batches import collate, token_budget_batches
from s2l_ray.lm.response_loss import ResponseLoss, mean_per_example
from s2l_ray.tokens.examples import Examples

SCORE_SCHEMA = pa.schema(
    [
        ("example_id", ID_TYPE),
        ("snapshot", pa.int32()),
        ("loss_nats", pa.float32()),
        ("num_response_tokens", pa.int32()),
    ]
)


class NonFiniteScore(RuntimeError):
    """A loss is not a number: the snapshot would be useless; says for which examples."""


class Scorer:
    """Scores parts. What a part's losses are depends on weights and part alone: the batches are made within it.

    Memory: one batch of at most `tokens_per_batch` padded tokens through the model, and the head's logits in chunks
    (lm.response_loss.CHUNK_ELEMENTS).
    """

    def __init__(
        self,
        loss: ResponseLoss,
        *,
        pad_id: int,
        tokens_per_batch: int,
        device: torch.device,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.loss, self.pad_id, self.tokens_per_batch = loss, pad_id, tokens_per_batch
        self.device, self.autocast = device, autocast

    def __call__(self, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """→ (loss_nats (N,) float32, num_response_tokens (N,) int32), in the order of the examples."""
        losses = np.empty(len(examples), dtype=np.float32)
        counts = np.empty(len(examples), dtype=np.int32)
        self.loss.eval()
        pending: list[tuple[np.ndarray, torch.Tensor, torch.Tensor]] = []
        with torch.inference_mode():
            for rows in token_budget_batches(examples.lengths, self.tokens_per_batch):
                batch = collate(examples, rows, self.pad_id).to(self.device)
                with self.autocast():
                    nll = self.loss(batch.input_ids, batch.positions, batch.targets)
                # Fetched after the loop: on a GPU a copy here would wait for every single batch.
                pending.append((rows, *mean_per_example(nll, batch)))
        for rows, mean, count in pending:
            losses[rows], counts[rows] = mean.cpu().numpy(), count.cpu().numpy()
        wrong = np.flatnonzero(~np.isfinite(losses))
        if len(wrong):
            shown = ", ".join(array_to_hex(examples.ids[wrong[:10]]))
            raise NonFiniteScore(
                f"{len(wrong)} of {len(losses)} losses are not finite (examples {shown}); trajectories with them could "
                "not be clustered. The proxy has diverged or overflows: lower proxy.learning_rate, or precision=fp32"
            )
        return losses, counts


def score_table(examples: Examples, snapshot: int, losses: np.ndarray, counts: np.ndarray) -> pa.Table:
    """The rows that a worker writes, SCORE_SCHEMA."""
    columns = [
        array_to_ids(examples.ids),
        pa.array(np.full(len(losses), snapshot, dtype=np.int32)),
        pa.array(losses),
        pa.array(counts),
    ]
    return pa.table(columns, schema=SCORE_SCHEMA)


def weights_fingerprint(model: torch.nn.Module) -> str:
    """Hash of all parameters and buffers. Losses of one snapshot must all come from the same weights."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in _tensors(model):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in sorted(model.state_dict().items()):
        yield name, tensor.reshape(-1)
