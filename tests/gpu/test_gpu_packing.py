"""On a GPU: packed rows by variable-length attention. Needs no Ray: `pytest --noconftest tests/test_gpu_packing.py`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2l_ray.config import ProxyConfig
from s2l_ray.lm.engine import TorchEngine
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.lm.score import Scorer
from s2l_ray.lm.step import Stepper, autocast_for
from s2l_ray.testing.tiny import random_examples
from tests.unit.lm.test_packing import FAMILIES, PADDED, random_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that this PyTorch can use")
GPU = torch.device("cuda")
CAPPED = {"gemma2"}
"""Flash attention does not cap scores: padded on a GPU."""


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "mamba"])
def test_losses_are_those_of_fp32_up_to_bf16s_rounding(family: str) -> None:
    exact, examples = random_model(family).to(GPU), random_examples(40, seed=4)
    loss = ResponseLoss(exact)
    plain = choose_batching(exact, loss, pad_id=0, device=GPU, pack=False)
    expected = Scorer(loss, plain, tokens_per_batch=900, device=GPU)(examples).losses
    model = random_model(family).to(GPU)
    autocast = autocast_for(GPU, "auto")
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=GPU, autocast=autocast)
    assert batching.packed == (family not in PADDED | CAPPED), batching.reason
    losses = Scorer(loss, batching, tokens_per_batch=900, device=GPU, autocast=autocast)(examples).losses
    # Random weights of 0.2 make losses of ten nats and more, and bf16 has three digits.
    assert np.abs(losses - expected).mean() < 0.02 * expected.mean()


def test_fp32_is_padded_on_a_gpu() -> None:
    model = random_model("llama with grouped heads").to(GPU)
    assert not choose_batching(model, ResponseLoss(model), pad_id=0, device=GPU).packed


@pytest.mark.parametrize("family", ["gpt_neox", "llama with grouped heads", "mistral with a window"])
@pytest.mark.parametrize("compiled", [False, True])
def test_training_packed_is_training_padded(family: str, compiled: bool) -> None:
    losses = {}
    for pack in (False, True):
        model = random_model(family)
        config = ProxyConfig(model="unused", max_length=100, tokens_per_microbatch=900, learning_rate=1e-3)
        engine = TorchEngine(model, config, GPU, 1)
        autocast = autocast_for(GPU, "auto")
        batching = choose_batching(model, engine.loss, pad_id=0, device=GPU, autocast=autocast, pack=pack)
        assert batching.packed == pack
        if pack and compiled:
            engine.compile()
        stepper = Stepper(engine, config, total_steps=20, seed=0, batching=batching, device=GPU, autocast=autocast)
        losses[pack] = [stepper.step(step, random_examples(60, seed=step % 4)).loss_nats for step in range(12)]
    np.testing.assert_allclose(losses[True], losses[False], rtol=0.02)
    assert losses[True][-4:] < losses[True][:4], "the loss must move for this to say anything"


def test_attention_dropout_is_padded_on_a_gpu() -> None:
    model = random_model("gpt2", dropout=0.1).to(GPU)
    autocast = autocast_for(GPU, "auto")
    assert not choose_batching(model, ResponseLoss(model), pad_id=0, device=GPU, autocast=autocast).packed
