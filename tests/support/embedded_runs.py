"""Embeddings for runs that are made without training anything: far apart by topic, by as much as is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.selection.gradient_sample import draw_sample
from tests.support.selected_runs import Array, SelectedRun

DIM = 16


def by_topic(made: SelectedRun, distance: float, seed: int = 0) -> Array:
    """(N, DIM) float32, unit length: around a direction of their topic's, the nearer the larger `distance` is."""
    rng = np.random.default_rng(seed)
    centres = np.eye(DIM)[: len(made.topics)]
    vectors = distance * centres[made.topic_codes] + rng.standard_normal((made.num_examples, DIM)) / DIM**0.5
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def column_of(vectors: Array, kind: Any = np.float16) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(kind).reshape(-1)), vectors.shape[1])


def add_embeddings(
    made: SelectedRun, vectors: Array, step: int, column: str = "embedding", model: str = "proxy"
) -> str:
    """A selector's pass; returns the stage's name."""
    files: dict[str, Any] = {}
    for part, rows in made.parts:
        at = slice(part * made.examples_per_part, part * made.examples_per_part + rows)
        table = pa.table([array_to_ids(made.ids[at]), column_of(vectors[at])], names=["example_id", column])
        files[f"parts/{part_name(part)}"] = table
    inputs = {"tokens": made.token_content, "proxy": made.proxy}
    if model == "target":
        inputs = {"tokens": made.token_content, "target": "t", "corpus": made.corpus}
    name = f"signals/{'target-1a2b3c4d-' if model == 'target' else ''}{column}@{step}"
    extra = {"parts": [list(p) for p in made.parts], "column": column, "step": step}
    made.stage(name, "signals", inputs, {"examples": made.num_examples}, extra, files, {"column": column, "step": step})
    return name


def add_gradients(made: SelectedRun, vectors: dict[str, Array], num_examples: int) -> Array:
    """A gradient check's embeddings, by moment (`start`, `last`); returns the rows of its uniform sample."""
    sample = draw_sample(made.ids, made.clusters, num_examples, made.seed)
    files = {}
    for moment, of in vectors.items():
        gradients = np.zeros((len(sample.rows), 2))
        columns = [array_to_ids(made.ids[sample.rows]), column_of(gradients), column_of(of[sample.rows], np.float32)]
        files[f"{moment}/{part_name(0)}"] = pa.table(columns, names=["example_id", "gradient", "embedding"])
    last = 1 + 20 * (made.num_snapshots - 1)
    steps = [[moment, 0 if moment == "start" else last] for moment in vectors]
    extra = {"kind": "head", "snapshots": steps, "num_examples": len(sample.rows), "dim": 2, "num_chunks": 1}
    inputs = {"tokens": made.token_content, "proxy": made.proxy, "clusters": made.cluster_content}
    settings = {"num_examples": num_examples, "seed": made.seed}
    made.stage("gradients", "gradients", inputs, {"examples": len(sample.rows)}, extra, files, settings)
    return sample.rows[sample.is_uniform]
