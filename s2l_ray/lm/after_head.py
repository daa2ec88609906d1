"""Transformations that some models apply to their logits after the head: a scale (Granite, Cohere), a cap (Gemma 2).

Each kind is one function, which reads a model's config and yields candidates. Which candidate applies to a given model
is tested, not assumed: on the model's own logits and on logits scaled up, because a cap has no visible effect on the
small logits of an untrained model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s2l_ray.errors import UserError

_LARGE = 100.0
"""Logits at which every cap in use has a visible effect (nats); Gemma's is 30."""


class UnsupportedModel(UserError):
    """Error for an architecture that transforms its logits or last hidden states in a way s2l_ray does not support."""


@dataclass(frozen=True)
class AfterHead:
    """Transformation of logits: scale · logits and then, with a cap, cap · tanh(· / cap)."""

    scale: float = 1.0
    cap: float | None = None

    @property
    def is_nothing(self) -> bool:
        return self.scale == 1.0 and self.cap is None

    def __call__(self, logits: Tensor) -> Tensor:
        """Transform the head's output into the model's logits."""
        scaled = logits * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap

    def slope(self, done: Tensor) -> Tensor | float:
        """Return the derivative with respect to the head's output, given the model's logits."""
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
            # Granite divides by its scale, HyperCLOVA X multiplies by it.
            yield from (AfterHead(scale=1 / scale), AfterHead(scale=float(scale)))


def _scaling_and_softcapping(config: Any) -> Iterator[AfterHead]:
    """Yield scales followed by caps (Muse)."""
    for scaled in _scaling(config):
        for capped in _softcapping(config):
            yield AfterHead(scaled.scale, capped.cap)


KINDS: list[Kind] = [_softcapping, _scaling, _scaling_and_softcapping]


def find_after_head(model: Any, input_ids: Tensor, tolerance: float) -> AfterHead:
    """Find the model's transformation from its logits for these tokens. Every worker of a sharded model must call it.

    Args:
        input_ids: (1, L).
        tolerance: relative tolerance for rounding.

    Raises:
        UnsupportedModel: none of KINDS gives the model's logits.
    """
    config = model.config.get_text_config()
    candidates = [AfterHead(), *(found for kind in KINDS for found in kind(config))]
    small, given = _logits(model, input_ids, 1.0)
    if given is None:  # the head is not called as a module; comparing the losses will show whether it matters
        return AfterHead()
    factor = _LARGE / max(float(given.abs().max()), 1e-6)
    large, _ = _logits(model, input_ids, factor)

    def gives(candidate: AfterHead) -> bool:
        pairs = ((candidate(given), small), (candidate(given * factor), large))
        return all(bool((ours - own).abs().max() <= tolerance * own.abs().max()) for ours, own in pairs)

    found = next((candidate for candidate in candidates if gives(candidate)), None)
    if found is None:
        raise UnsupportedModel(
            f"{type(model).__name__} transforms its logits after the head in a way that s2l_ray does not support, so "
            "its losses, trajectories and training would be wrong. Choose another model (GPT-NeoX, GPT-2, Llama, Qwen, "
            "Gemma, OLMo and many more work)"
        )
    return found


def _logits(model: Any, input_ids: Tensor, factor: float) -> tuple[Tensor, Tensor | None]:
    """Return the model's logits when its head's output is multiplied by `factor`, and the output itself."""
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
