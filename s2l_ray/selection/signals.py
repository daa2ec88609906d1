"""Names of the inputs that selectors read, and what to do if a run does not have one.

A need is one of the plain names below, or `column@snapshot`: a column of the scores at one snapshot. `late` is the last
snapshot, `first` the first, `early` the first at or after a share of the steps, `start` the untrained model (step 0),
and `all` every snapshot, (N, T).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from s2l_ray.config.selection import (
    EMBEDDINGS,
    FACET,
    LOSS_UNCONDITIONAL,
    PASSES,
    QUERY,
    SCALARS,
    SOURCES,
    Snapshot,
    at_reference,
)
from s2l_ray.errors import UserError, listed

__all__ = [
    "EMBEDDINGS",
    "FACET",
    "LOSS_UNCONDITIONAL",
    "PASSES",
    "QUERY",
    "SCALARS",
    "SOURCES",
    "Snapshot",
    "at_reference",
]

LOSSES = "losses"
"""The trajectories, (N, T) nats per token."""
CLUSTERS = "clusters"

LOSS = "loss_nats"
EL2N = "el2n"
MEAN_PROBABILITY = "mean_probability"
MIN_PROBABILITY = "min_probability"
TOKEN_ACCURACY = "token_accuracy"
RESPONSE_EMBEDDING, PROMPT_EMBEDDING, WEIGHTED_EMBEDDING = EMBEDDINGS

_MEANING = {
    LOSS: "mean loss of the response (nats per token)",
    LOSS_UNCONDITIONAL: "mean loss of the response without its prompt (nats per token)",
    MEAN_PROBABILITY: "mean probability of the response's tokens",
    MIN_PROBABILITY: "lowest probability of a token of the response",
    EL2N: "mean length of the error vector of the response's tokens",
    TOKEN_ACCURACY: "share of response tokens that are the model's first choice",
    RESPONSE_EMBEDDING: "mean last hidden state over the response",
    PROMPT_EMBEDDING: "mean last hidden state over the prompt",
    WEIGHTED_EMBEDDING: "mean last hidden state over all tokens, weighted by position",
}
_CURE = {
    LOSSES: "score the corpus first: `s2l run CONFIG` records the trajectories",
    CLUSTERS: "cluster the trajectories first: `s2l run CONFIG` runs k-means",
    SOURCES: "set corpus.source_column to the column that names each example's source",
    QUERY: "name your examples of the task in selection.query.paths, list the selector in selection.selectors and call "
    "`s2l run CONFIG`, which embeds them; in Python, pass their embeddings to SelectionInputs",
}


def snapshot_index(snapshot: str, num_snapshots: int, steps: Sequence[int] | None, early_share: float) -> int | None:
    """Return the index of the snapshot that a name denotes; None: it was not recorded.

    Args:
        steps: (T,) optimiser steps, ascending; None: not known.
        early_share: the early snapshot is the first at or after this share of the steps.
    """
    if snapshot in ("late", "first"):
        return 0 if snapshot == "first" else num_snapshots - 1
    if steps is None:
        return None
    if snapshot == "start":
        return 0 if steps[0] == 0 else None
    if snapshot == "early":
        return next(i for i, step in enumerate(steps) if step >= early_share * steps[-1])
    return None


def signal_name(column: str, step: int, dim: int | None) -> str:
    """Return the name of a pass's column: `embedding@40`, or `embedding@40-64` if projected to 64 dimensions."""
    return f"{column}@{step}" + (f"-{dim}" if dim is not None and column in EMBEDDINGS else "")


class MissingSignal(UserError):
    """Error for a selector that needs something the run does not have."""


def at(column: str, snapshot: str) -> str:
    """Return the need for a column at a snapshot: `mean_probability@late`."""
    return f"{column}@{snapshot}"


def missing_signals(who: str, needs: Iterable[str]) -> MissingSignal:
    """Return the error that names every absent need of `who`, and the command that creates it."""
    faults = []
    for need in sorted(needs):
        column, _, snapshot = need.partition("@")
        if need in _CURE:
            faults.append(f"{need} ({_CURE[need]})")
        elif need.startswith(FACET):
            faults.append(f"the facet {need.removeprefix(FACET)} (name the column in corpus.facets)")
        elif snapshot == "start" and column == LOSS:
            faults.append(f"{need} (the loss of the untrained model: set trajectories.include_step_zero=true)")
        else:
            meaning = f"{_MEANING[column]}; " if column in _MEANING else ""
            faults.append(
                f"the column {need} ({meaning}list the selector in selection.selectors and call `s2l run CONFIG` "
                "again: it scores what is missing and keeps the rest)"
            )
    return MissingSignal(f"{who} needs what this run does not have: {'; '.join(listed(faults))}")
