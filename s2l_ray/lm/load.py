"""Load models and tokenizers from the hub, a folder or a GGUF file, or create them; never pickled weights, and code
from a repository only if the configuration trusts it."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.errors import listed, shown
from s2l_ray.lm.checks import ModelError, check_architecture, foreign_refused
from s2l_ray.lm.vocabulary import num_token_ids

__all__ = ["ModelError", "load_model", "load_model_config", "load_tokenizer", "train_tokenizer"]

logger = logging.getLogger(__name__)

_ONE_AT_A_TIME = threading.Lock()
"""Lock for loading: meanwhile, `transformers` replaces methods of its classes, and the random state is global. Of two
threads, one would restore what the other had replaced, and embeddings would no longer be tied to heads."""


def load_tokenizer(config: TrainedModelConfig, trained: str | Path | None = None) -> Any:
    """Load the tokenizer: the one trained on the corpus (in the folder `trained`), a named one, or the model's own.

    Raises:
        ModelError: it cannot be loaded, or has not been trained.
    """
    from transformers import AutoTokenizer

    if config.train_tokenizer is not None:
        if trained is None:
            raise ModelError(
                f"{config.section}.train_tokenizer: the tokenizer is trained in the tokens stage, which has not run; "
                "run `s2l run CONFIG` first"
            )
        return AutoTokenizer.from_pretrained(str(trained))
    name = config.tokenizer or config.model
    own = config.tokenizer is None
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if own and config.revision:
        options["revision"] = config.revision
    if own and config.gguf_file:
        options["gguf_file"] = config.gguf_file
    with _loading(config, "tokenizer", name):
        return AutoTokenizer.from_pretrained(name, **options)


def load_model_config(config: TrainedModelConfig, vocab_size: int | None = None, tokenizer: Any = None) -> Any:
    """Load the `transformers` config; for a new model, vocabulary size and special tokens come from the tokenizer.

    Raises:
        ModelError: it cannot be loaded, or its fields are wrong.
    """
    from transformers import AutoConfig

    if config.from_config is not None:
        fields = dict(config.from_config)
        if tokenizer is not None:
            vocab_size = num_token_ids(tokenizer)
        if vocab_size is not None:
            fields.setdefault("vocab_size", vocab_size)
        if tokenizer is not None:
            special = ("bos_token_id", "eos_token_id", "pad_token_id")
            ids = {name: getattr(tokenizer, name) for name in special if name not in fields}
            fields |= {name: i for name, i in ids.items() if i is None or _is_within(i, fields["vocab_size"])}
        told = f"{config.section}.from_config is not a usable model config"
        with foreign_refused(told, "See the model's page in the documentation of transformers for its fields"):
            return AutoConfig.for_model(fields.pop("model_type"), **fields)
    options: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if config.revision:
        options["revision"] = config.revision
    if config.gguf_file:
        options["gguf_file"] = config.gguf_file
    with _loading(config, "model", config.model):
        return AutoConfig.from_pretrained(config.model, **options)


def _is_within(token_id: int, vocab_size: Any) -> bool:
    """Whether the token has an embedding; True if the vocabulary size is not a number, which transformers refuses."""
    return not isinstance(vocab_size, int) or token_id < vocab_size


def load_model(
    config: TrainedModelConfig, tokenizer: Any, seed: int, dtype: Any = None, attention: str | None = None
) -> Any:
    """Load or create the model on the CPU; random weights are a function of the seed only.

    Args:
        dtype: data type of the weights; None: fp32. Mixed precision keeps fp32 master weights, because the small
            updates of a learning rate of 2e-5 would vanish in bf16 weights.
        attention: attention implementation, as named in `transformers`; None: its default.

    Raises:
        ModelError: it cannot be loaded, lacks weights, or does not support `max_length`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    kind: dict[str, Any] = {"dtype": dtype or torch.float32, "trust_remote_code": config.trust_remote_code}
    if attention is not None:
        kind["attn_implementation"] = attention
    if config.from_config is not None or config.random_weights:
        model_config = load_model_config(config, tokenizer=tokenizer)
        check_architecture(model_config, config)
        with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]), _loading(config, "model", config.model):
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(model_config, **kind)
    else:
        # Weights are never unpickled: a repository with only .bin files is refused.
        kind |= {"gguf_file": config.gguf_file} if config.gguf_file else {"use_safetensors": True}
        if config.revision:
            kind["revision"] = config.revision
        with _ONE_AT_A_TIME, _loading(config, "model", config.model):
            model, loaded = AutoModelForCausalLM.from_pretrained(config.model, output_loading_info=True, **kind)
        check_architecture(model.config, config)
        _check_weights(loaded, config)
    fuse_activations(model)
    check_length(model.config, config)
    return model


def fuse_activations(model: Any) -> None:
    """Use one kernel for GELU's tanh form (Phi, GPT-2), for which some models use eight; equal up to rounding."""
    from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, GELUTanh())


def compile_each_layer(model: Any, backend: Any = "inductor") -> None:
    """Compile the model's layers, which share kernels, one by one; they are compiled when they first run."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True, backend=backend)


def _check_weights(loaded: dict[str, Any], config: TrainedModelConfig) -> None:
    """Raise ModelError if weights are missing, and warn about unused ones.

    Args:
        loaded: report of `transformers` about the checkpoint's keys, in which tied weights do not count as missing.
    """
    here = f"{config.section}.model={shown(config.model)}"
    missing, unused = sorted(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    if missing:
        raise ModelError(
            f"{here} lacks {len(missing)} of the model's weights ({', '.join(listed(missing, 4))}), which would be "
            "random: it is another kind of model (without a language-model head?), or incomplete. Give a complete "
            f"causal language model, or set {config.section}.random_weights=true if random weights are intended"
        )
    if unused:
        told = "%s contains %d weights that the model does not have, which are ignored: %s"
        logger.warning(told, here, len(unused), ", ".join(listed(unused, 4)))


def check_tokenizer(tokenizer: Any, config: TrainedModelConfig) -> None:
    """Raise ModelError for a tokenizer with which no example could be rendered."""
    here = f"{config.section}.{'tokenizer' if config.tokenizer else 'model'}={shown(config.tokenizer or config.model)}"
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{here}: its tokenizer has no EOS token, so the model could not learn where a response ends; "
            "set one in the tokenizer's folder (eos_token in tokenizer_config.json), or name another tokenizer"
        )
    if config.render == "chat_template" and not tokenizer.chat_template:
        raise ModelError(
            f"{here}: {config.section}.render=chat_template, but the tokenizer has no chat template, so chats could "
            "not be rendered; choose render=plain or alpaca, or a tokenizer with a template"
        )


def check_length(model_config: Any, config: TrainedModelConfig) -> None:
    limit = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if limit and config.max_length > limit:
        here = f"{config.section}.max_length"
        raise ModelError(
            f"{here}={config.max_length} exceeds the model's {limit} positions, so longer examples would fail; "
            f"set {here}={limit} or less"
        )


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer, which covers every text; it is a function of the texts and their order."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    eos, pad = "<|endoftext|>", "<|pad|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[eos, pad],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=pad)


def _loading(config: TrainedModelConfig, what: str, name: str | None) -> contextlib.AbstractContextManager[None]:
    """Return a context that turns errors of `transformers` while loading into ModelError."""
    told = f"the {what} {shown(name) if name else 'of from_config'} cannot be loaded, so the {config.section} cannot be"
    cure = (
        "Check the spelling, or the folder; a private model needs HF_TOKEN, a machine without internet access needs a "
        "local folder"
    )
    return foreign_refused(f"{told} trained", cure)
