"""Keys, folders and contents of a tiny run's stages, as they are committed: what moves code or names changes none.

A key that changes makes every user's stage again. Where that is meant, `pytest tests/ray/test_golden.py
--rewrite-golden` writes tests/data/golden_run.json anew; the commit says which keys changed, and why.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.storage.fingerprint import fingerprint
from tests.support.paths import ROOT

GOLDEN = ROOT / "tests/data/golden_run.json"
REWRITE = "pytest tests/ray/test_golden.py --rewrite-golden"
PORTABLE = "corpus"
"""Its content is the same everywhere."""
TOKENIZED = ("tokens", "target-tokens/full", "heldout")
"""Theirs is the same with the same version of the library that trains tokenizers. All other stages hold numbers of a
training."""


def golden_of(run: Run) -> dict[str, Any]:
    """Keys and folders as they are on every machine: inputs with another content elsewhere stand there by their names,
    and so do the files of the corpus, of which the place, the size and the time are read."""
    named: dict[str, str] = {}
    for name, stage in run.stages.items():
        named |= {} if name == PORTABLE else {stage.content: named.get(stage.content, name)}
    stages = {}
    for name, stage in run.stages.items():
        settings, inputs = dict(stage.manifest.settings), dict(stage.manifest.inputs)
        if name == "corpus":
            settings["paths"] = [Path(path).name for path in settings["paths"]]
            assert list(inputs) == ["files"]
            inputs["files"] = "the files"
        inputs |= {"tokenizer": "tokenizer"} if "tokenizer" in inputs else {}
        key = key_of(stage, settings, {n: named.get(content, content) for n, content in inputs.items()})
        folder = stage.folder.replace(stage.manifest.key[:12], key[:12]).replace(stage.manifest.key[:8], key[:8])
        stages[name] = {"key": key, "folder": folder}
        stages[name] |= {"content": stage.content} if name in (PORTABLE, *TOKENIZED) else {}
    return {"tokenizers": importlib.metadata.version("tokenizers"), "stages": stages}


def compared(golden: dict[str, Any], tokenizers: str) -> dict[str, dict[str, str]]:
    """Stage → what must be the same where this version of the library is installed."""
    stages = {name: dict(own) for name, own in golden["stages"].items()}
    for name in TOKENIZED if golden["tokenizers"] != tokenizers else ():
        del stages[name]["content"]
    return stages


def key_of(stage: Stage, settings: dict[str, Any], inputs: dict[str, str]) -> str:
    made = stage.name if stage.name.startswith("subset/") else stage.folder.partition("/")[0]
    return fingerprint({"stage": made, "settings": settings, "inputs": inputs})


def test_keys_folders_and_contents_are_the_committed_ones(finished_target: Run, request: pytest.FixtureRequest):
    stages = finished_target.stages
    for stage in stages.values():
        assert key_of(stage, stage.manifest.settings, stage.manifest.inputs) == stage.manifest.key
    if stages["proxy"].manifest.settings["precision"] != "fp32":
        pytest.skip("on GPUs trainings have another precision, which is in their keys")
    made = golden_of(finished_target)
    if request.config.getoption("--rewrite-golden"):
        GOLDEN.write_text(json.dumps(made, indent=2) + "\n")
    golden = json.loads(GOLDEN.read_text())
    expected, found = compared(golden, made["tokenizers"]), compared(made, golden["tokenizers"])
    changed = {name: (expected.get(name), found.get(name)) for name in found.keys() | expected.keys()
               if expected.get(name) != found.get(name)}  # fmt: skip
    assert not changed, (
        f"of these stages key, folder or content is another than in {GOLDEN.name}: {sorted(changed)}. Every user's "
        f"would be made again. If that is meant, run `{REWRITE}` and say in the commit which keys changed and why.\n"
        f"{changed}"
    )
