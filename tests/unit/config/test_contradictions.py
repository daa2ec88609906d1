"""Configurations whose settings contradict each other: one side of an either-or, and what does not go together."""

from __future__ import annotations

import pytest

from s2l_ray.config import load_config
from tests.support.configurations import MINIMAL, SCRATCH, refused

# --- either-or ------------------------------------------------------------------------------------------------------


def test_one_side_of_an_either_or_replaces_the_files_other_side():
    config = load_config("quickstart", ["proxy.model=some/model"])
    assert (config.proxy.from_config, config.proxy.train_tokenizer) == (None, None)
    config = load_config("quickstart", ["proxy.tokenizer=some/tokenizer"])
    assert config.proxy.train_tokenizer is None
    config = load_config("quickstart", ["corpus.huggingface.name=a/b"])
    assert config.corpus.quickstart is None
    config = load_config("mathinstruct_pythia70m", ["corpus.paths=[my.jsonl]"])
    assert (config.corpus.huggingface, config.corpus.paths) == (None, ["my.jsonl"])
    pinned = {**MINIMAL, "proxy": {"model": "m", "revision": "abc"}}
    config = load_config(pinned, ["proxy.from_config.model_type=gpt2", "proxy.train_tokenizer.vocab_size=300"])
    assert (config.proxy.model, config.proxy.revision) == (None, None)


def test_null_replaces_nothing():
    assert load_config("quickstart", ["proxy.model=null"]) == load_config("quickstart")


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corpus.paths=[a]", "corpus.huggingface.name=b"], "given: paths and huggingface"),
        (["proxy.model=m", "proxy.from_config.model_type=gpt2"], "exactly one of proxy.model"),
        (["proxy.tokenizer=t", "proxy.train_tokenizer.vocab_size=300"], "exclude each other"),
        (["proxy.model=m", "proxy.train_tokenizer.vocab_size=300"], "random_weights"),
    ],
)
def test_two_sides_on_the_command_line_are_a_contradiction(overrides, message, flip):
    assert message in refused("quickstart", *(reversed(overrides) if flip else overrides))


def test_own_tokenizer_for_random_weights_may_come_in_any_order():
    overrides = ["proxy.train_tokenizer.vocab_size=300", "proxy.model=m", "proxy.random_weights=true"]
    assert load_config("quickstart", overrides) == load_config("quickstart", overrides[::-1])


# --- contradictions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "overrides", "words"),
    [
        (MINIMAL, ["corpus.paths=[]"], ["given: none of them", "corpus.paths=["]),
        (MINIMAL, ["corpus.format=template"], ["corpus.template.prompt"]),
        (MINIMAL, ["corpus.format=messages", "corpus.template={prompt: '{a}', response: '{b}'}"], ["'messages'"]),
        (MINIMAL, ["corpus.template={prompt: '{}', response: '{b}'}"], ["'{}'", "{column}"]),
        (MINIMAL, ["corpus.template={prompt: '{a', response: '{b}'}"], ["'{a'", "{{ and }}"]),
        (MINIMAL, ["corpus.template={prompt: '{a!r}', response: '{b}'}"], ["'{a!r}'"]),
        (MINIMAL, ["corpus.template={prompt: '{a:>9}', response: '{b}'}"], ["'{a:>9}'"]),
        (MINIMAL, ["corpus.template={prompt: '{a}', response: 'yes'}"], ["'yes'", "no column"]),
        (MINIMAL, ["proxy.model=null"], ["model=None", "from_config=None"]),
        (SCRATCH, ["proxy.from_config={hidden_size: 8}"], ["model_type"]),
        (SCRATCH, ["proxy.train_tokenizer=null"], ["no tokenizer", "proxy.train_tokenizer"]),
        (SCRATCH, ["proxy.revision=abc"], ["'abc'", "remove"]),
        (SCRATCH, ["proxy.render=chat_template"], ["no chat template", "render=plain"]),
        (SCRATCH, ["proxy.from_config.max_position_embeddings=64"], ["512", "64", "lower the former"]),
        (MINIMAL, ["proxy.train_tokenizer.vocab_size=300"], ["wrong token", "random_weights"]),
        (MINIMAL, ["proxy.tokens_per_microbatch=100"], ["=100", "=512", "raise the one"]),
        (MINIMAL, ["trajectories.tokens_per_batch=100"], ["=100", "=512", "raise the one"]),
        (MINIMAL, ["proxy.max_steps=11"], ["num_snapshots=12", "max_steps=11", "lower the one"]),
        (MINIMAL, ["proxy.max_steps=10", "trajectories.include_step_zero=true"], ["num_snapshots=12", "max_steps=10"]),
        (
            MINIMAL,
            ["selection.stratify=true", "corpus.source_column=null"],
            ["corpus.source_column", "name the column"],
        ),
        (MINIMAL, ["selection.selectors=[random_per_source]", "corpus.source_column=null"], ["corpus.source_column"]),
        (MINIMAL, ["proxy.render=alpaca", "corpus.format=sharegpt"], ["alpaca", "sharegpt", "use render=plain"]),
    ],
)
def test_contradictions_say_value_and_cure(base, overrides, words):
    said = refused(base, *overrides)
    assert [w for w in words if w not in said] == [], said


@pytest.mark.parametrize(
    "overrides",
    [
        ["proxy.max_steps=12"],
        ["proxy.max_steps=11", "trajectories.include_step_zero=true"],
        ["proxy.tokens_per_microbatch=512", "trajectories.tokens_per_batch=512"],
        ["corpus.template={prompt: '{{a}} {b}', response: '{c}'}", "corpus.format=template"],
        ["resources.device=gpu", "proxy.precision=bf16"],
    ],
)
def test_what_just_fits_is_accepted(overrides):
    load_config(MINIMAL, overrides)
