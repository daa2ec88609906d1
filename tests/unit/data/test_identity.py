"""What a model, a tokenizer or a table is known by: its content; not its place, its times or who saved it how."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.config.schema import ProxyConfig, TargetConfig
from s2l_ray.lm import identity
from s2l_ray.lm.identity import folder_digest, model_identity, pinned, tokenizer_digest, tokenizer_identity
from s2l_ray.storage.digests import columns_digest
from s2l_ray.storage.folder import Storage

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("a model")
    return folder


def proxy(model: Path | str, **settings: object) -> TrainedModelConfig:
    return ProxyConfig.model_validate({"model": str(model), **settings})


def test_a_model_that_is_moved_copied_touched_or_described_is_the_same(model_folder, tmp_path):
    before = model_identity(proxy(model_folder))
    assert before[0] == {"model": None}, "its place is no setting"
    shutil.copytree(model_folder, tmp_path / "elsewhere" / "copy")
    os.utime(model_folder / "config.json", ns=(1, 1))
    (model_folder / "README.md").write_text("the same model, better described")
    assert model_identity(proxy(model_folder)) == before
    assert model_identity(proxy(tmp_path / "elsewhere" / "copy")) == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_one_changed_byte_of_the_same_size_and_time_is_another_model(model_folder, name):
    config = proxy(model_folder)
    before, tokenizer = model_identity(config), tokenizer_identity(config)
    path = model_folder / name
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert model_identity(config) != before
    assert (tokenizer_identity(config) == tokenizer) == (name == "model.safetensors"), "weights are no tokenizer's"


def test_swapped_contents_and_renamed_files_are_another_model(model_folder):
    before = folder_digest(model_folder)
    (model_folder / "config.json").rename(model_folder / "x")
    (model_folder / "tokenizer.json").rename(model_folder / "config.json")
    (model_folder / "x").rename(model_folder / "tokenizer.json")
    assert folder_digest(model_folder) != before


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's local cache, with one model of two branches."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(identity, "_resolved", {})
    refs = tmp_path / "hub/models--some--model/refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    (refs / "step-5").write_text(OTHER)
    return refs


def test_without_the_hub_a_branch_is_the_commit_in_the_local_cache(cache):
    by_default, by_branch, by_commit = (proxy("some/model", revision=revision) for revision in (None, "main", COMMIT))
    assert model_identity(by_default) == ({"revision": None}, {"model": COMMIT})
    assert model_identity(by_default) == model_identity(by_branch) == model_identity(by_commit)
    assert model_identity(proxy("some/model", revision="step-5"))[1] == {"model": OTHER}
    assert tokenizer_identity(by_branch) == ({"revision": None}, {"tokenizer": COMMIT})
    assert pinned(by_branch).revision == COMMIT
    assert by_branch.revision == "main", "the configuration stays as it was written"


def test_a_branch_that_moved_is_another_model_and_is_asked_for_once_a_process(cache, monkeypatch):
    before = model_identity(proxy("some/model"))
    (cache / "main").write_text(OTHER)
    assert model_identity(proxy("some/model")) == before, "all stages of a run have the same"
    monkeypatch.setattr(identity, "_resolved", {})
    assert model_identity(proxy("some/model"))[1] == {"model": OTHER}


def test_what_is_in_no_cache_keeps_its_revision_as_a_setting(cache):
    unknown = proxy("no/such", revision="v2")
    assert model_identity(unknown) == ({}, {})
    assert pinned(unknown) == unknown


def test_a_target_with_a_tokenizer_of_its_own_depends_on_both(cache, model_folder):
    target = TargetConfig.model_validate({"model": "some/model", "tokenizer": str(model_folder)})
    settings, inputs = model_identity(target)
    assert settings == {"tokenizer": None, "revision": None}
    assert inputs == {"model": COMMIT, "tokenizer": folder_digest(model_folder, weights=False)}


def saved_tokenizer(folder: Path, offline: bool = True) -> list[tuple[str, bytes]]:
    from huggingface_hub import constants
    from transformers import AutoTokenizer

    from s2l_ray.lm.load import train_tokenizer

    source = folder / "source"
    train_tokenizer(iter(["one two three", "two three four"] * 9), 280).save_pretrained(source)
    out = folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", offline)
        AutoTokenizer.from_pretrained(str(source)).save_pretrained(out)
    return [(path.name, path.read_bytes()) for path in out.iterdir()]


def test_a_tokenizer_is_the_same_whether_it_was_loaded_offline_or_not_and_by_whichever_version(tmp_path):
    online = saved_tokenizer(tmp_path / "a", offline=False)
    offline = saved_tokenizer(tmp_path / "b", offline=True)
    assert dict(online) != dict(offline), "transformers writes the difference into the files"
    assert tokenizer_digest(online) == tokenizer_digest(offline)
    later = [(n, c if n != "tokenizer_config.json" else noted(c, transformers_version="9.9")) for n, c in online]
    assert tokenizer_digest(later) == tokenizer_digest(online)


@pytest.mark.parametrize(
    ("name", "change"),
    [("tokenizer_config.json", {"eos_token": "</s>"}), ("tokenizer_config.json", {"chat_template": "{{ x }}"}),
     ("tokenizer.json", {"version": "2.0"})],
)  # fmt: skip
def test_what_a_tokenizer_does_counts(tmp_path, name, change):
    files = saved_tokenizer(tmp_path)
    changed = [(n, noted(c, **change) if n == name else c) for n, c in files]
    assert tokenizer_digest(changed) != tokenizer_digest(files)


def noted(content: bytes, **values: object) -> bytes:
    return json.dumps(json.loads(content) | values).encode()


# --- tables ---------------------------------------------------------------------------------------------------------


def table(num: int = 200_000) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "id": pa.array([rng.bytes(16) for _ in range(num)], pa.binary(16)),
            "rank": pa.array(rng.integers(0, num, num)),
            "loss": pa.array(rng.normal(size=num).astype(np.float32)),
            "name": pa.array([f"é{i % 7}" if i % 5 else None for i in range(num)]),
        }
    )


@pytest.mark.thorough
def test_columns_are_known_by_their_values_however_they_are_stored(tmp_path):
    whole, storage = table(), Storage.open(tmp_path)
    digest = columns_digest(whole)
    pieces = [whole.slice(0, 7), whole.slice(7, 0), whole.slice(7, 99_999), whole.slice(100_006)]
    assert columns_digest(pa.concat_tables(pieces)) == digest
    assert columns_digest(pieces) == digest
    for options in ({"compression": "zstd", "row_group_size": 1000}, {"compression": "none", "version": "1.0"}):
        storage.write_table("t.parquet", whole, **options)
        assert columns_digest(storage.read_table("t.parquet")) == digest


@pytest.mark.parametrize("column", ["id", "rank", "loss", "name"])
def test_any_other_value_or_order_is_another_digest(column):
    whole = table(5000)
    at = whole.schema.get_field_index(column)
    values = whole[column].to_pylist()
    swapped = [values[4999], *values[1:4999], values[0]]
    assert columns_digest(whole.set_column(at, column, pa.array(swapped, whole.schema.field(at).type))) != (
        columns_digest(whole)
    )
    assert columns_digest(whole.slice(1)) != columns_digest(whole)
    assert columns_digest(whole, ["rank"]) != columns_digest(whole, ["rank", "loss"])


def test_texts_that_join_to_the_same_are_different():
    one, other = pa.table({"a": ["ab", "c"]}), pa.table({"a": ["a", "bc"]})
    assert columns_digest(one) != columns_digest(other)
