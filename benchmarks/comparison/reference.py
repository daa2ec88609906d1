"""A proxy's view of a corpus: trajectories, signals, embeddings, and their cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from comparison.tokens import Tokenised
from comparison.training import CPU, Training, Work, whole_corpus_plan
from s2l_ray.config.schema import S2LConfig
from s2l_ray.data.token_examples import Examples
from s2l_ray.lm.embed import Embedder, without_prompts
from s2l_ray.lm.score import ExampleScores, Scorer
from s2l_ray.selection import ArrayEmbeddings, SelectionInputs
from s2l_ray.selection.kmeans import fit_kmeans
from s2l_ray.selection.signals import (
    CLUSTERS,
    EMBEDDINGS,
    LOSS,
    LOSS_UNCONDITIONAL,
    LOSSES,
    PASSES,
    SCALARS,
    snapshot_index,
)

EARLY_SHARE = 0.1
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Reference:
    """Everything that selectors read about one corpus, computed with one proxy."""

    train: Tokenised
    steps: list[int]
    """Optimiser steps of the snapshots."""
    losses: Array
    """(N, T) trajectories."""
    clusters: Array
    signals: dict[str, Array]
    embeddings: dict[str, Array] = field(default_factory=dict)
    queries: dict[str, Array] = field(default_factory=dict)
    training: Work = field(default_factory=Work)
    one_pass: Work = field(default_factory=Work)
    """Cost of scoring the corpus once."""

    def inputs(self, needs: frozenset[str]) -> SelectionInputs:
        names, codes = np.unique(self.train.sources, return_inverse=True)
        embedded = [self.queries[need] for need in sorted(needs) if need in self.queries]
        return SelectionInputs(
            self.train.examples.ids, self.clusters, codes.astype(np.int32), names.tolist(), losses=self.losses,
            snapshot_steps=self.steps, early_share=EARLY_SHARE, signals=self.signals,
            embeddings={need: ArrayEmbeddings(array) for need, array in self.embeddings.items()},
            query_embeddings=embedded[0] if embedded else None,
        )  # fmt: skip

    def cost(self, needs: frozenset[str]) -> Work:
        """Return the cost that a selector with these needs incurs before it can select: the proxy's training and its
        passes over the corpus; nothing for a selector that reads nothing from a proxy."""
        columns = {need.partition("@")[0] for need in needs}
        snapshots = {need.partition("@")[2] for need in needs} - {""}
        passes = len(columns & set(PASSES))
        if {LOSSES, CLUSTERS} & needs or "all" in snapshots:
            passes += len(self.steps)
        elif columns & {LOSS, *SCALARS}:
            passes += len({self.column(snapshot) for snapshot in snapshots})
        return sum([self.one_pass] * passes, self.training) if passes else Work()

    def column(self, snapshot: str) -> int | None:
        return snapshot_index(snapshot, len(self.steps), self.steps, EARLY_SHARE)

    def save(self, path: Path) -> None:
        """Write the arrays atomically, so that a later session does not have to train the proxy again."""
        work = [self.training.tokens, self.training.flops, self.one_pass.tokens, self.one_pass.flops]
        arrays = {"steps": np.array(self.steps), "losses": self.losses, "clusters": self.clusters,
                  "work": np.array(work, dtype=np.float64)}  # fmt: skip
        for group in ("signals", "embeddings", "queries"):
            arrays |= {f"{group}/{name}": array for name, array in getattr(self, group).items()}
        temporary = path.with_suffix(".unfinished.npz")
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        temporary.rename(path)

    @staticmethod
    def load(path: Path, train: Tokenised) -> Reference:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}

        def group(prefix: str) -> dict[str, Array]:
            return {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")}

        work = [int(value) for value in arrays["work"]]
        assert len(arrays["losses"]) == len(train.examples), f"{path} belongs to another corpus; delete it"
        return Reference(
            train, arrays["steps"].tolist(), arrays["losses"], arrays["clusters"], group("signals"),
            group("embeddings"), group("queries"), Work(*work[:2]), Work(*work[2:]),
        )  # fmt: skip


def clusters_of(losses: Array, config: S2LConfig, seed: int) -> Array:
    how = config.clusters
    found = fit_kmeans(
        np.ascontiguousarray(losses), num_clusters=how.num_clusters, seed=seed, init=how.init,
        num_iterations=how.num_iterations,
    )  # fmt: skip
    return found.assignment


def train_reference(
    config: S2LConfig,
    tokenizer: Any,
    train: Tokenised,
    queries: Examples,
    needs: set[str],
    seed: int,
    *,
    snapshots: int,
    device: torch.device = CPU,
    model: Any = None,
) -> Reference:
    """Train the proxy on the whole corpus, and compute what `needs` require at `snapshots` points in training."""
    examples = train.examples
    plan = whole_corpus_plan(len(examples), config.proxy, None, seed)
    steps = sorted({int(step) for step in np.linspace(1, plan.total_steps, snapshots).round()})
    tokens = config.trajectories.tokens_per_batch
    training = Training(config.proxy, tokenizer, plan, seed, tokens, device=device, model=model)
    scores: list[ExampleScores] = []
    made = Reference(train, steps, np.zeros((0, 0)), np.zeros(0), {})
    for step, _, _ in training.steps(examples):
        if step in steps:
            scores.append(training.scorer(examples))
            for need in sorted(needs):
                column, _, snapshot = need.partition("@")
                if snapshot and made.column(snapshot) == steps.index(step):
                    _score(made, need, column, training.scorer, scores[-1], queries, tokenizer.eos_token_id)
    made.losses = np.stack([one.losses for one in scores], axis=1)
    made.signals |= {f"{name}@all": np.stack([one.signals[name] for one in scores], axis=1) for name in SCALARS}
    made.clusters = clusters_of(made.losses, config, seed)
    made.training, made.one_pass = training.work, Work.of_scoring(training.shape, examples)
    return made


def _score(
    made: Reference, need: str, column: str, scorer: Scorer, scores: ExampleScores, queries: Examples, eos: int
) -> None:
    if column in SCALARS:
        made.signals[need] = scores.signals[column]
    elif column == LOSS_UNCONDITIONAL:
        made.signals[need] = scorer(without_prompts(made.train.examples, eos)).losses
    elif column in EMBEDDINGS:
        embed = Embedder(
            column, scorer.loss, scorer.batching, tokens_per_batch=scorer.tokens_per_batch, device=scorer.device
        )
        made.embeddings[need] = embed(made.train.examples).astype(np.float16)
        made.queries[need] = embed(queries)
    else:
        assert column == LOSS, need
