"""Token ids and embeddings.

A tokenizer may name more tokens than its model has embeddings for (Gemma 3's image tokens). That does no harm as long
as no text uses them; where one does, training would end in an index out of range.
"""

from __future__ import annotations

from typing import Any

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.errors import shown
from s2l_ray.lm.checks import ModelError


def num_token_ids(tokenizer: Any) -> int:
    """The tokenizer's largest id and one: more than its number of tokens where ids are left out."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def pad_token_id_of(tokenizer: Any, num_embeddings: int) -> int:
    """What fills batches up. Nothing ever looks at it, but it needs an embedding."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((int(i) for i in ids if i is not None and i < num_embeddings), 0)


def check_token_ids(largest: int, model_config: Any, tokenizer: Any, config: TrainedModelConfig, where: str) -> None:
    """Raise ModelError if a token that is used has no embedding.

    Args:
        largest: the largest id that is used.
        model_config: of `transformers`.
        where: what uses it, for the message.
    """
    num_embeddings = getattr(model_config.get_text_config(), "vocab_size", None)
    if not isinstance(num_embeddings, int) or largest < num_embeddings:
        return
    here = config.section
    if config.from_config is not None:
        name, cure = f"{here}.from_config", f"raise {here}.from_config.vocab_size, or leave it out"
    else:
        name = f"{here}.model={shown(config.model)}"
        cure = f"leave {here}.tokenizer out" if config.tokenizer else "leave it out of the texts and the chat template"
        cure += ", or use a model that has all of its tokenizer's tokens"
    raise ModelError(
        f"{name} has {num_embeddings:,} embeddings, and none for the token {name_of(largest, tokenizer)} (id "
        f"{largest:,}), which {where}, so training would fail; {cure}"
    )


def check_trained_vocabulary(model_config: Any, config: TrainedModelConfig) -> None:
    """Raise ModelError if a tokenizer that is to be trained on the corpus would have more tokens than embeddings."""
    assert config.train_tokenizer is not None
    num_embeddings, wanted = getattr(model_config.get_text_config(), "vocab_size", None), config.train_tokenizer
    if isinstance(num_embeddings, int) and wanted.vocab_size > num_embeddings:
        here = f"{config.section}.train_tokenizer.vocab_size"
        raise ModelError(
            f"{here}={wanted.vocab_size} is more than the model's {num_embeddings:,} embeddings, so some tokens would "
            f"have none; set {here}={num_embeddings} or less"
        )


def name_of(token_id: int, tokenizer: Any) -> str:
    """The token as the tokenizer names it, quoted."""
    return shown(tokenizer.convert_ids_to_tokens(token_id))
