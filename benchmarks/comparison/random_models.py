"""Models of known shapes with random weights, and examples of random tokens as long as a real corpus's, to measure
speed and memory, which do not depend on what a model has learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.load import fuse_activations

SHAPES: dict[str, dict[str, Any]] = {
    "pythia-70m": {
        "model_type": "gpt_neox", "hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8,
        "intermediate_size": 2048, "vocab_size": 50_304, "max_position_embeddings": 2048, "rotary_pct": 0.25,
    },
    "phi-2": {
        "model_type": "phi", "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 10_240, "vocab_size": 51_200, "max_position_embeddings": 2048,
        "partial_rotary_factor": 0.4, "hidden_act": "gelu_new", "resid_pdrop": 0.1,
    },
    "llama-2.7b": {
        "model_type": "llama", "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 6880, "vocab_size": 51_200, "max_position_embeddings": 2048,
    },
    "tiny": {
        "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "vocab_size": 300, "max_position_embeddings": 512,
    },
}  # fmt: skip


def random_model(shape: str, device: torch.device) -> Any:
    """Return a model of one of SHAPES, in fp32, with the same weights every time."""
    fields = dict(SHAPES[shape])
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    torch.manual_seed(0)
    with device:
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fuse_activations(model)
    return model


def random_examples(num: int, seed: int, longest: int, vocab: int) -> Examples:
    """Create random tokens with the lengths and the share of responses of the maths corpus, scaled to `longest`."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(0.29 * longest), 0.62, num), 16, longest).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    column = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    mask = column >= np.repeat((lengths * rng.uniform(0.2, 0.6, num)).astype(np.int64), lengths)
    tokens = rng.integers(2, vocab, offsets[-1]).astype(np.int32)
    return Examples(rng.integers(0, 2**63, (num, 2)).astype(np.uint64), tokens, mask, offsets)
