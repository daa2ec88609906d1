"""Floating-point operations of the method: only matrix products, without padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_PEAK_BF16_TFLOPS = {
    # Dense bf16 with fp32 accumulation, from the vendors' data sheets; the first name that matches counts.
    "B200": 2250, "H200": 989, "GH200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "A10G": 70,
    "A10": 125, "L40S": 362, "L4": 121, "RTX 4090": 165, "MI300X": 1307, "MI250": 362,
}  # fmt: skip


def peak_flops(device: str) -> float | None:
    """Return the device's peak FLOP/s in bf16 according to its data sheet; None if unknown (CPUs)."""
    return next((t * 1e12 for name, t in _PEAK_BF16_TFLOPS.items() if name in device), None)


def num_elements(parameter: Any) -> int:
    """Return the number of elements of a parameter, even if ZeRO-3 has sharded it and left it empty here."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model that determine its FLOPs."""

    body_parameters: int
    """Parameters in matrix products of every token: all except embeddings and the head."""
    head_parameters: int
    """Vocabulary times hidden size."""
    num_layers: int
    attention_width: int
    """Heads times head dimension."""

    @staticmethod
    def of(model: Any) -> ModelShape:
        config = model.config.get_text_config()
        head = model.get_output_embeddings().weight
        embeddings = {
            id(p) for m in (model.get_input_embeddings(), model.get_output_embeddings()) for p in m.parameters()
        }
        body = sum(
            num_elements(p)
            for p in model.parameters()
            if id(p) not in embeddings and len(getattr(p, "ds_shape", p.shape)) >= 2
        )
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        return ModelShape(body, num_elements(head), config.num_hidden_layers, heads * head_dim)

    def forward_flops(self, num_tokens: int, num_response_tokens: int, sum_squared_lengths: int) -> int:
        """Count a forward pass: 2 per parameter and token, the head only on response tokens, attention 2 L² w a layer.

        L is a sequence's length and w the attention width; attention is causal.
        """
        body = 2 * self.body_parameters * num_tokens
        head = 2 * self.head_parameters * num_response_tokens
        attention = 2 * self.num_layers * self.attention_width * sum_squared_lengths
        return body + head + attention

    def training_flops(self, num_tokens: int, num_response_tokens: int, sum_squared_lengths: int) -> int:
        """Count a training pass: a forward pass, and a backward pass at twice its cost."""
        return 3 * self.forward_flops(num_tokens, num_response_tokens, sum_squared_lengths)
