"""Lengths of prompts in the first token parts; ids are hashes, so these examples are a random sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from s2l_ray.artifacts.run import part_rows
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.token_parts import to_examples
from s2l_ray.reporting.rows import Rows, positions
from s2l_ray.reporting.sketch import MAX_TOKENS

Array = np.ndarray[Any, np.dtype[Any]]

_COLUMNS = ["example_id", "input_ids", "response_mask"]
MAX_SAMPLE = 50_000
"""Examples after which no further part is read: token ids are a hundred times as large as losses."""


def count_prompt_lengths(rows: Rows, num_subsets: int) -> Array | None:
    """Prompts by their number of tokens, up to the first token of the first response.

    Returns:
        (1 + num_subsets, MAX_TOKENS + 1) counts, of the corpus and of the subsets; None where the run has no tokens.
    """
    stage = rows.run.stages.get("tokens")
    if stage is None:
        return None
    counts = np.zeros((1 + num_subsets, MAX_TOKENS + 1), np.int64)
    seen = 0
    folder = stage.storage.sub("parts")
    for part, _ in part_rows(stage):
        if seen >= MAX_SAMPLE:
            break
        ids, lengths = prompt_lengths(to_examples(folder.read_table(part_name(part), columns=_COLUMNS)))
        bins = np.minimum(lengths, MAX_TOKENS)
        counts[0] += np.bincount(bins, minlength=MAX_TOKENS + 1)
        for s, subset in enumerate(rows.subsets):
            if part in subset.by_part:
                chosen = positions(subset.by_part[part], ids)
                counts[1 + s] += np.bincount(bins[chosen], minlength=MAX_TOKENS + 1)
        seen += len(ids)
    return counts


def prompt_lengths(examples: Examples) -> tuple[Array, Array]:
    """Count the prompt tokens of a part → (ids (n, 2), numbers of tokens (n,)); only a chat's first sequence counts."""
    starts = examples.offsets[:-1]
    responses = np.flatnonzero(examples.mask)
    first = np.searchsorted(responses, starts)  # every sequence has a response token
    lengths = responses[np.minimum(first, max(0, len(responses) - 1))] - starts if len(starts) else starts
    is_first = np.r_[True, (examples.ids[1:] != examples.ids[:-1]).any(axis=1)][: len(examples.ids)]
    return examples.ids[is_first], lengths[is_first]
