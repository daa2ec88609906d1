"""The losses are those of a plain transformers forward, one example at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.data.token_examples import Examples
from s2l_ray.lm import response_loss
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.lm.score import NonFiniteScore, Scorer
from s2l_ray.lm.weights import weights_fingerprint
from s2l_ray.testing.tiny import SHAPES, random_examples, random_model


def reference_losses(model, examples: Examples) -> np.ndarray:
    """What the authors' loop computes: one example, labels of -100 on the prompt, the model's own mean loss."""
    losses = []
    for start, end in zip(examples.offsets[:-1], examples.offsets[1:], strict=True):
        tokens = torch.from_numpy(examples.tokens[start:end].astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(examples.mask[start:end])[None], tokens, -100)
        with torch.no_grad():
            losses.append(model(input_ids=tokens, labels=labels).loss.item())
    return np.array(losses)


CPU = torch.device("cpu")


def scorer(model, tokens_per_batch: int = 700, pack: bool = True) -> Scorer:
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=CPU, pack=pack)
    assert batching.packed == pack
    return Scorer(loss, batching, tokens_per_batch=tokens_per_batch, device=CPU)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_equal_the_models_own_loss(shape, pack):
    model, examples = random_model(shape), random_examples(40)
    expected = reference_losses(model, examples)
    scores = scorer(model, pack=pack)(examples)
    losses, counts = scores.losses, scores.counts
    assert expected.std() > 0.1, "the reference must tell examples apart, or the comparison would prove nothing"
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    opening = examples.mask[examples.offsets[:-1]]
    assert counts.sum() == examples.mask.sum() - opening.sum()


@pytest.mark.parametrize("pack", [True, False])
def test_signals_are_those_of_the_models_own_probabilities(pack):
    """One example at a time, from the model's own logits, by the definitions."""
    model, examples = random_model("llama"), random_examples(25)
    for start, end in zip(examples.offsets[:-1:2], examples.offsets[1::2], strict=False):  # every other one ends right
        before = torch.from_numpy(examples.tokens[start : end - 1].astype(np.int64))
        with torch.no_grad():
            examples.tokens[end - 1] = int(model(input_ids=before[None]).logits[0, -1].argmax())
    scores = scorer(model, pack=pack)(examples)
    for row, (start, end) in enumerate(zip(examples.offsets[:-1], examples.offsets[1:], strict=True)):
        tokens = torch.from_numpy(examples.tokens[start:end].astype(np.int64))
        with torch.no_grad():
            shares = model(input_ids=tokens[None]).logits[0, :-1].double().softmax(-1)
        mine = examples.mask[start + 1 : end]
        shares, targets = shares[mine], tokens[1:][mine]
        chosen = shares.gather(1, targets[:, None])[:, 0]
        errors = (shares - torch.nn.functional.one_hot(targets, shares.shape[1])).norm(dim=1)
        expected = {
            "mean_probability": chosen.mean(), "min_probability": chosen.min(), "el2n": errors.mean(),
            "token_accuracy": (shares.argmax(1) == targets).double().mean(),
        }  # fmt: skip
        for name, value in expected.items():
            assert scores.signals[name][row] == pytest.approx(float(value), abs=2e-5), (name, row)
    assert all(np.std(scores.signals[name]) > 0.01 for name in expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_mates_change_nothing_but_rounding(shape):
    model, examples = random_model(shape), random_examples(30, seed=1)
    alone = scorer(model, tokens_per_batch=100)(examples).losses
    together = scorer(model, tokens_per_batch=100_000)(examples).losses
    np.testing.assert_allclose(alone, together, atol=1e-5)


def small_chunks(monkeypatch) -> None:
    monkeypatch.setitem(response_loss.CHUNK_ELEMENTS, "cpu", 300 * 7)


def test_small_head_chunks_change_nothing(monkeypatch):
    model, examples = random_model("gpt_neox"), random_examples(30)
    whole = scorer(model)(examples).losses
    small_chunks(monkeypatch)
    chunked = scorer(model)(examples).losses
    np.testing.assert_allclose(chunked, whole, atol=1e-5)


def test_dropout_does_not_look_like_a_difference():
    training = random_model("gpt2").train()
    choose_batching(training, ResponseLoss(training), pad_id=0, device=CPU)


def test_non_finite_losses_are_refused_with_their_ids():
    model, examples = random_model("gpt2"), random_examples(5)
    score = scorer(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NonFiniteScore, match=r"5 of 5 losses .*examples [0-9a-f]{32}"):
        score(examples)


def test_weights_fingerprint_sees_every_weight():
    a, b = random_model("gpt2"), random_model("gpt2")
    assert weights_fingerprint(a) == weights_fingerprint(b)
    with torch.no_grad():
        b.transformer.h[1].mlp.c_proj.bias[3] += 1e-6
    assert weights_fingerprint(a) != weights_fingerprint(b)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 500), st.booleans())
@settings(max_examples=100, deadline=None)
def test_batches_hold_every_row_once_within_the_budget(lengths, budget, packed):
    lengths = np.array(lengths)
    batching = Batching(packed, pad_id=0)
    batches = batching.plan(lengths, budget)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or batching.num_computed(lengths, [rows]) <= budget
    sizes = [batching.num_computed(lengths, [rows]) for rows in batches]
    assert packed is False or sizes == sorted(sizes, reverse=True), "memory must peak first"


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
