"""Tokenizers that name more tokens than their model has embeddings for, ids with gaps, and mixtures of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from s2l_ray.artifacts.manifest import StageManifest
from s2l_ray.artifacts.models import HeldOutArtifact, TokensArtifact
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config import ProxyConfig, load_config
from s2l_ray.config.target import TargetConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.quarantine import QuarantineLimitError
from s2l_ray.errors import UserError
from s2l_ray.lm.checks import ModelError, about_experts
from s2l_ray.lm.exported import ModelSource
from s2l_ray.lm.load import load_model, load_model_config, train_tokenizer
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.lm.score import Scorer
from s2l_ray.lm.vocabulary import num_token_ids, pad_token_id_of
from s2l_ray.stages.corpus.stage import check_corpus_files
from s2l_ray.stages.training import check_before_training
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import SHAPES, random_examples, random_model, write_jsonl
from s2l_ray.workflow.preflight import preflight
from tests.support.families import FAMILIES, family_tokenizer

CPU = torch.device("cpu")
TRAINED = {"from_config": SHAPES["llama"], "train_tokenizer": {"vocab_size": 300}, "max_length": 64}
EXTRA = "<image_soft_token>"


def with_gaps() -> Any:
    """Twelve tokens, the largest id of which is 40."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: 4 * i for i, token in enumerate(["<eos>", "<pad>", *"abcdefgh"])} | {"<unk>": 40, "z": 38}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A pretrained model of 300 embeddings, whose tokenizer names one token more."""
    return save(tmp_path / "model", "chatml")


def save(folder: Path, family: str, *extra: str) -> Path:
    """A model with an embedding for each of the tokenizer's tokens, and a tokenizer to which one is added then."""
    tokenizer = family_tokenizer(family)
    fields = {**SHAPES["llama"], "vocab_size": len(tokenizer), "max_position_embeddings": 512}
    proxy = ProxyConfig(from_config=fields, tokenizer="x", max_length=64)
    load_model(proxy, tokenizer, 0).save_pretrained(folder)
    tokenizer.add_tokens([EXTRA, *extra], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


def tree(folder: Path, run: Path, **changes: Any) -> dict[str, Any]:
    settings = {"model": str(folder), "max_length": 128, "render": "chat_template", **changes}
    return {"corpus": {"quickstart": {}}, "proxy": TRAINED, "target": settings, "run_dir": str(run)}


def test_models_from_scratch_have_an_embedding_for_the_largest_id():
    tokenizer = with_gaps()
    assert (len(tokenizer), num_token_ids(tokenizer)) == (12, 41)
    fields = {name: value for name, value in SHAPES["llama"].items() if name != "vocab_size"}
    proxy = ProxyConfig(from_config=fields, tokenizer="x", max_length=64)
    model = load_model(proxy, tokenizer, 0)
    assert model.get_input_embeddings().num_embeddings == 41
    loss = ResponseLoss(model)
    examples = random_examples(6, vocab=41)
    examples.tokens[examples.mask] = 40
    batching = choose_batching(model, loss, pad_id=pad_token_id_of(tokenizer, 41), device=CPU)
    losses = Scorer(loss, batching, tokens_per_batch=300, device=CPU)(examples).losses
    assert np.isfinite(losses).all()


def test_a_model_from_scratch_that_is_only_asked_is_described_as_it_is_loaded(tmp_path):
    with_gaps().save_pretrained(tmp_path)
    fields = {name: value for name, value in SHAPES["llama"].items() if name != "vocab_size"}
    source = ModelSource(TargetConfig(from_config=fields, tokenizer=str(tmp_path), max_length=64))
    model = source.load(source.load_tokenizer(), torch.float32)
    assert source.load_config().vocab_size == model.config.vocab_size == 41


def test_special_tokens_beyond_a_given_vocabulary_are_none_of_the_models():
    proxy = ProxyConfig(from_config={**SHAPES["llama"], "vocab_size": 3}, tokenizer="x", max_length=64)
    config = load_model_config(proxy, tokenizer=with_gaps())
    assert (config.vocab_size, config.eos_token_id, config.pad_token_id) == (3, 0, None)


def test_what_fills_batches_up_has_an_embedding():
    tokenizer = train_tokenizer(iter(["a"]), 260)
    tokenizer.add_special_tokens({"pad_token": "<filler>"})
    assert tokenizer.pad_token_id == len(tokenizer) - 1
    assert pad_token_id_of(tokenizer, len(tokenizer)) == len(tokenizer) - 1
    assert pad_token_id_of(tokenizer, len(tokenizer) - 1) == tokenizer.eos_token_id
    tokenizer.eos_token = "<filler>"
    assert pad_token_id_of(tokenizer, len(tokenizer) - 1) == 0


def test_a_name_without_an_embedding_that_nothing_uses_does_no_harm(small, tmp_path):
    preflight(load_config(tree(small, tmp_path / "run")))
    rows = [{"messages": [{"role": "user", "content": f"See {EXTRA}"}, {"role": "assistant", "content": "No."}]}]
    path = str(write_jsonl(tmp_path / "a.jsonl", rows))
    # In a user's text a control token is ordinary text.
    check_corpus_files(load_config(tree(small, tmp_path / "run") | {"corpus": {"paths": [path]}}))


def test_what_every_example_holds_must_have_an_embedding(tmp_path):
    folder = save(tmp_path / "model", "chatml", "<turn_end>")
    end = rf"target\.model='.*model' has \d+ embeddings, but none for the token '{EXTRA}' \(id \d+\), which every"
    template = FAMILIES["chatml"].template.replace("<|im_end|>", EXTRA)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match=end):
        preflight(load_config(tree(folder, tmp_path / "run")))
    # The style of our own ends with EOS.
    preflight(load_config(tree(folder, tmp_path / "run", render="plain")))
    config = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(
        config.replace('"eos_token": "<|im_end|>"', f'"eos_token": "{EXTRA}"')
    )
    with pytest.raises(ModelError, match=end):
        preflight(load_config(tree(folder, tmp_path / "run", render="plain")))


@pytest.mark.parametrize("style", ["plain", "chat_template"])
def test_a_token_of_the_corpus_must_have_an_embedding(tmp_path, style):
    """Here an added token that is not special, so that it counts in texts too."""
    folder = save(tmp_path / "model", "chatml")
    tokenizer = family_tokenizer("chatml")
    tokenizer.add_tokens(["Zürich"])
    tokenizer.save_pretrained(folder)
    rows = [{"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": place}]}
            for place in ("Basel", "Zürich")]  # fmt: skip
    for used, path in ((rows[:1], "a.jsonl"), (rows, "b.jsonl")):
        corpus = {"paths": [str(write_jsonl(tmp_path / path, used))]}
        config = load_config(tree(folder, tmp_path / "run", render=style) | {"corpus": corpus})
        preflight(config)
        if len(used) == 1:
            check_corpus_files(config)
        else:
            with pytest.raises(ModelError, match=r"none for the token .Z.* which texts of the corpus use"):
                check_corpus_files(config)


def test_more_trained_tokens_than_embeddings_are_refused(tmp_path):
    proxy = {**TRAINED, "train_tokenizer": {"vocab_size": 301}}
    with pytest.raises(ModelError, match=r"proxy\.train_tokenizer\.vocab_size=301 exceeds the model's 300"):
        preflight(load_config({"corpus": {"quickstart": {}}, "proxy": proxy, "run_dir": str(tmp_path)}))


def stage(folder: Path, name: str, tables: dict[str, list[int]], artifact: Any) -> Stage:
    storage = Storage.open(folder)
    for file, ids in tables.items():
        storage.write_table(file, pa.table({"input_ids": pa.array([ids], pa.list_(pa.int32()))}))
    return Stage(name, name, storage, StageManifest(stage=name, key="k", extra=artifact.model_dump()))


@pytest.mark.parametrize("is_noted", [True, False])
def test_the_largest_id_of_all_tokens_is_looked_at_before_a_worker_starts(small, tmp_path, is_noted):
    """Also of tokens of an earlier version, whose manifest does not hold it, and of the held-out sets."""
    tokenizer = family_tokenizer("chatml")
    tokenizer.add_tokens([EXTRA], special_tokens=True)
    beyond = len(tokenizer) - 1
    proxy = ProxyConfig(model=str(small), max_length=64)

    def tokens(*ids: int) -> Stage:
        made = TokensArtifact(
            parts=[(0, 1)], num_examples=1, num_sequences=1, num_quarantined=0, num_tokens=1, num_response_tokens=1,
            sum_squared_lengths=1, max_length=1, style="plain", max_token_id=max(ids) if is_noted else None,
        )  # fmt: skip
        return stage(tmp_path / f"tokens{max(ids)}", "tokens", {f"parts/{part_name(0)}": list(ids)}, made)

    def heldout(*ids: int) -> Stage:
        return stage(tmp_path / f"heldout{max(ids)}", "heldout", {"a.parquet": list(ids)}, HeldOutArtifact(names=["a"]))

    assert check_before_training(proxy, tokenizer, tokens(beyond - 1), heldout(beyond - 1, 3)) == []
    with pytest.raises(ModelError, match=rf"'{EXTRA}' \(id {beyond}\), which texts of the corpus use"):
        check_before_training(proxy, tokenizer, tokens(2, beyond))
    with pytest.raises(ModelError, match=rf"'{EXTRA}' .* which texts of the held-out set 'a' use"):
        check_before_training(proxy, tokenizer, tokens(2), heldout(beyond))


# --- what the first rows tell before anything is started --------------------------------------------------------------


def test_a_template_that_no_row_passes_ends_the_run_before_it_starts(tmp_path):
    folder = save(tmp_path / "model", "gemma2")
    turns = [{"role": r, "content": f"Be {r}."} for r in ("system", "user", "assistant")]
    bad, good = {"messages": turns}, {"messages": turns[1:]}
    for rows, is_refused in (([bad] * 3, True), ([bad, good], False), ([bad] * 120, True)):
        corpus = {"paths": [str(write_jsonl(tmp_path / "a.jsonl", rows))]}
        config = load_config(tree(folder, tmp_path / "run") | {"corpus": corpus})
        preflight(config)
        if not is_refused:
            check_corpus_files(config)
            continue
        reason = r"target: none of the \d+ rows that were checked can be rendered.*System role not supported"
        with pytest.raises(QuarantineLimitError, match=reason):
            check_corpus_files(config)
    # Where the first file has none, the last is looked at.
    corpus = {
        "paths": [str(write_jsonl(tmp_path / name, rows)) for name, rows in (("b.jsonl", [bad]), ("c.jsonl", [good]))]
    }
    check_corpus_files(load_config(tree(folder, tmp_path / "run") | {"corpus": corpus}))


@pytest.mark.parametrize(
    ("template", "length", "words"),
    [("{{ 1 / 0 }}", 128, "target: render=chat_template cannot be used .* division by zero"),
     ("{{ 'far ' * 200 }}" + FAMILIES["chatml"].template, 128, "even a short question .* raise max_length")],
)  # fmt: skip
def test_a_targets_template_is_tried_before_the_proxy_is_trained(tmp_path, template, length, words):
    folder = save(tmp_path / "model", "chatml")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=words):
        preflight(load_config(tree(folder, tmp_path / "run", max_length=length)))


# --- mixtures of experts ----------------------------------------------------------------------------------------------

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 300, "pad_token_id": 0}  # fmt: skip
EXPERTS = {
    "mixtral": {"num_local_experts": 4, "output_router_logits": True},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 8},
    "deepseek_v3": {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "kv_lora_rank": 16,
                    "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
                    "num_key_value_heads": 4, "moe_intermediate_size": 32},
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPERTS)
def test_mixtures_of_experts_are_trained_on_the_next_token_alone_and_it_is_said(kind):
    proxy = ProxyConfig(from_config={"model_type": kind, **SMALL, **EXPERTS[kind]}, tokenizer="x", max_length=64)
    config = load_model_config(proxy)
    note = about_experts(config, proxy)
    assert note is not None
    assert "the proxy is a mixture of 4 experts per layer" in note
    assert "is left out" in note
    assert ("router_aux_loss_coef=0.001" in note) == (kind != "deepseek_v3")
    assert about_experts(random_model("llama").config, proxy) is None
    model = load_model(proxy, train_tokenizer(iter(["a"]), 260), 0)
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=CPU)  # which compares with the model's own
    examples = random_examples(4)
    total, nll, _ = loss.train()(batching.batch(examples, np.arange(4)))
    assert float(total.detach()) == pytest.approx(float(nll.sum()))
