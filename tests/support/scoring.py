"""For loops that score with a model, without Ray: a tiny proxy, token parts, and a worker without steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.token_parts import TOKEN_SCHEMA
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.local_worker import LocalWorkerContext

TINY_PROXY: dict[str, Any] = {
    "from_config": {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "train_tokenizer": {"vocab_size": 280}, "max_length": 64, "epochs": 1, "global_batch_size": 32,
    "tokens_per_microbatch": 1024, "render": "plain", "precision": "fp32",
}  # fmt: skip


class ScoringWorker(LocalWorkerContext):
    """Events of a pass name no step."""

    def __init__(self, checkpoints: Path = Path("unused")) -> None:
        super().__init__(checkpoints)

    def emit(self, **event: Any) -> None:
        self.events.append(event)


def token_table(examples: Examples) -> pa.Table:
    """TOKEN_SCHEMA rows; two sources take turns."""
    cuts = list(zip(examples.offsets[:-1], examples.offsets[1:], strict=True))
    columns = {
        "example_id": array_to_ids(examples.ids),
        "source": pa.array([f"source-{i % 2}" for i in range(len(cuts))]),
        "input_ids": pa.array([examples.tokens[a:b].tolist() for a, b in cuts], pa.list_(pa.int32())),
        "response_mask": pa.array([examples.mask[a:b].tolist() for a, b in cuts], pa.list_(pa.bool_())),
    }
    return pa.table(columns).cast(TOKEN_SCHEMA)


def write_tokens(folder: Storage, examples: Examples, rows_per_part: int) -> tuple[tuple[int, int], ...]:
    """The parts: (part, sequences)."""
    table, parts = token_table(examples), []
    for part, start in enumerate(range(0, len(examples), rows_per_part)):
        cut = table.slice(start, rows_per_part)
        folder.write_table(part_name(part), cut)
        parts.append((part, cut.num_rows))
    return tuple(parts)
