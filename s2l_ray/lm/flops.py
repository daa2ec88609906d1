"""Floating-point operations that the method needs: matrix products only, padding not counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    body_parameters: int
    """Parameters in matrix products of every token: all but embeddings and the head."""
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
        body = sum(p.numel() for p in model.parameters() if id(p) not in embeddings and p.dim() >= 2)
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        return ModelShape(body, head.numel(), config.num_hidden_layers, heads * head_dim)

    def forward_flops(self, num_tokens: int, num_response_tokens: int, sum_squared_lengths: int) -> int:
        """2 per parameter and token, the head on response tokens only, causal attention 2 L² per layer and width."""
        body = 2 * self.body_parameters * num_tokens
        head = 2 * self.head_parameters * num_response_tokens
        attention = 2 * self.num_layers * self.attention_width * sum_squared_lengths
        return body + head + attention

    def training_flops(self, num_tokens: int, num_response_tokens: int, sum_squared_lengths: int) -> int:
        """Forward, and backward at twice its cost."""
        return 3 * self.forward_flops(num_tokens, num_response_tokens, sum_squared_lengths)
