"""Gradients of single examples: closed forms equal autograd, and sketches keep inner products on average."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from s2l_ray.data.token_examples import Examples
from s2l_ray.lm import example_gradients
from s2l_ray.lm.checks import ModelError
from s2l_ray.lm.example_gradients import HeadGradients, LoraGradients
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.testing.tiny import random_examples

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": 128, "vocab_size": 90,
}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
GPT2 = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 128, "vocab_size": 90}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "untied": ("gpt_neox", SMALL),
    "tied": ("gpt2", GPT2),
    "tied, grouped": ("llama", GROUPED | {"tie_word_embeddings": True}),
    "bias": ("phi", SMALL),
    "capped": ("gemma2", GROUPED | {"sliding_window": 12, "query_pre_attn_scalar": 8, "pad_token_id": 0}),
    "scaled": ("granite", GROUPED | {"logits_scaling": 8.0}),
    "padded": ("bloom", {"hidden_size": 32, "n_layer": 1, "n_head": 4, "vocab_size": 90}),
}
CASES = [(family, *FAMILIES[family]) for family in FAMILIES]


def made(kind: str, fields: dict[str, Any], scale: float = 0.5) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    how = {"attn_implementation": "eager"} if kind in ("gemma2", "bloom") else {}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields), **how).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale)
    return model


def head_gradients(model: Any, **how: Any) -> HeadGradients:
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=CPU)
    return HeadGradients(loss, batching, tokens_per_batch=300, device=CPU, **how)


def by_autograd(model: Any, examples: Examples, row: int) -> np.ndarray:
    """The model's own loss of one example, differentiated by its head; the states before it are held fixed."""
    start, end = examples.offsets[row], examples.offsets[row + 1]
    tokens = torch.from_numpy(examples.tokens[start:end].astype(np.int64))[None]
    labels = torch.where(torch.from_numpy(examples.mask[start:end])[None], tokens, -100)
    head = model.get_output_embeddings()
    parameters = [p for p in (head.weight, getattr(head, "bias", None)) if p is not None]
    handle = head.register_forward_pre_hook(lambda module, given: (given[0].detach(),))
    try:
        found = torch.autograd.grad(model(input_ids=tokens, labels=labels).loss, parameters)
    finally:
        handle.remove()
    weight = found[0].numpy()
    return weight if len(found) == 1 else np.concatenate([weight, found[1].numpy()[:, None]], axis=1)


@pytest.mark.parametrize(("family", "kind", "fields"), CASES, ids=list(FAMILIES))
def test_the_closed_form_is_what_autograd_gives(family: str, kind: str, fields: dict[str, Any]) -> None:
    model, examples = made(kind, fields), random_examples(9, vocab=90, max_length=40)
    gradients = head_gradients(model, blocks=1, rows=1000, columns=1000)
    assert gradients.has_bias == (family == "bias")
    assert (family == "padded") != gradients.batching.packed
    after = gradients.loss.head_loss.after
    assert (after.cap is not None, after.scale != 1) == (family == "capped", family == "scaled")
    found = gradients(examples)
    for row in range(len(examples)):
        expected = by_autograd(model, examples, row)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found[row].reshape(expected.shape), expected, atol=2e-5 * np.abs(expected).max())


def test_a_cap_that_bites_flattens_the_gradient() -> None:
    """So that the test above would notice a cap that is left out."""
    kind, fields = FAMILIES["capped"]
    model, examples = made(kind, fields, scale=2.0), random_examples(6, vocab=90, max_length=30)
    gradients = head_gradients(model, blocks=1, rows=1000, columns=1000)
    with_cap = gradients(examples)
    np.testing.assert_allclose(with_cap[0].reshape(90, 32), by_autograd(model, examples, 0), rtol=1e-3, atol=1e-4)
    gradients.loss.head_loss.after = type(gradients.loss.head_loss.after)()
    assert np.abs(gradients(examples) - with_cap).max() > 0.1 * np.abs(with_cap).max()


@pytest.mark.thorough
def test_sketches_keep_inner_products_on_average() -> None:
    model, examples = made(*FAMILIES["untied"]), random_examples(12, vocab=90, max_length=30)
    exact = head_gradients(model, blocks=1, rows=1000, columns=1000)(examples).astype(np.float64)
    sketched = [head_gradients(model, blocks=4, rows=8, columns=8, seed=seed)(examples) for seed in range(60)]
    assert sketched[0].shape == (12, 256)
    products = np.mean([s.astype(np.float64) @ s.T for s in sketched], axis=0)
    norms = np.linalg.norm(exact, axis=1)
    np.testing.assert_allclose(products / np.outer(norms, norms), exact @ exact.T / np.outer(norms, norms), atol=0.15)


def test_sketches_do_not_depend_on_the_batch() -> None:
    model, examples = made(*FAMILIES["tied"]), random_examples(20, vocab=90, max_length=40)
    gradients = head_gradients(model, blocks=2, rows=8, columns=8)
    whole = gradients(examples)
    some = np.array([17, 3, 8])
    np.testing.assert_allclose(gradients(examples.take(some)), whole[some], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(gradients(examples), whole)


@pytest.mark.parametrize("family", ["untied", "tied", "capped", "padded"])
def test_lora_gradients_are_what_autograd_gives_one_example_at_a_time(family: str) -> None:
    model, examples = made(*FAMILIES[family], scale=0.2), random_examples(5, vocab=90, max_length=30)
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=CPU)
    before = model(input_ids=torch.arange(9)[None]).logits.detach().clone()
    gradients = LoraGradients(loss, batching, device=CPU, dim=512)
    assert torch.equal(model(input_ids=torch.arange(9)[None]).logits, before), "fresh adapters do nothing"
    found = gradients(examples)
    assert found.shape == (5, 512)
    for row in range(len(examples)):
        start, end = examples.offsets[row], examples.offsets[row + 1]
        tokens = torch.from_numpy(examples.tokens[start:end].astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(examples.mask[start:end])[None], tokens, -100)
        own = torch.autograd.grad(model(input_ids=tokens, labels=labels).loss, gradients.parameters)
        flat = torch.cat([one.reshape(-1) for one in own]).numpy().astype(np.float64)
        expected = np.bincount(gradients._place.numpy(), flat * gradients._sign.numpy(), minlength=512)
        assert np.abs(expected).max() > 1e-6
        np.testing.assert_allclose(found[row], expected, atol=1e-4 * np.abs(expected).max())


def test_a_proxy_that_takes_no_adapters_is_told_by_the_setting_that_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        example_gradients, "LORA", example_gradients.LORA.model_copy(update={"target_modules": ["none"]})
    )
    loss = ResponseLoss(made(*FAMILIES["untied"]))
    batching = choose_batching(loss.model, loss, pad_id=0, device=CPU)
    with pytest.raises(ModelError, match=r"^gradients\.kind=lora cannot be used: .*adapters fit; use head"):
        LoraGradients(loss, batching, device=CPU)
