from __future__ import annotations

import enum
import hashlib
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from s2l_ray.artifacts.manifest import ManifestError, StageManifest, read_manifest, write_manifest
from s2l_ray.artifacts.outputs import OutputFile, list_outputs, verify_outputs
from s2l_ray.storage.fingerprint import fingerprint
from s2l_ray.storage.folder import Storage
from tests.support.paths import ROOT

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Colour(str, enum.Enum):
    RED = "red"


class Inner(BaseModel):
    rate: float = 1.0


class Outer(BaseModel):
    inner: Inner = Inner()
    paths: list[str] = ["a"]


@dataclass
class Record:
    inner: Inner
    paths: tuple[str, ...]


def _reversed_keys(obj):
    if isinstance(obj, dict):
        return {key: _reversed_keys(obj[key]) for key in reversed(list(obj))}
    return tuple(_reversed_keys(value) for value in obj) if isinstance(obj, list) else obj


@pytest.mark.thorough
@given(PLAIN)
def test_fingerprint_ignores_key_order_and_survives_json(obj):
    print_ = fingerprint(obj)
    assert len(print_) == 32
    assert set(print_) <= set("0123456789abcdef")
    assert fingerprint(_reversed_keys(obj)) == print_
    assert fingerprint(json.loads(json.dumps(obj))) == print_


@pytest.mark.thorough
@given(PLAIN, PLAIN)
def test_different_data_have_different_fingerprints(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(one) == fingerprint(other)) == same


def test_fingerprint_is_the_same_for_ever():
    # Changing this value makes every existing run's stages run again.
    assert fingerprint({"b": [1, 0.1, None, True], "a": "é"}) == "394efcc0d485995a28aa073b3c6629fa"


def test_models_and_dataclasses_count_as_their_fields():
    plain = {"inner": {"rate": 1.0}, "paths": ["a"]}
    assert fingerprint(Outer()) == fingerprint(plain) == fingerprint(Record(Inner(), ("a",)))
    assert fingerprint(Outer(inner=Inner(rate=1.5))) != fingerprint(plain)
    assert fingerprint(np.float64(0.1)) == fingerprint(0.1)
    assert fingerprint(Colour.RED) == fingerprint("red")
    assert len({fingerprint(value) for value in (1, 1.0, True, "1", [1], None)}) == 6


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_fingerprint(value: float):
    with pytest.raises(ValueError, match=r"it\.a\[1\] is (nan|inf|-inf)"):
        fingerprint({"a": [0, value]})
    with pytest.raises(ValueError, match=r"it\.rate"):
        fingerprint(Inner(rate=value))


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), np.int64(3), np.zeros(2), Inner])
def test_unknown_types_have_no_fingerprint(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        fingerprint({"a": value})


def test_keys_must_be_strings():
    with pytest.raises(TypeError, match="key 1"):
        fingerprint({"a": {1: "x"}})


def _manifest(**changes) -> StageManifest:
    fields = {"stage": "corpus", "key": fingerprint("settings"), "row_counts": {"kept": 3}} | changes
    return StageManifest(**fields)


@pytest.mark.thorough
@pytest.mark.parametrize("where", ["local", "s3"])
def test_manifest_comes_back_as_written(where: str, tmp_path: Path, request: pytest.FixtureRequest):
    storage = Storage.open(tmp_path if where == "local" else request.getfixturevalue("s3_uri")).sub("corpus")
    assert read_manifest(storage) is None
    storage.write_bytes("parts/0.parquet", b"12345")
    manifest = _manifest(
        settings={"a": {"b": [1.5]}}, outputs=list_outputs(storage), seeds={"shuffle": 3}, warnings=["few rows"]
    )
    written = write_manifest(storage, manifest)
    assert read_manifest(storage) == written == manifest.model_copy(update={"digest": written.digest})
    digest = hashlib.sha256(b"12345").hexdigest()[:32]
    assert manifest.outputs == [OutputFile(name="parts/0.parquet", size=5, digest=digest)]
    assert verify_outputs(storage, manifest.outputs) == []
    assert list_outputs(storage) == manifest.outputs  # the manifest is not its own output


@pytest.mark.thorough
def test_versions_are_those_installed_and_nothing_is_imported():
    script = (
        "import sys; from s2l_ray.artifacts.manifest import StageManifest\n"
        "print(*sorted(StageManifest(stage='a', key='b').versions))\n"
        "assert not {'torch', 'ray', 'transformers', 'faiss'} & set(sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split()
    assert {"python", "numpy", "pyarrow", "torch"} <= set(shown)


def test_missing_and_torn_outputs_are_named(tmp_path: Path):
    storage = Storage.open(tmp_path)
    for name in ("a", "b", "c"):
        storage.write_bytes(name, b"123")
    manifest = _manifest(outputs=list_outputs(storage))
    storage.delete("a")
    storage.write_bytes("b", b"12")
    problems = verify_outputs(storage, manifest.outputs)
    assert len(problems) == 2
    assert [p.name for p in problems] == ["a", "b"]
    assert "a is missing" in problems[0].what
    assert "b in" in problems[1].what
    assert "has 2 bytes, 3 were written" in problems[1].what


def test_names_that_sound_like_secrets_are_stored_as_they_are(tmp_path: Path):
    storage = Storage.open(tmp_path)
    names = {"secret_test": "a", "password_qa": 12, "api_key": ["b"], "token": {"access_key": 2.5}}
    written = _manifest(
        settings={"template": "password={password}", **names}, row_counts={"secret_test": 3}, extra=names
    )
    stored = write_manifest(storage, written)
    assert read_manifest(storage) == stored == written.model_copy(update={"digest": stored.digest})


def test_unwritable_manifest_leaves_the_stage_incomplete(tmp_path: Path):
    storage = Storage.open(tmp_path)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_manifest(storage, _manifest(extra={"loss_nats": math.nan}))
    assert read_manifest(storage) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"stage": "cor', "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "not a stage's manifest"),
        (b'{"stage": "corpus"}', "not a stage's manifest"),
        (b'{"stage": "corpus", "key": "k", "schema_version": 99, "new": 1}', "newer version"),
    ],
)
def test_unusable_manifests_are_errors_that_name_the_file(tmp_path: Path, content: bytes, message: str):
    storage = Storage.open(tmp_path)
    storage.write_bytes("manifest.json", content)
    with pytest.raises(ManifestError, match=message) as error:
        read_manifest(storage)
    assert str(tmp_path) in str(error.value)
