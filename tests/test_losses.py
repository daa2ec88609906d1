"""The losses are those of a plain transformers forward, one example at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SHAPES, random_examples, random_model

from s2l_ray.lm import response_loss
from s2l_ray.lm.batches import collate, token_budget_batches
from s2l_ray.lm.response_loss import ResponseLoss, UnsupportedModel, verify
from s2l_ray.lm.score import NonFiniteScore, Scorer
from s2l_ray.proxy.snapshots import weights_fingerprint
from s2l_ray.tokens.examples import Examples


def reference_losses(model, examples: Examples) -> np.ndarray:
    """What the authors' loop computes: one example, labels of -100 on the prompt, the model's own mean loss."""
    losses = []
    for start, end in zip(examples.offsets[:-1], examples.offsets[1:], strict=True):
        tokens = torch.from_numpy(examples.tokens[start:end].astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(examples.mask[start:end])[None], tokens, -100)
        with torch.no_grad():
            losses.append(model(input_ids=tokens, labels=labels).loss.item())
    return np.array(losses)


def scorer(model, tokens_per_batch: int = 700) -> Scorer:
    return Scorer(ResponseLoss(model), pad_id=0, tokens_per_batch=tokens_per_batch, device=torch.device("cpu"))


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_equal_the_models_own_loss(shape):
    model, examples = random_model(shape), random_examples(40)
    losses, counts = scorer(model)(examples)
    expected = reference_losses(model, examples)
    assert expected.std() > 0.1, "the reference must tell examples apart, or the comparison would prove nothing"
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    opening = examples.mask[examples.offsets[:-1]]
    assert counts.sum() == examples.mask.sum() - opening.sum()


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_mates_change_nothing_but_rounding(shape):
    model, examples = random_model(shape), random_examples(30, seed=1)
    alone, _ = scorer(model, tokens_per_batch=100)(examples)
    together, _ = scorer(model, tokens_per_batch=100_000)(examples)
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_small_head_chunks_change_nothing(monkeypatch):
    model, examples = random_model("gpt_neox"), random_examples(30)
    whole, _ = scorer(model)(examples)
    monkeypatch.setattr(response_loss, "CHUNK_ELEMENTS", 300 * 7)
    chunked, _ = scorer(model)(examples)
    np.testing.assert_allclose(chunked, whole, atol=1e-5)


def test_gradients_are_those_of_the_models_own_loss(monkeypatch):
    """Also through the recomputed chunks."""
    monkeypatch.setattr(response_loss, "CHUNK_ELEMENTS", 300 * 7)
    model, examples = random_model("llama").train(), random_examples(1, seed=3, max_length=90)
    tokens = torch.from_numpy(examples.tokens.astype(np.int64))[None]
    labels = torch.where(torch.from_numpy(examples.mask)[None], tokens, -100)
    model(input_ids=tokens, labels=labels).loss.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    batch = collate(examples, np.array([0]), pad_id=0)
    ResponseLoss(model)(batch.input_ids, batch.positions, batch.targets).mean().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3)


def test_a_head_that_is_not_the_last_word_is_refused():
    from transformers import CohereConfig, CohereForCausalLM

    config = CohereConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, logit_scale=0.0625, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CohereForCausalLM(config)
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(0, 1)
    with pytest.raises(UnsupportedModel, match="response-only head"):
        verify(model.eval())
    verify(random_model("gpt2").train())  # dropout must not look like a difference


def test_non_finite_losses_are_refused_with_their_ids():
    model, examples = random_model("gpt2"), random_examples(5)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NonFiniteScore, match=r"5 of 5 losses .*examples [0-9a-f]{32}"):
        scorer(model)(examples)


def test_weights_fingerprint_sees_every_weight():
    a, b = random_model("gpt2"), random_model("gpt2")
    assert weights_fingerprint(a) == weights_fingerprint(b)
    with torch.no_grad():
        b.transformer.h[1].mlp.c_proj.bias[3] += 1e-6
    assert weights_fingerprint(a) != weights_fingerprint(b)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 500))
@settings(max_examples=100, deadline=None)
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths)
    batches = list(token_budget_batches(lengths, budget))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= budget


@given(st.integers(0, 10_000), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_take_and_concatenate_keep_rows_whole(seed, num):
    examples = random_examples(num, seed)
    rows = np.random.default_rng(seed).permutation(num)
    taken = Examples.concatenate([examples.take(rows[: num // 2]), examples.take(rows[num // 2 :])])
    for i, row in enumerate(rows):
        for flat in ("tokens", "mask"):
            got = getattr(taken, flat)[taken.offsets[i] : taken.offsets[i + 1]]
            want = getattr(examples, flat)[examples.offsets[row] : examples.offsets[row + 1]]
            np.testing.assert_array_equal(got, want)
        assert (taken.ids[i] == examples.ids[row]).all()
