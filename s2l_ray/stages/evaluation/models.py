"""Chooses the models to evaluate: targets of the run, the model before fine-tuning, or any other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2l_ray.artifacts.run import Run
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.evaluation import BASE, OTHER_MODEL
from s2l_ray.config.model import RENDER_FIELDS
from s2l_ray.config.schema import S2LConfig
from s2l_ray.config.subset_names import canonical
from s2l_ray.config.target import TargetConfig
from s2l_ray.errors import foreign_named, shown
from s2l_ray.evaluation.errors import EvaluationError
from s2l_ray.lm.exported import ModelSource
from s2l_ray.lm.identity import model_identity, pinned
from s2l_ray.storage.fingerprint import fingerprint


@dataclass(frozen=True)
class AskedModel:
    """A model to evaluate."""

    label: str
    """`s2l-0.11`, `full`, `base`, or `model-…` for a model that is not part of the run."""
    content: str
    """Fingerprint of weights and tokenizer."""
    source: ModelSource

    @property
    def config(self) -> TargetConfig:
        return self.source.config


def models_of(run: Run, config: S2LConfig, names: Sequence[str] | None, model: str | None = None) -> list[AskedModel]:
    """The models to evaluate.

    Args:
        names: targets, named by what they were trained on, and `base`; None: all targets.
        model: a hub id or folder to evaluate instead.

    Raises:
        EvaluationError: there is no such target, or no target at all.
    """
    if model is not None:
        return [_foreign(config, model)]
    return [_base(config) if name == BASE else _target(run, config, name) for name in asked_names(run, names)]


def asked_names(run: Run, names: Sequence[str] | None) -> list[str]:
    """What the models to evaluate are called; nothing of them is read.

    Raises:
        EvaluationError: there is no such target, or no target at all.
    """
    if names is None and not run.targets:
        raise EvaluationError(
            f"{run.uri} has no target yet, so there is nothing to evaluate; train one with `s2l finetune`, or name a "
            "model with --model"
        )
    asked = list(run.targets) if names is None else list(dict.fromkeys(map(canonical, names)))
    for name in asked:
        if name not in (*run.targets, BASE):
            known = ", ".join([*run.targets, BASE])
            raise EvaluationError(
                f"{run.uri} has no target {shown(name)}, so it cannot be evaluated (available: {known}); train it with "
                "`s2l finetune`"
            )
    return asked


def _target(run: Run, config: S2LConfig, name: str) -> AskedModel:
    stage = run.targets[name]
    asked = _as_trained(config.target or _of_proxy(config), run.stage(f"target-tokens/{name}"))
    if (stage.manifest.settings.get("lora") or {}).get("export") == "adapter":
        _check_base(asked, stage)
    return AskedModel(name, stage.content, ModelSource(asked, stage.storage.sub("model")))


def _as_trained(config: TargetConfig, tokens: Stage) -> TargetConfig:
    """The section with the rendering of the target's training, which `s2l finetune` may have changed for this target.

    Raises:
        EvaluationError: the settings of the target's tokens cannot be used.
    """
    trained = {name: value for name, value in tokens.manifest.settings.items() if name in RENDER_FIELDS}
    what = f"the manifest of {tokens.folder} does not say how its text was rendered, so its target cannot be asked"
    with foreign_named(EvaluationError, what, "Fine-tune the target again with this version of s2l_ray"):
        return TargetConfig.model_validate({**config.model_dump(mode="json"), **trained})


def _check_base(config: TargetConfig, stage: Stage) -> None:
    """Raises EvaluationError if the model of `config` is not the one to which the adapters of the target belong."""
    _, inputs = model_identity(config)
    now, trained = config.stored(include={"model", "revision", "gguf_file"}), stage.manifest
    if "model" in inputs and "model" in trained.inputs:
        same = inputs["model"] == trained.inputs["model"]
    else:  # the hub did not answer, then or now
        same = all(now[name] == trained.settings.get(name) for name in ("model", "revision"))
    if not same or now["gguf_file"] != trained.settings.get("gguf_file"):
        other = trained.settings.get("model")
        raise EvaluationError(
            f"{stage.folder} holds adapters of {shown(other) if other else 'another model'}, but target.model is "
            f"{shown(config.model)}, with which they would give other answers than in training; set target.model to "
            "the adapters' model, or fine-tune with target.lora.export=merged, which exports a whole model"
        )


def _of_proxy(config: S2LConfig) -> TargetConfig:
    """A section `target` for runs without one, with the proxy's rendering."""
    kept = {name: getattr(config.proxy, name) for name in (*RENDER_FIELDS, "max_length", "trust_remote_code")}
    return TargetConfig.model_validate({**kept, "model": config.proxy.model or "none"})


def _base(config: S2LConfig) -> AskedModel:
    target = config.target
    if target is None or target.model is None or target.random_weights:
        raise EvaluationError(
            "`base` is the target's model before fine-tuning, and this run's target starts from random weights (or "
            "there is none), so its answers would be meaningless; leave base out, or name a model with --model"
        )
    return _as_it_is(target.model_copy(update={"lora": None}), BASE)


def _foreign(config: S2LConfig, model: str) -> AskedModel:
    changes: dict[str, Any] = {
        "model": model, "revision": None, "gguf_file": None, "from_config": None, "random_weights": False,
        "tokenizer": None, "train_tokenizer": None, "lora": None, "max_length": 8,
    }  # fmt: skip
    asked = (config.target or _of_proxy(config)).model_copy(update=changes)
    name = Path(model).name if Path(model).exists() else model
    return _as_it_is(asked, OTHER_MODEL + (re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "unnamed"))


def _as_it_is(config: TargetConfig, label: str) -> AskedModel:
    places, inputs = model_identity(config)
    content = fingerprint([{"model": config.model, "revision": config.revision} | places, inputs])
    return AskedModel(label, content, ModelSource(pinned(config)))


def check_subsets(config: S2LConfig) -> None:
    """Refuse, before a run starts, to evaluate targets that it will not train.

    Raises:
        EvaluationError: `evaluation.subsets` names such a target.
    """
    names = (config.evaluation and config.evaluation.subsets) or []
    if config.target is None:
        return
    known = [*config.target_subsets(), BASE]
    for name in names:
        if name not in known:
            raise EvaluationError(
                f"evaluation.subsets names {shown(name)}, but no target of this run is fine-tuned on it, so it could "
                f"not be evaluated; there will be {', '.join(known)}"
            )
    if BASE in names:
        _base(config)
