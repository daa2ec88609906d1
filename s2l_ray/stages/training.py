"""Shared by the trainings of proxy and target: the settings that affect their results, and checks before they start."""

from __future__ import annotations

from typing import Any

from s2l_ray.artifacts.models import HeldOutArtifact, TokensArtifact
from s2l_ray.artifacts.run import part_rows
from s2l_ray.artifacts.stage import Stage
from s2l_ray.config.model import RENDER_FIELDS, TrainedModelConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.storage.folder import Storage

_KEY_EXCLUDES = {"log_every_steps", "checkpoint_every_steps", "compile", "seed", "precision", *RENDER_FIELDS}


def training_settings(model: TrainedModelConfig, precision: str, seed: int) -> dict[str, Any]:
    """The settings that a training's results depend on.

    Other settings are left out, so that a run can be resumed on other machines or with another number of workers.
    """
    return model.stored(exclude=_KEY_EXCLUDES) | {"precision": precision, "seed": seed}


def check_before_training(
    model: TrainedModelConfig, tokenizer: Any, tokens: Stage, heldout: Stage | None = None
) -> list[str]:
    """Refuse, on the driver, a model without an embedding for one of the token ids in its training data.

    Returns:
        Notes on the model for the user.

    Raises:
        ModelError: an embedding is missing; the message names the token.
    """
    from s2l_ray.lm.checks import about_experts
    from s2l_ray.lm.load import load_model_config
    from s2l_ray.lm.vocabulary import check_token_ids

    model_config = load_model_config(model, tokenizer=tokenizer)
    known = TokensArtifact.of(tokens).max_token_id
    if known is None:  # written by an earlier version
        names = [f"parts/{part_name(part)}" for part, _ in part_rows(tokens)]
        known = _largest_id(tokens.storage, names)
    check_token_ids(known, model_config, tokenizer, model, "texts of the corpus use")
    if heldout is not None:
        for name in HeldOutArtifact.of(heldout).names:
            largest = _largest_id(heldout.storage, [f"{name}.parquet"])
            check_token_ids(largest, model_config, tokenizer, model, f"texts of the held-out set {name!r} use")
    note = about_experts(model_config, model)
    return [] if note is None else [note]


def _largest_id(storage: Storage, names: list[str]) -> int:
    import pyarrow.compute as pc

    tables = storage.read_tables(names, ["input_ids"])
    return max((pc.max(pc.list_flatten(table["input_ids"])).as_py() or 0 for table in tables), default=0)
