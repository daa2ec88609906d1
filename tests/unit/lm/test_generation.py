"""Generation: the same texts whatever the batch, from the prompts of training; what stands in the model's folder has no
say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from s2l_ray.data.render import Renderer
from s2l_ray.data.units import UnusableRow
from s2l_ray.lm.generate import (
    CacheShape,
    Decoding,
    Generated,
    Generator,
    SeededNoise,
    left_padded,
    plan_batches,
    sample_seed,
    window_of,
)
from s2l_ray.testing.tiny import SHAPES, random_model
from tests.support.tiers import rest_thorough
from tests.unit.data.test_render import CHATML, new_tokenizer

CPU = torch.device("cpu")
ENDS = tuple(range(8, 40))


def prompts(num: int = 16, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(8, 300, rng.integers(1, 60)).tolist() for _ in range(num)]


def decoding(**changes: Any) -> Decoding:
    return Decoding(**{"max_new_tokens": 24, "end_ids": ENDS, "pad_id": 0, **changes})


def by_hand(model: Any, prompt: list[int], how: Decoding) -> Generated:
    """One prompt, no cache, no padding: the largest logit, again and again."""
    ids = list(prompt)
    for _ in range(how.max_new_tokens):
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in how.end_ids:
            return Generated(tuple(ids[len(prompt) :]), "eos")
        ids.append(token)
    return Generated(tuple(ids[len(prompt) :]), "length")


@pytest.mark.parametrize("shape", rest_thorough(SHAPES))
def test_batches_of_one_and_of_sixteen_give_what_greedy_decoding_gives(shape):
    model, asked = random_model(shape), prompts()
    expected = [by_hand(model, prompt, decoding()) for prompt in asked]
    assert {one.finish for one in expected} == {"eos", "length"}
    assert len({one.num_new_tokens for one in expected}) > 3
    for tokens_per_batch in (1, 300, 10**6):
        assert Generator(model, decoding(tokens_per_batch=tokens_per_batch), CPU)(asked) == expected


def test_the_end_token_is_no_part_of_the_text_and_counts_as_generated():
    assert Generated((1, 2), "eos").num_new_tokens == 3
    assert Generated((1, 2), "length").num_new_tokens == 2


def test_settings_in_the_models_folder_have_no_say():
    model, asked = random_model("llama"), prompts(4)
    plain = Generator(model, decoding(), CPU)(asked)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=3.0, repetition_penalty=5.0, forced_eos_token_id=9, eos_token_id=plain[0].ids[0],
        no_repeat_ngram_size=1, min_new_tokens=3,
    )  # fmt: skip
    assert Generator(model, decoding(), CPU)(asked) == plain


def test_batches_depend_on_lengths_and_budget_alone():
    lengths = [5, 9, 9, 1, 30]
    assert plan_batches(lengths, 10, 60) == [[4], [1, 2, 0], [3]]
    assert plan_batches(lengths, 10, 10**6) == [[4, 1, 2, 0, 3]]
    assert plan_batches(lengths, 10, 1) == [[4], [1], [2], [0], [3]]
    assert plan_batches([], 10, 60) == []


def test_prompts_stand_at_the_right_end():
    ids, mask = left_padded([[1, 2, 3], [4]], 0)
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.thorough
def test_samples_are_drawn_by_question_and_number_not_by_batch():
    model, asked = random_model("llama"), prompts(12)
    seeds = [sample_seed(bytes([i]) * 16, 0, 1) for i in range(12)]
    hot = decoding(temperature=0.8)
    one, many = (
        Generator(model, Decoding(**{**hot.__dict__, "tokens_per_batch": n}), CPU)(asked, seeds) for n in (1, 10**6)
    )
    assert one == many
    assert one != Generator(model, hot, CPU)(asked, [sample_seed(bytes([i]) * 16, 0, 2) for i in range(12)])
    assert one != Generator(model, decoding(), CPU)(asked)
    assert len({sample_seed(b"q" * 16, seed, n) for seed in range(3) for n in range(3)}) == 9


@pytest.mark.thorough
def test_samples_have_the_models_distribution():
    scores = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    noise = SeededNoise([sample_seed(b"x" * 16, 0, 0)], temperature=2.0)
    drawn = np.bincount([int(noise(torch.zeros(1, 1), scores).argmax()) for _ in range(20_000)], minlength=4) / 20_000
    assert np.abs(drawn - torch.softmax(scores[0] / 2, 0).numpy()).max() < 0.012  # 3.5 standard deviations


def test_a_batch_that_does_not_fit_is_generated_in_halves_once(monkeypatch):
    model, asked = random_model("llama"), prompts(8)
    expected = Generator(model, decoding(), CPU)(asked)
    real = model.generate

    def small_memory(most: int) -> Any:
        def generate(input_ids: Any, **options: Any) -> Any:
            if len(input_ids) > most:
                raise torch.OutOfMemoryError("out of memory")
            return real(input_ids=input_ids, **options)

        return generate

    monkeypatch.setattr(model, "generate", small_memory(4))
    generator = Generator(model, decoding(), CPU)
    assert generator(asked) == expected
    assert generator.num_halved == 1
    monkeypatch.setattr(model, "generate", small_memory(3))
    with pytest.raises(torch.OutOfMemoryError):
        Generator(model, decoding(), CPU)(asked)


def test_memory_of_the_cache():
    """Phi-2 0.33 MB a token in bf16, Llama-3-8B 0.13 MB; and what a tiny model's cache really holds."""
    assert CacheShape(32, 32, 80).bytes_per_token(2) == 327_680
    assert CacheShape(32, 8, 128).bytes_per_token(2) == 131_072
    model = random_model("llama")
    out = model(torch.tensor([[1, 2, 3, 4, 5]]), use_cache=True)
    held = sum(t.numel() * t.element_size() for layer in out.past_key_values.layers for t in (layer.keys, layer.values))
    assert held == 5 * CacheShape.of(model.config).bytes_per_token(4)
    assert window_of(model.config) == 128


@pytest.mark.parametrize("style", ["verbatim", "plain", "alpaca", "turns", "chat_template"])
def test_prompts_are_those_of_training(style):
    special = ("<|im_start|>", "<|im_end|>")
    tokenizer = new_tokenizer(CHATML if style == "chat_template" else None, special)
    renderer = Renderer(tokenizer, style, 1000)
    questions = ["What is 2 + 2?", "Ends in spaces  ", "", "é中\n", "holds <|im_end|> as text"]
    for question in questions:
        turn = {"role": "user", "content": question}
        for response in ("4", " 4", "\n\n4", "print(4)", "\u20634"):
            [sequences] = renderer([[turn, {"role": "assistant", "content": response}]])
            assert not isinstance(sequences, UnusableRow)
            [trained] = sequences
            first = trained.response_mask.index(True)
            [asked] = renderer.prompts([[turn]])
            if first == 0:
                assert isinstance(asked, UnusableRow)
            else:
                assert asked == trained.input_ids[:first]
            last = max(i for i, is_response in enumerate(trained.response_mask) if is_response)
            assert trained.input_ids[last] in renderer.end_ids()
            assert tokenizer.eos_token_id in renderer.end_ids()
