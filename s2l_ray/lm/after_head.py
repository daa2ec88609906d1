"""What some models do to their logits after the head: a scale (Granite, Cohere), a smooth cap (Gemma 2's kind).

A kind is one function: it reads a model's config and gives what may be done there. Which of the candidates the model at
hand does is not believed but tried, on its own logits and on logits scaled up: a cap does not show on the small ones of
an untrained model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s2l_ray.errors import UserError

_LARGE = 100.0
"""Logits at which every cap in use shows (nats); Gemma's is 30."""


class UnsupportedModel(UserError):
    """The architecture does something to its logits, or to its last hidden states, that is not known here."""


@dataclass(frozen=True)
class AfterHead:
    """scale · logits, then, with a cap, cap · tanh(· / cap)."""

    scale: float = 1.0
    cap: float | None = None

    @property
    def is_nothing(self) -> bool:
        return self.scale == 1.0 and self.cap is None

    def __call__(self, logits: Tensor) -> Tensor:
        """What the head gives → the model's logits."""
        scaled = logits * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap

    def slope(self, done: Tensor) -> Tensor | float:
        """Derivative by what the head gives, from the model's logits."""
        return self.scale if self.cap is None else self.scale * (1 - (done / self.cap) ** 2)


Kind = Callable[[Any], Iterator[AfterHead]]

_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap", "softcap")
_SCALES = ("logits_scaling", "logit_scale", "lm_head_multiplier", "output_multiplier")


def _softcapping(config: Any) -> Iterator[AfterHead]:
    for name in _CAPS:
        if getattr(config, name, None):
            yield AfterHead(cap=float(getattr(config, name)))


def _scaling(config: Any) -> Iterator[AfterHead]:
    for name in _SCALES:
        scale = getattr(config, name, None)
        if isinstance(scale, int | float) and scale:
            # Granite divides by what HyperCLOVA X multiplies with.
            yield from (AfterHead(scale=1 / scale), AfterHead(scale=float(scale)))


def _scaling_and_softcapping(config: Any) -> Iterator[AfterHead]:
    """Scaled, then capped (Muse)."""
    for scaled in _scaling(config):
        for capped in _softcapping(config):
            yield AfterHead(scaled.scale, capped.cap)


KINDS: list[Kind] = [_softcapping, _scaling, _scaling_and_softcapping]


def find_after_head(model: Any, input_ids: Tensor, tolerance: float) -> AfterHead:
    """What the model does, by its logits of these tokens. Every worker of a sharded model calls it.

    Args:
        input_ids: (1, L).
        tolerance: relative, for rounding.

    Raises:
        UnsupportedModel: none of KINDS gives the model's logits.
    """
    config = model.config.get_text_config()
    candidates = [AfterHead(), *(found for kind in KINDS for found in kind(config))]
    small, given = _logits(model, input_ids, 1.0)
    if given is None:  # the head is not called as a module: whoever compares the losses will see
        return AfterHead()
    factor = _LARGE / max(float(given.abs().max()), 1e-6)
    large, _ = _logits(model, input_ids, factor)

    def gives(candidate: AfterHead) -> bool:
        pairs = ((candidate(given), small), (candidate(given * factor), large))
        return all(bool((ours - own).abs().max() <= tolerance * own.abs().max()) for ours, own in pairs)

    found = next((candidate for candidate in candidates if gives(candidate)), None)
    if found is None:
        raise UnsupportedModel(
            f"{type(model).__name__} changes its logits after the head in a way that is not known here, so its losses, "
            "and with them trajectories and training, would be wrong. Choose another model (GPT-NeoX, GPT-2, Llama, "
            "Qwen, Gemma, OLMo and many more work)"
        )
    return found


def _logits(model: Any, input_ids: Tensor, factor: float) -> tuple[Tensor, Tensor | None]:
    """The model's logits when its head gives `factor` times as much, and what the head gives."""
    given: list[Tensor] = []

    def scale(module: Any, arguments: Any, output: Tensor) -> Tensor:
        given.append(output.float())
        return output * factor

    handle = model.get_output_embeddings().register_forward_hook(scale)
    try:
        logits = model(input_ids=input_ids, use_cache=False).logits.float()
    finally:
        handle.remove()
    return logits, given[0] if given else None
