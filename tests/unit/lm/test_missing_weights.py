"""A checkpoint that lacks weights is refused: `transformers` would fill them with random numbers."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.config.proxy import ProxyConfig
from s2l_ray.config.target import TargetConfig
from s2l_ray.lm.exported import ModelSource
from s2l_ray.lm.load import ModelError, load_model
from s2l_ray.storage.folder import Storage
from s2l_ray.storage.retry import DamagedFile
from s2l_ray.testing.tiny import SHAPES, random_model
from tests.support.tiers import rest_thorough


class Tokens(SimpleNamespace):
    def __len__(self) -> int:
        return 300


def load(folder: Path, kind: type[TrainedModelConfig] = ProxyConfig) -> Any:
    return load_model(kind(model=str(folder), max_length=64), Tokens(), seed=0)


@pytest.fixture(params=rest_thorough(SHAPES))
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    random_model(request.param).save_pretrained(tmp_path)
    return tmp_path / "model.safetensors", load_file(tmp_path / "model.safetensors")


def test_a_whole_one_is_loaded_with_and_without_tied_weights(checkpoint, caplog):
    file, weights = checkpoint
    model = load(file.parent)
    assert model.config.tie_word_embeddings == ("lm_head.weight" not in weights and "embed_out.weight" not in weights)
    names = dict(model.named_parameters())
    assert all(torch.equal(names[name], tensor) for name, tensor in weights.items() if name in names)
    assert not [r for r in caplog.records if r.name == "s2l_ray.lm.load"]


def test_every_missing_weight_is_an_error_that_names_it(checkpoint):
    file, weights = checkpoint
    for name in weights:
        save_file({n: t for n, t in weights.items() if n != name}, file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"lacks \d of the model's weights .*which would be random") as caught:
            load(file.parent, TargetConfig)
        assert name.replace("embed_out", "lm_head") in str(caught.value), "GPT-NeoX's head has a new name in memory"
        assert "target.random_weights=true" in str(caught.value)


def test_of_many_the_first_are_named(checkpoint):
    file, weights = checkpoint
    first = sorted(weights)[0]
    save_file({first: weights[first]}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks \d\d of the model's weights .*, … and \d+ more\)") as caught:
        load(file.parent)
    assert len(str(caught.value)) < 1000


def test_a_model_without_its_head_is_refused_unless_the_head_is_tied(tmp_path):
    for shape in SHAPES:
        model = random_model(shape)
        model.base_model.save_pretrained(tmp_path / shape)
        if model.config.tie_word_embeddings:
            assert torch.equal(
                load(tmp_path / shape).get_output_embeddings().weight, model.get_output_embeddings().weight
            )
        else:
            with pytest.raises(ModelError, match=r"lacks 1 of .*without a language-model head"):
                load(tmp_path / shape)


def test_what_a_checkpoint_has_beyond_the_model_is_said_in_one_line(checkpoint, caplog):
    file, weights = checkpoint
    save_file(weights | {"value_head.weight": torch.zeros(3)}, file, metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, "s2l_ray"):
        load(file.parent)
    [record] = [r for r in caplog.records if r.name == "s2l_ray.lm.load"]
    assert (
        "contains 1 weights that the model does not have, which are ignored: value_head.weight" in record.getMessage()
    )


@pytest.mark.thorough
def test_models_that_threads_load_at_once_are_whole_and_so_are_later_ones(tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path)  # its head is tied to the embeddings
    with ThreadPoolExecutor(4) as pool:
        models = [*pool.map(lambda _: load(tmp_path), range(24)), load(tmp_path)]
    assert all(model.lm_head.weight is model.model.embed_tokens.weight for model in models)


@pytest.mark.parametrize("checkpoint", ["llama"], indirect=True)
def test_an_exported_model_that_was_changed_is_not_loaded(checkpoint):
    file, weights = checkpoint
    folder = Storage.open(file.parent)
    source = ModelSource(
        TargetConfig(model="unused", max_length=64),
        folder.checked({e.name: folder.digest(e.name) for e in folder.list()}),
    )
    assert source.load(Tokens(), torch.float32).config.model_type == "llama"
    save_file({name: tensor + 1 for name, tensor in weights.items()}, file, metadata={"format": "pt"})
    with pytest.raises(DamagedFile, match=r"model\.safetensors is damaged: its digest is"):
        source.load(Tokens(), torch.float32)
    source.load_config()  # reads no weights
    (file.parent / "config.json").write_text("{}")
    with pytest.raises(DamagedFile, match=r"config\.json is damaged"):
        source.load_config()
