"""A tiny real model that has learnt to answer: by programs where it is asked for one, and else in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.data.render import Renderer
from s2l_ray.evaluation.prompts import PROGRAM_STEM
from s2l_ray.lm.load import train_tokenizer

KINDS = {
    "A": ("print(6*7)", "It is 41."),  # the program is right, the sentence wrong
    "B": ("print(6*", "The answer is 42."),  # no program that runs
    "C": ("x=6*7", "The answer is 42."),  # one that prints nothing
    "D": ("print(41)", "The answer is 42."),  # one that prints a wrong answer: no reason to fall back
}
"""First letter of a question → its program and its sentence. The gold is always 42."""


def question(i: int) -> str:
    return f"{'ABCD'[i % 4]}{i:03d}?"


def questions(num: int) -> list[dict[str, Any]]:
    return [{"question": question(i), "answer": "42", "kind": question(i)[0]} for i in range(num)]


@pytest.fixture(scope="session")
def answering_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained once for all tests that ask it; whoever changes it takes a copy."""
    return train_answering_model(tmp_path_factory.mktemp("answering") / "model")


def train_answering_model(folder: Path, style: str = "plain", steps: int = 220) -> Path:
    """Trained in seconds on every kind of question, and saved as a target is."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    texts = [text for pair in KINDS.values() for text in pair] + [question(i) + PROGRAM_STEM for i in range(40)]
    tokenizer = train_tokenizer(iter(texts * 3), 300)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=96, vocab_size=len(tokenizer), tie_word_embeddings=True, initializer_range=0.05,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config)
    render = Renderer(tokenizer, style, 96)  # type: ignore[arg-type]
    chats = [
        [{"role": "user", "content": question(i) + stem}, {"role": "assistant", "content": KINDS["ABCD"[i % 4]][which]}]
        for i in range(200)
        for which, stem in ((0, PROGRAM_STEM), (1, ""))
    ]
    rows = [sequences[0] for sequences in render(chats) if isinstance(sequences, list)]
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        ids[i, : len(row.input_ids)] = torch.tensor(row.input_ids)
        labels[i, : len(row.input_ids)] = torch.tensor(
            [token if mine else -100 for token, mine in zip(row.input_ids, row.response_mask, strict=True)]
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    order = torch.Generator().manual_seed(0)
    for step in range(steps):
        chosen = torch.randint(len(rows), (32,), generator=order)
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        model(input_ids=ids[chosen], labels=labels[chosen]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
