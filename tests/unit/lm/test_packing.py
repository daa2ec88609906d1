"""Sequences that share a row have the losses and gradients of sequences alone, for every architecture."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch

from s2l_ray.config import ProxyConfig
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.training_order import balance_by_length
from s2l_ray.lm import after_head, packing
from s2l_ray.lm.after_head import AfterHead, UnsupportedModel
from s2l_ray.lm.batches import Batching
from s2l_ray.lm.engine import TorchEngine
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.lm.score import Scorer
from s2l_ray.lm.step import Stepper
from s2l_ray.testing.tiny import random_examples
from tests.support.tiers import rest_thorough
from tests.unit.lm.test_losses import reference_losses

CPU = torch.device("cpu")
SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300,
    "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
WINDOW = 12
"""Shorter than most of the texts."""
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox": ("gpt_neox", SMALL),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 300}),
    "llama with grouped heads": ("llama", GROUPED),
    "phi": ("phi", SMALL),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", GROUPED),
    "qwen2 with windows in some layers": (
        "qwen2",
        GROUPED | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "mistral with a window": ("mistral", GROUPED | {"sliding_window": WINDOW}),
    "olmo2": ("olmo2", GROUPED),
    "opt": ("opt", {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                    "vocab_size": 300, "max_position_embeddings": 128, "word_embed_proj_dim": 32}),
    "gemma2": ("gemma2", GROUPED | {"sliding_window": WINDOW, "query_pre_attn_scalar": 8}),
    "granite": ("granite", GROUPED | {"logits_scaling": 8.0}),
    "cohere": ("cohere", GROUPED | {"logit_scale": 0.0625, "bos_token_id": 1, "eos_token_id": 2}),
    "hyperclovax": ("hyperclovax", GROUPED | {"logits_scaling": 0.5}),
    "nanochat": ("nanochat", GROUPED),
    "llama4": ("llama4_text", GROUPED | {"num_local_experts": 2, "intermediate_size_mlp": 64,
                                         "layer_types": ["full_attention"] * 2}),
    "gpt_neo": ("gpt_neo", {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 300,
                            "window_size": WINDOW, "max_position_embeddings": 128,
                            "attention_types": [[["global", "local"], 1]]}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300}),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 300}),
}  # fmt: skip
PADDED = {"gpt_neo", "bloom", "mamba"}
"""Their attention, if they have any, does not go through the interface of transformers."""


def random_model(family: str, attention: str = "sdpa", dropout: float = 0.0) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, fields = FAMILIES[family]
    config = AutoConfig.for_model(kind, **fields)
    for name in ("attn_pdrop", "resid_pdrop", "embd_pdrop", "attention_dropout", "dropout", "hidden_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)
    torch.manual_seed(0)
    eager = {"gemma2", "gpt_neo", "bloom", "mamba"}
    with_kernel = "eager" if kind in eager else attention
    model = AutoModelForCausalLM.from_config(config, attn_implementation=with_kernel)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "conv" not in name:
                parameter.normal_(0, 0.2)
    return model.eval()


def reference_gradients(model: Any, examples: Examples) -> list[torch.Tensor]:
    """Of the mean over all response tokens, one example at a time."""
    model.zero_grad()
    total, count = torch.zeros(()), 0
    for start, end in zip(examples.offsets[:-1], examples.offsets[1:], strict=True):
        tokens = torch.from_numpy(examples.tokens[start:end].astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(examples.mask[start:end])[None], tokens, -100)
        n = int((labels[:, 1:] != -100).sum())
        total, count = total + model(input_ids=tokens, labels=labels, use_cache=False).loss * n, count + n
    (total / count).backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("family", rest_thorough(FAMILIES, 5))
def test_losses_and_gradients_are_those_of_examples_alone(family: str) -> None:
    model, examples = random_model(family), random_examples(20, seed=4)
    assert (examples.lengths > WINDOW).sum() > 10
    losses, gradients = reference_losses(model, examples), reference_gradients(model, examples)
    model.zero_grad()
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=CPU)
    assert batching.packed == (family not in PADDED), batching.reason
    assert batching.packed == (not batching.reason)
    scores = Scorer(loss, batching, tokens_per_batch=600, device=CPU)(examples)
    scored, counts = scores.losses, scores.counts
    np.testing.assert_allclose(scored, losses, rtol=1e-5)
    for rows in batching.plan(examples.lengths, 600):
        (loss(batching.batch(examples, rows))[0] / int(counts.sum())).backward()
    for parameter, expected in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert float((parameter.grad - expected).norm()) <= 1e-5 * float(expected.norm()) + 1e-8


def test_a_look_at_a_neighbour_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof must be able to fail: attention over the whole row falls back to padded lines."""
    honest: Any = packing._by_sequence

    def careless(*arguments: Any) -> Any:
        *rest, lengths = arguments
        return honest(*rest, (sum(lengths),))

    monkeypatch.setattr(packing, "_by_sequence", careless)
    model = random_model("llama with grouped heads")
    batching = choose_batching(model, ResponseLoss(model), pad_id=0, device=CPU)
    assert not batching.packed
    assert model.config._attn_implementation == "sdpa"


def test_untrained_models_are_told_apart_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own initial weights are small, and so is what attention does."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neox", **SMALL))
    honest: Any = packing._by_sequence
    monkeypatch.setattr(packing, "_by_sequence", lambda *a: honest(*a[:-1], (sum(a[-1]),)))
    assert not choose_batching(model, ResponseLoss(model), pad_id=0, device=CPU).packed


def test_all_workers_pack_or_none_does() -> None:
    model = random_model("gpt_neox")
    batching = choose_batching(model, ResponseLoss(model), pad_id=0, device=CPU, agree=lambda yes: False)
    assert not batching.packed
    assert model.config._attn_implementation == "sdpa"


def test_a_filled_up_row_is_the_same() -> None:
    """As GPUs get it."""
    model, examples = random_model("qwen3"), random_examples(9, seed=2)
    loss = ResponseLoss(model)
    exact = choose_batching(model, loss, pad_id=0, device=CPU)
    filled = Batching(True, pad_id=0, multiple_of=64)
    rows = np.arange(len(examples))
    batch = filled.batch(examples, rows)
    assert batch.input_ids.shape[1] % 64 == 0 != examples.lengths.sum() % 64
    with torch.no_grad():
        torch.testing.assert_close(loss(batch)[1], loss(exact.batch(examples, rows))[1], atol=1e-5, rtol=1e-5)
        total, nll, _ = loss(filled.batch(examples, rows[:0]))
    assert (float(total), len(nll)) == (0.0, 0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_attention_dropout_and_recomputation_train(checkpointing: bool) -> None:
    model = random_model("gpt2", dropout=0.5)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    config = ProxyConfig(model="unused", max_length=100, tokens_per_microbatch=300)
    engine = TorchEngine(model, config, CPU, 1)
    batching = choose_batching(model, engine.loss, pad_id=0, device=CPU)
    assert batching.packed
    stepper = Stepper(
        engine, config, total_steps=9, seed=0, batching=batching, device=CPU, autocast=contextlib.nullcontext
    )
    examples = random_examples(8)
    losses = [stepper.step(step, examples).loss_nats for step in range(3)]
    assert len(set(losses)) == 3
    assert np.isfinite(losses).all()


def test_a_trained_model_is_saved_without_a_trace(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = random_model("llama with grouped heads")
    assert choose_batching(model, ResponseLoss(model), pad_id=0, device=CPU).packed
    model.save_pretrained(tmp_path)
    assert "s2l" not in (tmp_path / "config.json").read_text()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    examples = random_examples(5)
    np.testing.assert_allclose(reference_losses(again, examples), reference_losses(model, examples), rtol=1e-5)


@pytest.mark.parametrize("num_workers", [1, 8])
def test_at_least_97_of_100_computed_tokens_are_real(num_workers: int, math_corpus: Any) -> None:
    """On the real maths corpus at batch 128, filled up for GPUs; padded lines as a matter of comparison."""
    import json

    with open(math_corpus) as lines:
        texts = [row["instruction"] + row["output"] for row in map(json.loads, lines)]
    lengths = np.minimum(512, np.array([max(2, len(t.encode()) // 3) for t in texts]))
    rng = np.random.default_rng(0)
    useful = dict.fromkeys(("packed", "padded"), 0.0)
    for name, batching in (
        ("packed", Batching(True, 0, packing._GPU_MULTIPLE)),
        ("padded", Batching(False, 0, pass_cost=packing._GPU_PASS_COST)),
    ):
        real = computed = 0
        for _ in range(20):
            batch = rng.choice(lengths, 128, replace=False)
            for share in balance_by_length(batch, num_workers):
                real += int(batch[share].sum())
                computed += batching.num_computed(batch[share], batching.plan(batch[share], 65_536))
        useful[name] = real / computed
    assert useful["packed"] >= 0.97, useful
    assert useful["packed"] > useful["padded"]


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere"])
@pytest.mark.parametrize("trained", [True, False])
def test_logits_changed_in_an_unknown_way_are_refused(
    family: str, trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the untrained model's logits are so small that a cap does nothing to them."""
    monkeypatch.setattr(after_head, "KINDS", [])
    model = random_model(family)
    if not trained:
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(1e-4)
    with pytest.raises(
        UnsupportedModel, match="transforms its logits after the head in a way that s2l_ray does not support"
    ):
        choose_batching(model, ResponseLoss(model), pad_id=0, device=CPU)


@pytest.mark.parametrize(
    ("spoiled", "told"),
    [
        (float("nan"), r"its weights are not \(\S*embed_tokens\.weight\)\. The training"),
        (float("inf"), r"its weights are not \(\S*embed_tokens\.weight\)\. The training"),
        (3e38, r"its weights are not, or it overflows\. The training .*precision=fp32"),
    ],
)  # fmt: skip
def test_weights_that_are_not_finite_are_named(spoiled: float, told: str) -> None:
    model = random_model("llama with grouped heads")
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = spoiled  # which the first of the three probes lacks
        if spoiled == 3e38:
            model.get_output_embeddings().weight.fill_(3e38)
    with pytest.raises(UnsupportedModel, match=rf"LlamaForCausalLM: the losses .* are not finite, because {told}"):
        choose_batching(model, ResponseLoss(model), pad_id=0, device=CPU)


def test_another_kind_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("cohere")
    kind = lambda config: iter([AfterHead(scale=config.logit_scale)])  # noqa: E731
    monkeypatch.setattr(after_head, "KINDS", [kind])
    loss = ResponseLoss(model)
    choose_batching(model, loss, pad_id=0, device=CPU)
    assert loss.head_loss.after == AfterHead(scale=0.0625)


def test_states_changed_before_the_head_are_refused() -> None:
    """As MiniCPM divides them."""
    model = random_model("llama with grouped heads")
    model.get_output_embeddings().register_forward_pre_hook(lambda module, given: (given[0] / 2,))
    with pytest.raises(UnsupportedModel, match="transforms its states before the head"):
        choose_batching(model, ResponseLoss(model), pad_id=0, device=CPU)


def test_logits_that_are_scaled_and_then_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Muse's: cap · tanh(scale · logits / cap)."""
    model = random_model("gemma2")
    model.config.output_multiplier = 0.5
    forward = type(model).forward

    def scaled(self: Any, *arguments: Any, **named: Any) -> Any:
        head = self.lm_head
        handle = head.register_forward_hook(lambda module, given, output: output * 0.5)
        try:
            return forward(self, *arguments, **named)
        finally:
            handle.remove()

    monkeypatch.setattr(type(model), "forward", scaled)
    loss = ResponseLoss(model)
    choose_batching(model, loss, pad_id=0, device=CPU)
    assert loss.head_loss.after == AfterHead(scale=0.5, cap=30.0)


@pytest.mark.parametrize(
    "error", [AttributeError("no last_hidden_state"), RuntimeError("size of tensor a (4) must match")]
)
def test_a_model_that_cannot_compute_is_refused_and_not_tried_again(error: Exception) -> None:
    model = random_model("llama with grouped heads")

    def fail(module: Any, given: Any) -> None:
        raise error

    model.get_output_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(UnsupportedModel, match=r"LlamaForCausalLM cannot compute the losses of a few tokens"):
        choose_batching(model, ResponseLoss(model), pad_id=0, device=CPU)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                                   torch.OutOfMemoryError("CUDA out of memory")])  # fmt: skip
def test_lack_of_memory_is_no_fault_of_the_models(error: Exception) -> None:
    model = random_model("llama with grouped heads")

    def fail(module: Any, given: Any) -> None:
        raise error

    model.get_output_embeddings().register_forward_pre_hook(fail)
    with pytest.raises(type(error)):
        choose_batching(model, ResponseLoss(model), pad_id=0, device=CPU)
