"""Embeddings of examples against the model's own hidden states, one example at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.embed import Embedder, without_prompts
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.testing.tiny import random_examples, random_model

CPU = torch.device("cpu")


def expected_of(model, column: str, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    with torch.no_grad():
        states = model.base_model(input_ids=ids).last_hidden_state[0].double().numpy()
    weights = {
        "embedding": np.append(mask[1:], False).astype(float),  # the positions before the response's tokens
        "prompt_embedding": (~mask).astype(float),
        "position_weighted_embedding": np.arange(1.0, len(mask) + 1),
    }[column]
    mean = (weights[:, None] * states).sum(axis=0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("column", ["embedding", "prompt_embedding", "position_weighted_embedding"])
def test_embeddings_are_means_of_the_models_own_states(column, pack):
    model, examples = random_model("llama"), random_examples(20, seed=2)
    examples.mask[examples.offsets[:-1]] = False  # every one has a prompt
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=CPU, pack=pack)
    found = Embedder(column, loss, batching, tokens_per_batch=300, device=CPU)(examples)
    spread = np.linalg.norm(found - found.mean(axis=0), axis=1).mean()
    for row, (start, end) in enumerate(zip(examples.offsets[:-1], examples.offsets[1:], strict=True)):
        expected = expected_of(model, column, examples.tokens[start:end], examples.mask[start:end])
        assert np.linalg.norm(found[row] - expected) < 1e-4 * spread * 10


def test_projections_keep_similarities_and_depend_on_the_seed_alone():
    model, examples = random_model("llama"), random_examples(30, seed=2)
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=CPU)

    def embed(dim: int | None, seed: int = 0) -> np.ndarray:
        return Embedder("embedding", loss, batching, tokens_per_batch=300, device=CPU, dim=dim, seed=seed)(examples)

    whole, small = embed(None), embed(24)
    assert small.shape == (30, 24)
    np.testing.assert_array_equal(small, embed(24))
    assert not np.allclose(small, embed(24, seed=1))
    np.testing.assert_array_equal(embed(500), whole)
    upper = np.triu_indices(30, 1)
    assert np.corrcoef((whole @ whole.T)[upper], (small @ small.T)[upper])[0, 1] > 0.6


def test_the_projection_is_made_once_for_all_batches(monkeypatch):
    from s2l_ray.lm import embed

    made: list[tuple[int, ...]] = []
    signs = embed._signs

    def counted(*args: int) -> torch.Tensor:
        made.append(args)
        return signs(*args)

    monkeypatch.setattr(embed, "_signs", counted)
    model, examples = random_model("llama"), random_examples(30, seed=2)
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=CPU)
    assert len(batching.plan(examples.lengths, 100)) > 3
    embedder = Embedder("embedding", loss, batching, tokens_per_batch=100, device=CPU, dim=24)
    np.testing.assert_array_equal(embedder(examples), embedder(examples))
    assert len(made) == 1


def test_an_example_that_is_all_response_has_its_first_tokens_prompt():
    model, examples = random_model("llama"), random_examples(3)
    examples.mask[:] = True
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=CPU)
    found = Embedder("prompt_embedding", loss, batching, tokens_per_batch=300, device=CPU)(examples)
    first = Examples(
        examples.ids, examples.tokens[examples.offsets[:-1]], np.zeros(3, bool), np.arange(4, dtype=np.int64)
    )
    with torch.no_grad():
        for row in range(3):
            ids = torch.from_numpy(first.tokens[row : row + 1].astype(np.int64))[None]
            state = model.base_model(input_ids=ids).last_hidden_state[0, 0].numpy()
            np.testing.assert_allclose(found[row], state / np.linalg.norm(state), atol=1e-4)


def test_responses_alone_stand_behind_a_token_that_begins_them():
    tokens = np.array([10, 11, 12, 13, 20, 21, 22], np.int32)
    mask = np.array([0, 0, 1, 1, 0, 1, 0], bool)
    examples = Examples(np.zeros((2, 2), np.uint64), tokens, mask, np.array([0, 4, 7]))
    alone = without_prompts(examples, 1)
    assert alone.tokens.tolist() == [1, 12, 13, 1, 21]
    assert alone.mask.tolist() == [False, True, True, False, True]
    assert alone.offsets.tolist() == [0, 3, 5]
