"""Reads a random sample of the embeddings of a run's examples: those required by a selector, and those that the
gradient check stores with its gradients, before and after training.

Memory: SAMPLE embeddings of each model and moment, and one part of a stage's while it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.models import GradientsArtifact, ProxyArtifact, SignalsArtifact
from s2l_ray.artifacts.run import Run, part_rows
from s2l_ray.artifacts.stage import Stage
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.data.ranking import rank_within, sampling_keys
from s2l_ray.selection.signals import EMBEDDINGS, PROMPT_EMBEDDING, RESPONSE_EMBEDDING, WEIGHTED_EMBEDDING

Array = np.ndarray[Any, np.dtype[Any]]

SAMPLE = 10_000
"""Number of examples whose embeddings are read."""
_WHAT = {RESPONSE_EMBEDDING: "responses", PROMPT_EMBEDDING: "prompts", WEIGHTED_EMBEDDING: "prompts and responses"}


@dataclass(frozen=True)
class EmbeddingSample:
    """Embeddings of some examples by one model."""

    name: str
    """Description, such as `embeddings of responses, untrained proxy`."""
    ids: Array
    """(m, 2) uint64 ids of the examples."""
    vectors: Array
    """(m, d) float32 embeddings, of unit length or zero."""

    def take(self, rows: Array) -> EmbeddingSample:
        return replace(self, ids=self.ids[rows], vectors=self.vectors[rows])


@dataclass(frozen=True)
class _Found:
    """Where embeddings are stored."""

    model: str
    """`proxy` or `target`."""
    column: str
    step: int
    stage: Stage
    moment: str
    """Snapshot of a gradient check; "" if a selector required the embeddings."""


def embedding_samples(run: Run) -> list[EmbeddingSample]:
    """Samples for the proxy and the target, if available: before training, and as late in training as possible.

    Of several kinds of embeddings, one is used: the kind that exists for both moments, otherwise that of responses.
    """
    groups: dict[tuple[str, str, bool], dict[int, _Found]] = {}
    for one in [*_of_selectors(run), *_of_gradients(run)]:
        groups.setdefault((one.model, one.column, bool(one.moment)), {})[one.step] = one
    samples = []
    for model in ("proxy", "target"):
        own = [(key, found) for key, found in groups.items() if key[0] == model]
        if own:
            _, best = min(own, key=lambda of: (-min(2, len(_moments(of[1]))), EMBEDDINGS.index(of[0][1]), of[0][2]))
            samples += [_read(run, best[step]) for step in _moments(best)]
    return samples


def _moments(found: dict[int, _Found]) -> list[int]:
    """The steps before training and at its end, as far as embeddings exist."""
    return sorted({step for step in found if step == 0} | {max(found)})


def _of_selectors(run: Run) -> list[_Found]:
    found = []
    for name, stage in run.stages.items():
        if name.startswith("signals/") and not name.startswith("signals/query-"):
            made = SignalsArtifact.of(stage)
            if made.column in EMBEDDINGS:
                model = "target" if "target" in stage.manifest.inputs else "proxy"
                found.append(_Found(model, made.column, made.step, stage, ""))
    return found


def _of_gradients(run: Run) -> list[_Found]:
    stage = run.stages.get("gradients")
    if stage is None:
        return []
    moments = GradientsArtifact.of(stage).snapshots
    return [_Found("proxy", RESPONSE_EMBEDDING, step, stage, moment) for moment, step in moments]


def _read(run: Run, found: _Found) -> EmbeddingSample:
    ids, vectors = _read_gradients(found) if found.moment else _read_signals(found)
    vectors = vectors.astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    return EmbeddingSample(f"embeddings of {_WHAT[found.column]}, {_model_name(run, found)}", ids, vectors)


def _read_signals(found: _Found) -> tuple[Array, Array]:
    """Read embeddings from the first parts: ids are hashes, so the first examples are a random sample."""
    ids: list[Array] = []
    vectors: list[Array] = []
    missing = SAMPLE
    for part, rows in part_rows(found.stage):
        if missing <= 0:
            break
        table = found.stage.storage.read_table(f"parts/{part_name(part)}", columns=["example_id", found.column])
        table = table.slice(0, missing)
        ids.append(ids_to_array(table["example_id"]))
        vectors.append(_matrix(table[found.column]))
        missing -= rows
    return np.concatenate(ids), np.concatenate(vectors)


def _read_gradients(found: _Found) -> tuple[Array, Array]:
    """Read embeddings of the uniform sample, without the examples that top up small clusters."""
    made, asked = GradientsArtifact.of(found.stage), found.stage.manifest.settings
    names = [f"{found.moment}/{part_name(chunk)}" for chunk in range(made.num_chunks)]
    table = pa.concat_tables(found.stage.storage.read_tables(names, ["example_id", "embedding"])).combine_chunks()
    ids = ids_to_array(table["example_id"])
    keys = sampling_keys(ids, asked["seed"], "gradients")
    ranks = rank_within(np.zeros(len(ids), np.int64), keys, ids)  # the uniform sample has the lowest keys of all
    rows = np.flatnonzero(ranks < min(SAMPLE, asked["num_examples"]))
    return ids[rows], _matrix(table["embedding"])[rows]


def _matrix(column: pa.ChunkedArray) -> Array:
    values = column.combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)


def _model_name(run: Run, found: _Found) -> str:
    """The model in words: `pretrained proxy` or `fine-tuned proxy`; `untrained` or `trained` if it started from random
    weights."""
    model = run.config.proxy if found.model == "proxy" else run.config.target
    pretrained = model is not None and model.model is not None and not model.random_weights
    if found.step == 0:
        return f"{'pretrained' if pretrained else 'untrained'} {found.model}"
    last = ProxyArtifact.of(run.stage("proxy")).snapshots[-1]["step"] if found.model == "proxy" else found.step
    after = "" if found.step == last else f" after step {found.step:,}"
    return f"{'fine-tuned' if pretrained else 'trained'} {found.model}{after}"
