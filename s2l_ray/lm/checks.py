"""Checks of a model before its weights are loaded: from its config, on the meta device, and from its files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.errors import UserError, foreign_named, shown

_MAX_MODULES = 100_000
"""Limit on layers and their parts; the largest models have some ten thousand."""
_MAX_BUILD_S = 120.0


class ModelError(UserError):
    """Error for a model or tokenizer that cannot be loaded; the message has the setting and the remedy."""


class ModelUnreachable(ModelError):
    """Error if the hub did not answer; trying again may help."""

    retryable = True


def foreign_refused(what: str, cure: str) -> contextlib.AbstractContextManager[None]:
    """Return a context that raises ModelError in place of whatever a library raises for an unusable model."""
    return foreign_named(lambda error: ModelUnreachable if _is_network(error) else ModelError, what, cure)


def _is_network(error: BaseException | None) -> bool:
    """Whether the error was caused by a failed connection, other than because this process is set to stay offline."""
    while error is not None:
        names = {c.__name__ for c in type(error).__mro__}
        if names & {"OfflineModeIsEnabled"}:
            return False
        if isinstance(error, ConnectionError | TimeoutError) or names & {"TransportError", "RequestException"}:
            return True
        error = error.__cause__ or error.__context__
    return False


def check_architecture(model_config: Any, config: TrainedModelConfig) -> None:
    """Refuse models that `transformers` would load as language models although they do not predict the next token.

    Raises:
        ModelError: the model is not a causal language model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    kind = type(model_config)
    name = f"{config.section}.{'from_config.model_type' if config.from_config else 'model'}"
    asked = shown(model_config.model_type if config.from_config else config.model)
    what = None
    if getattr(model_config, "is_encoder_decoder", False):
        what = "an encoder-decoder"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(model_config, "is_decoder", False):
        what = "an encoder, which sees the words that it should predict"
    elif kind not in MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in (
        getattr(model_config, "auto_map", None) or {}
    ):
        what = "not a language model known to transformers"
    if what is not None:
        raise ModelError(
            f"{name}={asked} is {what} ({kind.__name__}), but S2L needs the losses of a causal language model; use "
            "one (llama, gpt_neox, gpt2, qwen2, …)"
        )


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_BALANCE = ("router_aux_loss_coef", "aux_loss_coef", "aux_loss_alpha", "moe_aux_loss_coef")


def about_experts(model_config: Any, config: TrainedModelConfig) -> str | None:
    """Return a note about the loss of a mixture of experts; None: the model is not one."""
    text = model_config.get_text_config()
    counts = [getattr(part, name, None) for part in (text, getattr(text, "ffn_config", None)) for name in _EXPERTS]
    count = max((n for n in counts if isinstance(n, int)), default=0)
    if count < 2:
        return None
    known = ((name, getattr(text, name, None)) for name in _BALANCE)
    weight = next((f" ({name}={value:g})" for name, value in known if isinstance(value, int | float)), "")
    return (
        f"the {config.section} is a mixture of {count} experts per layer. Its loss is only that of the next tokens; "
        f"the auxiliary loss that balances the experts{weight} is left out, as transformers does by default"
    )


def meta_model(model_config: Any, config: TrainedModelConfig) -> Any:
    """Build the model on the meta device, without weights or memory.

    Raises:
        ModelError: `transformers` cannot build it, or it has more modules than any real model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_architecture(model_config, config)
    asked = f"{config.section}.{'from_config' if config.from_config else 'model'}"
    told = f"{asked} does not describe a model that can be built"
    cure = "Sizes must be positive and divisible by each other (hidden_size by num_attention_heads, …)"
    with foreign_refused(told, cure), _bounded_build(asked), torch.device("meta"):
        return AutoModelForCausalLM.from_config(model_config, trust_remote_code=config.trust_remote_code)


@contextlib.contextmanager
def _bounded_build(asked: str) -> Iterator[None]:
    """Raise ModelError when the block creates more modules than any real model has, or takes minutes."""
    import torch.nn.modules.module as registry

    made, end = 0, time.monotonic() + _MAX_BUILD_S

    def count(module: Any, name: str, submodule: Any) -> None:
        nonlocal made
        made += 1
        if made > _MAX_MODULES or time.monotonic() > end:
            raise ModelError(
                f"{asked} describes a model with more than {made - 1:,} layers and parts, more than any that can be "
                "trained; lower its number of layers or experts"
            )

    hook = registry.register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def check_size(model: Any, config: TrainedModelConfig, memory_bytes: int, bytes_per_parameter: int) -> None:
    """Raise ModelError if the model does not fit into memory."""
    count = sum(p.numel() for p in model.parameters())
    if count * bytes_per_parameter > memory_bytes:
        asked = f"{config.section}.{'from_config' if config.from_config else 'model'}"
        raise ModelError(
            f"{asked} has {count:,} parameters, which need {count * bytes_per_parameter / 1e9:,.0f} GB, but this "
            f"machine has {memory_bytes / 1e9:,.0f} GB of memory; use a smaller model or a larger machine"
        )


def check_folder(config: TrainedModelConfig) -> None:
    """Check that the weights in a local folder are present, complete and not pickled; reads only the files' headers.

    Raises:
        ModelError: they are not.
    """
    folder = Path(config.model or "")
    if config.model is None or config.random_weights or config.gguf_file or not folder.is_dir():
        return
    here = f"{config.section}.model={shown(config.model)}"
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [p.name for p in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]]
        what = f"only pickled weights ({shown(pickled)}), which may run code when loaded" if pickled else "no weights"
        raise ModelError(f"{here} contains {what}; give a folder with .safetensors, or set random_weights=true")
    from safetensors import safe_open

    for file in files:
        told = f"{here}: {file.name} is damaged"
        with foreign_refused(told, "Copy or download it again"), safe_open(file, framework="pt"):
            pass
