"""What is counted on a model without weights is what a training pass of the real one holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from s2l_ray.config.target import TargetConfig
from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.activations import LiveBytes, count_activations
from s2l_ray.lm.load import compile_each_layer, fuse_activations
from s2l_ray.lm.memory import ModelSizes, estimate_memory
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss

LAYERS, SEQUENCES, LENGTH = 5, 4, 160
TOKENS = SEQUENCES * LENGTH
WIDE = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "max_position_embeddings": 256, "vocab_size": 300}  # fmt: skip
SHARED = WIDE | {"num_key_value_heads": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 96, "n_layer": LAYERS, "n_head": 4, "n_positions": 256, "vocab_size": 300},
    "gpt_neox": WIDE,
    "llama": SHARED,
    "phi": WIDE | {"resid_pdrop": 0.1},
    "qwen2": SHARED,
    "qwen3": SHARED | {"head_dim": 24},
    "mistral": SHARED | {"sliding_window": 64},
    "olmo2": SHARED,
    "gemma2": SHARED | {"head_dim": 24, "attn_logit_softcapping": None, "layer_types":
                        ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"], "sliding_window": 512},
}  # fmt: skip


def build(kind: str, device: str, **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(ARCHITECTURES.get(kind, {}) | changes)))


def held_by_a_pass(model: Any) -> int:
    """Bytes that a pass over packed sequences holds at its peak, gradients of weights aside, as the target trains."""
    fuse_activations(model)
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=torch.device("cpu"))
    assert batching.packed, batching.reason
    offsets = np.arange(0, TOKENS + 1, LENGTH)
    tokens = np.random.default_rng(0).integers(2, 300, TOKENS).astype(np.int32)
    examples = Examples(np.zeros((SEQUENCES, 2), np.uint64), tokens, np.ones(TOKENS, bool), offsets)
    batch = batching.batch(examples, np.arange(SEQUENCES))
    model.train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda each: setattr(each, "grad", None))
    with LiveBytes() as live:
        states = loss.states(batch)
        states.backward(torch.ones_like(states))
    return live.peak


@pytest.mark.thorough
@pytest.mark.parametrize(
    "kind",
    sorted(ARCHITECTURES),
)
def test_it_is_what_the_real_model_holds_in_training(kind: str) -> None:
    counted = count_activations(build(kind, "meta"), torch.float32, False, LENGTH)
    assert counted is not None
    held = held_by_a_pass(build(kind, "cpu"))
    assert counted.of(TOKENS, LAYERS, checkpointing=False) == pytest.approx(held, rel=0.1)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_with_gradient_checkpointing_too(kind: str) -> None:
    counted = count_activations(build(kind, "meta"), torch.float32, False, LENGTH)
    model = build(kind, "cpu")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert counted is not None
    held = held_by_a_pass(model)
    assert counted.of(TOKENS, LAYERS, checkpointing=True) == pytest.approx(held, rel=0.1)
    assert held < counted.of(TOKENS, LAYERS, checkpointing=False) / 2


def kept_by_compiled_layers(model: Any) -> int:
    """Bytes that layers keep for the backward pass when they run as kernels of the real compiler."""
    weights = {each.untyped_storage()._cdata for each in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    compile_each_layer(model.train())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=torch.zeros(1, TOKENS, dtype=torch.int64), use_cache=False)
    return sum(each.untyped_storage().nbytes() for key, each in kept.items() if key not in weights)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["llama", "phi", "qwen3"])
def test_compiled_layers_keep_what_the_compilers_kernels_keep(kind: str) -> None:
    torch._dynamo.reset()  # the compiler gives up after a few kinds of layers in one process
    heads = {"num_key_value_heads": 4}  # kernels on CPUs copy shared keys, those on GPUs do not
    plain, compiled = (
        count_activations(build(kind, "meta", **heads), torch.float32, True, LENGTH, compiled=each)
        for each in (False, True)
    )
    few, many = (
        kept_by_compiled_layers(build(kind, "cpu", attn_implementation="sdpa", num_hidden_layers=depth, **heads))
        for depth in (2, 4)
    )
    assert plain is not None
    assert compiled is not None
    assert compiled.layer == pytest.approx((many - few) / 2 / TOKENS, rel=0.1)
    assert compiled.layer < 0.9 * plain.layer
    assert replace(compiled, layer=plain.layer) == plain


def target(**changes: Any) -> TargetConfig:
    return TargetConfig.model_validate(
        {"model": "unused", "max_length": 128, "tokens_per_microbatch": 65_536} | changes
    )


@pytest.mark.thorough
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_of_few_layers_too(layers: int) -> None:
    counted = count_activations(build("llama", "meta", num_hidden_layers=layers), torch.float32, False, LENGTH)
    assert counted is not None
    held = held_by_a_pass(build("llama", "cpu", num_hidden_layers=layers))
    assert counted.of(TOKENS, layers, checkpointing=False) == pytest.approx(held, rel=0.1)


@pytest.mark.thorough
def test_half_the_width_needs_half_and_a_gpus_kernel_copies_no_shared_keys() -> None:
    model = build("llama", "meta")
    wide, narrow, fused = (
        count_activations(model, dtype, on_gpu, LENGTH) for dtype, on_gpu in
        ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True))
    )  # fmt: skip
    assert wide is not None
    assert narrow is not None
    assert fused is not None
    assert narrow.layer == pytest.approx(wide.layer / 2, rel=0.2)
    assert fused.layer < narrow.layer
    assert {each.device.type for each in model.parameters()} == {"meta"}
    assert len(model.model.layers) == LAYERS, "the model is left as it was"


@pytest.mark.thorough
def test_an_estimate_goes_by_what_is_counted_where_it_matters() -> None:
    model, config = build("llama", "meta"), target()
    sizes = ModelSizes.counted(model, config, "bf16", on_gpu=True)
    assert sizes.activations is not None
    by_formula, counted = (
        estimate_memory(each, config, 0, 1, "bf16", on_gpu=True).device["activations"]
        for each in (ModelSizes.of(model), sizes)
    )
    assert counted > 1.2 * by_formula, "a gated MLP keeps more than the formula knows"
    assert ModelSizes.counted(model, target(tokens_per_microbatch=128), "bf16", on_gpu=True).activations is None


def test_of_experts_chosen_by_content_the_formula_is_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    model = build("qwen2_moe", "meta", **SHARED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64,
                  shared_expert_intermediate_size=64)  # fmt: skip
    caplog.set_level("INFO")
    sizes = ModelSizes.counted(model, target(), "fp32", on_gpu=True)
    assert sizes.activations is None
    assert "are estimated because they cannot be counted" in caplog.text
    assert estimate_memory(sizes, target(), 0, 1, "fp32", on_gpu=True).device["activations"] > 0
