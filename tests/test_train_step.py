"""One optimiser step: the gradient of the mean over the global batch, and a stop before a ruinous update."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny import random_examples, random_model

from s2l_ray.config import ProxyConfig
from s2l_ray.corpus.example_id import array_to_hex
from s2l_ray.lm.engine import TorchEngine
from s2l_ray.lm.step import NonFiniteLoss, Stepper, learning_rate


def stepper(model, **changes) -> Stepper:
    settings: dict[str, Any] = {
        "model": "unused",
        "learning_rate": 1e-2,
        "max_length": 100,
        "tokens_per_microbatch": 300,
    }
    settings |= changes
    config = ProxyConfig(**settings)
    return Stepper(
        TorchEngine(model, config, torch.device("cpu"), 1), config, total_steps=10, seed=0, pad_id=0,
        device=torch.device("cpu"), autocast=contextlib.nullcontext,
    )  # fmt: skip


def test_a_step_is_that_of_a_plain_loop():
    """Micro-batches or not: AdamW on the mean over all response tokens of the batch, clipped."""
    ours, plain = random_model("llama"), random_model("llama")
    examples = random_examples(12, seed=5)
    result = stepper(ours).step(3, examples)

    optimizer = torch.optim.AdamW(plain.parameters(), lr=learning_rate(3, 10, 1e-2, 0.03), weight_decay=0.0)
    total, count = torch.zeros(()), 0
    for start, end in zip(examples.offsets[:-1], examples.offsets[1:], strict=True):
        tokens = torch.from_numpy(examples.tokens[start:end].astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(examples.mask[start:end])[None], tokens, -100)
        n = int((labels[:, 1:] != -100).sum())
        total, count = total + plain(input_ids=tokens, labels=labels).loss * n, count + n
    (total / count).backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    optimizer.step()
    assert result.loss_nats == pytest.approx(float(total.detach()) / count, rel=1e-5)
    assert result.grad_norm == pytest.approx(float(norm), rel=1e-4)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


def test_a_non_finite_loss_stops_before_the_update_and_names_the_examples():
    model = random_model("llama")
    examples = random_examples(6)
    bad = int(examples.tokens[examples.offsets[2]])
    with torch.no_grad():
        model.get_input_embeddings().weight[bad] = float("nan")  # tied: the head is ruined too
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NonFiniteLoss, match=r"optimiser step 4 .*update was not made") as caught:
        stepper(model).step(4, examples)
    assert array_to_hex(examples.ids[2:3])[0] in str(caught.value)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True, atol=0, rtol=0)


def test_the_learning_rate_warms_up_and_decays_to_nothing():
    rates = [learning_rate(s, 100, 1.0, 0.1) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3
