"""Tiny real models and corpora for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from s2l_ray.data.token_examples import Examples

SHAPES: dict[str, dict[str, Any]] = {
    "gpt_neox": {
        "model_type": "gpt_neox", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 128, "vocab_size": 300,
    },
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 300},
    "llama": {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "vocab_size": 300,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


def random_model(shape: str, seed: int = 0) -> Any:
    """Create a model with random weights large enough that a wrong mask or position affects the loss."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(SHAPES[shape])
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.3)
    return model.eval()


def random_examples(num: int, seed: int = 0, vocab: int = 300, max_length: int = 100) -> Examples:
    """Create examples of random tokens, each with at least one response token after its first token."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, max_length, num)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    mask = np.zeros(offsets[-1], dtype=bool)
    for start, length in zip(offsets[:-1], lengths, strict=True):
        first = int(rng.integers(0, length - 1))
        mask[start + first + 1 : start + length] = True
        mask[start] = rng.random() < 0.1
    tokens = rng.integers(2, vocab, offsets[-1]).astype(np.int32)
    ids = rng.integers(0, 2**63, (num, 2)).astype(np.uint64)
    return Examples(ids, tokens, mask, offsets)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def tiny_run_config(run_dir: Path, num_examples: int = 600, **changes: Any) -> dict[str, Any]:
    """Return a configuration whose run takes seconds: built-in corpus, a proxy of some ten thousand parameters."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "run_dir": str(run_dir),
        "corpus": {"quickstart": {"num_examples": num_examples}},
        "proxy": {
            "from_config": {
                "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
            "train_tokenizer": {"vocab_size": 300}, "render": "plain", "max_length": 64, "epochs": 2,
            "global_batch_size": 32, "learning_rate": 3e-3, "tokens_per_microbatch": 1024,
        },
        "trajectories": {"num_snapshots": 4, "tokens_per_batch": 1024},
        "clusters": {"num_clusters": 8},
        "selection": {"budgets": [0.1, 0.3]},
        "resources": {"proxy": {"cpus_per_worker": 1}, "target": {"cpus_per_worker": 1}},
    }  # fmt: skip
    for dotted, value in changes.items():
        node = tree
        *path, last = dotted.split("__")
        for name in path:
            node = node.setdefault(name, {})
        node[last] = value
    return tree
