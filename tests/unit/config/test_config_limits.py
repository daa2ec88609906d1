"""What a configuration may hold: limits of files, numbers, texts and models, each with a message one can act on."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2l_ray.config import load_config
from s2l_ray.config.faults import section_at
from s2l_ray.config.schema import S2LConfig
from s2l_ray.errors import MAX_MESSAGE, S2LError
from s2l_ray.execution.local_ray import TempFolderError
from s2l_ray.lm.checks import ModelError, check_folder
from s2l_ray.lm.load import load_model_config
from s2l_ray.workflow.preflight import preflight
from tests.support.configurations import refused

BOMB = "\n".join(['a0: &a0 ["lol"]', *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (BOMB, "aliases"),
        ("a: &a [*a]", "deep"),
        ("name: " + "[" * 5000, "deep"),
        ("name: " + "{a: " * 5000, "deep"),
        ("# comment\n" * 100_000, "longer than"),
        ("a:\n" + "- a\n" * 50_000, "values"),
        ("seed: !!int x", "not valid YAML"),
        ("seed: !!timestamp x", "not valid YAML"),
        ("name: !!python/object/apply:os.system [id]", "not valid YAML"),
        ("name: !!binary aGVsbG8=", "name: b'hello' is binary"),
        ("name: !!set {a, b}", "of type set"),
        ("seed: " + "9" * 5000, "not valid YAML"),
        ("seed: 0x" + "f" * 5000, "a whole number of about"),
        ("seed: .inf", "seed: inf is not a finite number"),
        ("seed: 1e400", "seed: inf is not a finite number"),
        ("proxy: {from_config: {model_type: llama, rope_scaling: {1: 2}}}", "proxy.from_config.rope_scaling.1"),
        ("~: 1", "the key is nothing (null)"),
        ('name: "a\\0b"', "control character"),
    ],
)
def test_yaml_beyond_limits_is_refused_in_words(tmp_path, content, word):
    (tmp_path / "my.yaml").write_text(content)
    said = refused(str(tmp_path / "my.yaml"))
    assert word in said


def test_what_editors_write_is_read_and_dates_are_text(tmp_path):
    (tmp_path / "my.yaml").write_text("corpus: {paths: [2026-02-30]}\nproxy: {model: m}\n", "utf-16")
    assert load_config(str(tmp_path / "my.yaml")).corpus.paths == ["2026-02-30"]


def test_what_is_no_file_says_so(tmp_path):
    assert "is a folder" in refused(str(tmp_path))
    for name in ("a\0b", "x" * 10_000):
        assert "nothing to run" in refused(name) or "cannot be read" in refused(name)


@pytest.mark.parametrize("value", [datetime.date(2026, 1, 1), {1, 2}, b"x", math.nan, 2**63, "\ud800", "a\x1bb"])
def test_a_mapping_may_hold_plain_data_only(value):
    assert refused({"corpus": {"paths": ["a"]}, "proxy": {"model": value}}).count("proxy.model") == 1


def test_a_mapping_within_itself_is_refused():
    cyclic: dict[str, Any] = {}
    cyclic["corpus"] = cyclic
    assert "deep" in refused(cyclic)


def numbers(model: Any = S2LConfig, at: tuple[str, ...] = ()) -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        inner = section_at([*at, name])
        if inner is not None:
            found += numbers(inner, (*at, name))
        elif field.annotation in (int, float, int | None, float | None):
            found.append(".".join((*at, name)))
    return found


@pytest.mark.parametrize("path", numbers())
def test_every_number_has_an_upper_bound_and_is_no_boolean(path):
    assert f"{path}: " in refused("quickstart", f"{path}=9.0e+300", "corpus.huggingface.name=x")
    assert "boolean" in refused("quickstart", f"{path}=true")


def test_bounds_come_with_a_reason():
    said = refused("quickstart", "proxy.train_tokenizer.vocab_size=9999999999", "clusters.num_clusters=10000000000")
    assert "vocab_size: 9999999999 is above the limit of 1,000,000 (no model has a vocabulary that large)" in said
    assert "num_clusters: 10000000000 is above the limit of 1,000,000 (the centroids" in said
    said = refused("quickstart", "selection.options.s2l={guard: {rules: [local], neighbours: 5000}}")
    assert "the options of s2l: guard.neighbours: 5000 is above the limit of 1,024 (neighbours that far" in said


def test_all_contradictions_of_a_section_come_at_once_and_many_faults_are_counted():
    said = refused("quickstart", "proxy.max_length=512", "proxy.tokens_per_microbatch=9", "proxy.render=chat_template")
    assert said.count("\n  - ") == 3, said
    many = refused("quickstart", *(f"proxy.x{i}=1" for i in range(50)), "bad", "worse")
    assert "… and 40 more" in many
    assert "'bad'" in many


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"name={'x' * 300}", "at most 100 characters"),
        (f"run_dir=/tmp/{'é' * 120}", "240 bytes"),
        ("run_dir=' '", "not a valid folder name"),
        (f"proxy.model={'x' * 5000}", "longer than 4,096"),
        ("resources.proxy.custom_resources={GPU: 1}", "gpus_per_worker"),
        ("resources.proxy.custom_resources={disk: -1}", "cannot be reserved"),
        ("sweep.num_seeds=1000", "would not end"),
        ("target.max_shard_size=big", "max_shard_size"),
        ("proxy.from_config.num_hidden_layers=1000000000", "above the limit of 10,000"),
        ("proxy.from_config.model_type=[a]", "needs model_type"),
    ],
)
def test_texts_and_names_have_limits(override, words):
    overrides = ["sweep.budgets=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]"] if "num_seeds" in override else []
    assert words in refused("quickstart", override, *overrides)


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["hidden_size=50", "num_attention_heads=7"], "proxy.from_config"),
        (["hidden_size=-8"], "proxy.from_config"),
        (["hidden_size=abc"], "proxy.from_config"),
        (["hidden_size=1.0e+12"], "proxy.from_config"),
        (["vocab_size=1.0e+12"], "proxy.from_config"),
        (["num_hidden_layers=1.0e+9"], "proxy.from_config"),
        (["intermediate_size=[1.0e+12]"], "proxy.from_config"),
        (["num_attention_heads=0"], "proxy.from_config"),
        (["model_type=nothing"], "proxy.from_config"),
        (["model_type=bert"], "an encoder, "),
        (["model_type=bart"], "an encoder-decoder"),
        (["model_type=t5"], "an encoder-decoder"),
        (["model_type=vit"], "not a language model"),
        (["hidden_size=400000", "intermediate_size=1000000"], "GB of memory"),
    ],
)
def test_from_config_that_gives_no_usable_model_is_refused_before_anything_starts(tmp_path, fields, words):
    overrides = [f"proxy.from_config.{field}" for field in fields] + [f"run_dir={tmp_path}"]
    with pytest.raises(S2LError) as caught:
        preflight(load_config("quickstart", overrides))
    assert words in str(caught.value)
    assert len(str(caught.value)) <= MAX_MESSAGE


def folder_with(tmp_path: Path, **files: bytes) -> Path:
    config = {"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 300, "n_positions": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (tmp_path / name.replace("__", ".")).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no weights"),
        ({"pytorch_model__bin": b"x"}, "pickled"),
        ({"model__safetensors": b""}, "damaged"),
        ({"model__safetensors": b"\xff" * 100}, "damaged"),
        ({"model__safetensors": (10**6).to_bytes(8, "little") + b"{}"}, "damaged"),
        ({"config__json": b"{"}, "cannot be loaded"),
        ({"config__json": b"[" * 100_000}, "cannot be loaded"),
    ],
)
def test_damaged_model_folders_are_refused(tmp_path, files, words):
    model = load_config("mathinstruct_pythia70m", [f"proxy.model={folder_with(tmp_path, **files)}"]).proxy
    check = load_model_config if "config__json" in files else check_folder
    with pytest.raises(ModelError, match=words):
        check(model)


def test_a_folder_for_rays_sockets_that_is_too_long_is_refused_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 60)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with pytest.raises(TempFolderError, match="Set RAY_TMPDIR to a folder with a shorter path"):
        preflight(load_config("quickstart", [f"run_dir={tmp_path}"]))


@pytest.mark.parametrize(
    "field", ["rms_norm_eps=1.0e+16", "rms_norm_eps=-1.0", "rope_parameters={rope_theta: 5.0e+12}"]
)
def test_numbers_that_are_no_sizes_have_no_bound(field):
    minimal = ["corpus.quickstart={}", "proxy.from_config.model_type=llama", "proxy.train_tokenizer={}"]
    name, _, value = field.partition("=")
    fields = load_config({}, [*minimal, f"proxy.from_config.{field}"]).proxy.from_config
    assert fields is not None
    assert str(yaml.safe_load(value)) == str(fields[name])
