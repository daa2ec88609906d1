"""One optimiser step: the gradient of the mean over the global batch, and a stop before a ruinous update."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import pytest
import torch

from s2l_ray.config import ProxyConfig
from s2l_ray.data.example_id import array_to_hex
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.engine import TorchEngine
from s2l_ray.lm.step import NonFiniteLoss, Stepper, learning_rate
from s2l_ray.testing.tiny import random_examples, random_model


def stepper(model, batching: Batching | None = None, bf16: bool = False, **changes) -> Stepper:
    settings: dict[str, Any] = {
        "model": "unused",
        "learning_rate": 1e-2,
        "max_length": 100,
        "tokens_per_microbatch": 300,
    }
    settings |= changes
    config = ProxyConfig(**settings)
    cpu = torch.device("cpu")
    engine = TorchEngine(model, config, cpu, 1, bf16=bf16)
    return Stepper(
        engine, config, total_steps=10, seed=0, batching=batching or Batching(False, 0), device=cpu,
        autocast=contextlib.nullcontext,
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


@pytest.mark.thorough
def test_bf16_weights_have_fp32_copies_in_which_small_updates_add_up(tmp_path):
    """Weights near 0.3 have neighbours at a distance of 2e-3 in bf16: steps of 1e-5 would be lost, one by one."""
    model, exact = random_model("llama"), random_model("llama")
    examples = random_examples(12, seed=5)
    settings: dict[str, Any] = {"learning_rate": 1e-5, "warmup_share": 0.0}
    ours, plain = stepper(model, bf16=True, **settings), stepper(exact, **settings)
    first = {n: p.clone() for n, p in model.named_parameters()}
    assert isinstance(ours.engine, TorchEngine)
    assert ours.engine.masters is not None
    masters = ours.engine.masters.of
    start = {n: masters[p].detach().clone() for n, p in model.named_parameters()}
    for step in range(5):
        a, b = ours.step(step, examples), plain.step(step, examples)
        assert a.loss_nats == pytest.approx(b.loss_nats, rel=0.02)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    changed = sum(int((p != first[n]).sum()) for n, p in model.named_parameters())
    moved = sum(int((masters[p] != start[n]).sum()) for n, p in model.named_parameters())
    assert moved > 5 * changed > 0
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, masters[parameter].bfloat16(), atol=0, rtol=0)
        torch.testing.assert_close(masters[parameter], exact.get_parameter(name), atol=2e-4, rtol=0)
    ours.engine.save(tmp_path)
    again = stepper(random_model("llama", seed=1), bf16=True, **settings)
    again.engine.load(tmp_path)
    assert again.step(5, examples).loss_nats == ours.step(5, examples).loss_nats
