"""Targets are asked as they were trained, whatever the run's configuration says by now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2l_ray.artifacts.manifest import StageManifest
from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config import load_config
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.lm.identity import folder_digest
from s2l_ray.stages.evaluation.models import models_of
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import tiny_run_config


def a_run(tmp_path: Path, target: dict[str, Any], tokens: dict[str, Any], lora: str | None, digest: str) -> Run:
    """With one target, `full`, as its manifests tell it."""
    tree = tiny_run_config(tmp_path / "run")
    tree["target"] = {**tree["proxy"], "from_config": None, "train_tokenizer": None, **target}
    run = Run(load_config(tree), Storage.open(tmp_path / "run"))
    settings = {"model": None, "lora": lora and {"export": lora}}
    for name, manifest in {
        "target-tokens/full": StageManifest(stage="target-tokens/full", key="t", settings=tokens),
        "target/full": StageManifest(
            stage="target/full", key="f", settings=settings, inputs={"model": digest}, content_fingerprint="c"
        ),
    }.items():
        run.stages[name] = Stage(name, name, run.storage.sub(name), manifest, reused=True)
    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    return tmp_path / "model"


def test_prompts_are_rendered_as_in_the_training(model, tmp_path):
    trained = {"model": None, "render": "plain", "template_date": "2025-01-02", "max_length": 9}
    run = a_run(tmp_path, {"model": str(model), "render": "chat_template"}, trained, None, "")
    [asked] = models_of(run, run.config, None)
    assert (asked.config.render, str(asked.config.template_date)) == ("plain", "2025-01-02")
    assert asked.config.model == str(model)
    assert asked.config.max_length == run.config.target.max_length  # type: ignore[union-attr]


def test_rendering_that_no_version_knows_is_refused(model, tmp_path):
    run = a_run(tmp_path, {"model": str(model)}, {"render": "runes"}, None, "")
    with pytest.raises(EvaluationError, match=r"target-tokens/full does not say how its text was rendered"):
        models_of(run, run.config, None)


@pytest.mark.parametrize("lora", [None, "merged", "adapter"])
def test_adapters_are_asked_on_their_own_base_alone(model, tmp_path, lora):
    digest = folder_digest(model)
    run = a_run(tmp_path, {"model": str(model)}, {}, lora, digest)
    assert models_of(run, run.config, None)[0].label == "full"
    (model / "config.json").write_text('{"other": 1}')
    if lora == "adapter":
        with pytest.raises(EvaluationError, match=r"target/full holds adapters of another model, but target\.model is"):
            models_of(run, run.config, None)
    else:  # a whole model: its base does not matter any more
        assert models_of(run, run.config, None)[0].label == "full"
