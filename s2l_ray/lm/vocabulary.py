"""Check token ids against a model's embeddings.

A tokenizer may have more tokens than its model has embeddings (Gemma 3's image tokens). This is harmless as long as no
text uses them; otherwise, training would fail with an index out of range.
"""

from __future__ import annotations

from typing import Any

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.errors import shown
from s2l_ray.lm.checks import ModelError


def num_token_ids(tokenizer: Any) -> int:
    """Return the tokenizer's largest id plus one, which exceeds its number of tokens if ids are left out."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def pad_token_id_of(tokenizer: Any, num_embeddings: int) -> int:
    """Return the token that pads batches: nothing attends to it, but it needs an embedding."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(i) for i in ids if i is not None and i < num_embeddings), 0)


def check_token_ids(largest: int, model_config: Any, tokenizer: Any, config: TrainedModelConfig, where: str) -> None:
    """Raise ModelError if a used token has no embedding.

    Args:
        largest: the largest token id in use.
        model_config: the model's `transformers` config.
        where: what uses the token, as subject and verb, for the message.
    """
    num_embeddings = getattr(model_config.get_text_config(), "vocab_size", None)
    if not isinstance(num_embeddings, int) or largest < num_embeddings:
        return
    here = config.section
    if config.from_config is not None:
        name, cure = f"{here}.from_config", f"raise {here}.from_config.vocab_size, or remove it"
    else:
        name = f"{here}.model={shown(config.model)}"
        cure = f"remove {here}.tokenizer" if config.tokenizer else "remove the token from the texts and chat template"
        cure += ", or use a model that has all of its tokenizer's tokens"
    raise ModelError(
        f"{name} has {num_embeddings:,} embeddings, but none for the token {name_of(largest, tokenizer)} (id "
        f"{largest:,}), which {where}, so training would fail; {cure}"
    )


def check_trained_vocabulary(model_config: Any, config: TrainedModelConfig) -> None:
    """Raise ModelError if a tokenizer to be trained on the corpus would have more tokens than the model embeddings."""
    assert config.train_tokenizer is not None
    num_embeddings, wanted = getattr(model_config.get_text_config(), "vocab_size", None), config.train_tokenizer
    if isinstance(num_embeddings, int) and wanted.vocab_size > num_embeddings:
        here = f"{config.section}.train_tokenizer.vocab_size"
        raise ModelError(
            f"{here}={wanted.vocab_size} exceeds the model's {num_embeddings:,} embeddings, so some tokens would have "
            f"none; set {here}={num_embeddings} or less"
        )


def name_of(token_id: int, tokenizer: Any) -> str:
    """Return the tokenizer's name of a token, quoted."""
    return shown(tokenizer.convert_ids_to_tokens(token_id))
