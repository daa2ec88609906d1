"""What S2L's authors' programs do: training in micro-batches of four, scoring one example per pass.

https://github.com/BigML-CS-UCLA/S2L: `train.py` with configs/pythia-70m-deduped_checkpoints.yml (the Trainer of
`transformers`, per_device_train_batch_size 4, group_by_length) and `get_trajectories.py`.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.load import load_model

_PER_PASS = 4
_GROUP = 50
"""`group_by_length` sorts so many batches at a time (its `mega_batch_mult` at most)."""


def score_one_by_one(
    model: Any, examples: Examples, device: torch.device, autocast: Callable[[], Any] = contextlib.nullcontext
) -> list[float]:
    """Score one example at a time by the model's own forward pass, with the loss over tokens outside the prompt."""
    losses = []
    with torch.no_grad(), autocast():
        for start, end in zip(examples.offsets[:-1], examples.offsets[1:], strict=True):
            ids = torch.from_numpy(examples.tokens[start:end].astype(np.int64))[None].to(device)
            labels = torch.where(torch.from_numpy(examples.mask[start:end])[None].to(device), ids, -100)
            losses.append(model(input_ids=ids, labels=labels).loss.item())
    return losses


def measure(config: TrainedModelConfig, tokenizer: Any, examples: Examples, seed: int) -> tuple[float, float]:
    """Return the seconds per example of training and of scoring on a CPU: medians of eight optimiser steps and of
    eight rounds of 16 examples. Loading and tokenisation, which these programs repeat for each snapshot, are left out.
    """
    model = load_model(config, tokenizer, seed)
    rng = np.random.default_rng(seed)
    num = config.global_batch_size
    drawn = rng.choice(len(examples), min(len(examples), _GROUP * num), replace=False)
    by_length = drawn[np.argsort(examples.lengths[drawn], kind="stable")]
    batches = [by_length[at : at + num] for at in range(0, len(by_length) - num + 1, num)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    model.train()
    training = []
    for at in rng.choice(len(batches), min(9, len(batches)), replace=False):
        started = time.perf_counter()
        rows = batches[at]
        for first in range(0, num, _PER_PASS):
            ids, labels, mask = _padded(examples.take(np.sort(rows[first : first + _PER_PASS])))
            loss = model(input_ids=ids, labels=labels, attention_mask=mask, use_cache=False).loss
            (loss * _PER_PASS / num).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        training.append((time.perf_counter() - started) / num)
    model.eval()
    scoring = []
    for _ in range(9):
        few = examples.take(np.sort(rng.choice(len(examples), min(16, len(examples)), replace=False)))
        started = time.perf_counter()
        score_one_by_one(model, few, torch.device("cpu"))
        scoring.append((time.perf_counter() - started) / len(few))
    return statistics.median(training[1:] or training), statistics.median(scoring[1:])  # the first one warms up


def _padded(examples: Examples) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, labels and attention mask (B, L), padded on the right to the longest."""
    longest = int(examples.lengths.max())
    ids = torch.zeros(len(examples), longest, dtype=torch.int64)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for i, (start, end) in enumerate(zip(examples.offsets[:-1], examples.offsets[1:], strict=True)):
        tokens = torch.from_numpy(examples.tokens[start:end].astype(np.int64))
        ids[i, : end - start], mask[i, : end - start] = tokens, 1
        labels[i, : end - start] = torch.where(torch.from_numpy(examples.mask[start:end]), tokens, -100)
    return ids, labels, mask
