"""Tokenises rows with instruction, output and source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from s2l_ray.config.model import TrainedModelConfig
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.formats import to_conversation
from s2l_ray.data.render import renderer_of
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.units import UnusableRow
from s2l_ray.lm.load import train_tokenizer

FORMAT = "instruction"
Array = np.ndarray[Any, np.dtype[Any]]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Tokenised:
    examples: Examples
    sources: Array
    """(N,) names of the examples' sources."""
    kept: Array
    """(N,) indices into the rows: rows without a response within the model's maximum length are left out."""


def tokenise(rows: Rows, model: TrainedModelConfig, tokenizer: Any, config: S2LConfig) -> Tokenised:
    render = renderer_of(model, FORMAT, tokenizer)
    chats = [to_conversation(row, FORMAT, config.corpus) for row in rows]
    ids, masks, names, lengths, kept = [], [], [], [], []
    rendered = render([c.turns for c in chats], [c.tools for c in chats])
    for i, (row, found) in enumerate(zip(rows, rendered, strict=True)):
        if not isinstance(found, UnusableRow):
            ids.append(np.array(found[0].input_ids, np.int32))
            masks.append(np.array(found[0].response_mask, bool))
            names.append(str(row["source"]))
            lengths.append(len(ids[-1]))
            kept.append(i)
    keys = np.zeros((len(ids), 2), np.uint64)
    keys[:, 1] = np.random.default_rng(1).permutation(len(ids))  # ids are hashes: their order says nothing
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    examples = Examples(keys, np.concatenate(ids), np.concatenate(masks), offsets)
    return Tokenised(examples, np.array(names), np.array(kept))


def tokenizer_of(model: TrainedModelConfig, rows: Rows) -> Any:
    """Train a new tokenizer, as the recipe does for its models from scratch."""
    assert model.train_tokenizer is not None, "the recipe's models must be trained from scratch"
    texts = (f"{row['instruction']}\n{row['output']}" for row in rows[:5000])
    return train_tokenizer(texts, model.train_tokenizer.vocab_size)
