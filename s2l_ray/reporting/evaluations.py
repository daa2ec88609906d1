"""Figures of held-out examples one by one, for the targets of a run, aligned by example id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.artifacts.stage import Stage
from s2l_ray.data.example_id import ids_to_array
from s2l_ray.evaluation.metrics import built_in_metrics
from s2l_ray.text.display import printable

Array = np.ndarray[Any, np.dtype[Any]]


METRICS = tuple(metric for metric in built_in_metrics() if metric.is_compared)


@dataclass(frozen=True)
class Key:
    """A trained model: what it was trained on, and with which seed."""

    label: str
    seed: int


@dataclass
class HeldOutSet:
    """The examples that all models were evaluated on."""

    name: str
    ids: Array
    """(N, 2) uint64, sorted, each once."""
    counts: Array
    """(N,) sequences of each example."""
    sources: list[str]
    """(N,)"""
    sums: dict[tuple[str, Key], Array] = field(default_factory=dict)
    """(metric, model) → (N,) sum of the figure over the example's sequences."""


@dataclass(frozen=True)
class _Figures:
    ids: Array
    counts: Array
    sums: dict[str, Array]


def read_sets(models: dict[Key, Stage], heldout: Stage | None) -> list[HeldOutSet]:
    """The held-out sets with the figures of all models, restricted to the examples that all of them were evaluated on.

    A set that one of the models lacks, or that shares no example with the others', is left out.

    Args:
        models: trained model → its target stage.
        heldout: the stage that knows the sources of the examples.
    """
    read = {key: _read_figures(stage) for key, stage in models.items()}
    names = [n for stage in models.values() for n in stage.manifest.extra["evaluation"]]
    sets = []
    for name in dict.fromkeys(names):
        each = {key: figures.get(name) for key, figures in read.items()}
        there = {key: f for key, f in each.items() if f is not None}
        if len(there) == len(models):
            made = _align(name, there)
            if len(made.ids):
                made.sources = _sources_of(made.ids, name, heldout)
                sets.append(made)
    return sets


def _read_figures(stage: Stage) -> dict[str, _Figures]:
    """held-out set → figures after training."""
    step = stage.manifest.extra["summary"]["exported_step"]
    name = f"evaluations/step-{step:08d}.parquet"
    if not any(output.name == name for output in stage.manifest.outputs):
        return {}
    table = stage.storage.read_table(name)
    figures = {}
    for held_out in pc.unique(table["heldout_set"]).to_pylist():
        rows = table.filter(pc.equal(table["heldout_set"].cast(pa.string()), held_out))
        ids = ids_to_array(rows["example_id"])
        order = np.lexsort((ids[:, 1], ids[:, 0]))
        ids = ids[order]
        first = np.flatnonzero(np.r_[True, (ids[1:] != ids[:-1]).any(axis=1)])
        sums = {}
        for metric in METRICS:
            stored = "loss_nats" if metric.column == "loss" else metric.column
            values = rows[stored].to_numpy().astype(np.float64)[order]
            sums[metric.column] = np.add.reduceat(values, first)
        figures[held_out] = _Figures(ids[first], np.diff(np.r_[first, len(ids)]), sums)
    return figures


def _align(name: str, there: dict[Key, _Figures]) -> HeldOutSet:
    """Rows of the ids that all have; equal ids, the usual case, are not searched."""
    reference = next(iter(there.values()))
    kept: dict[Key, Any] = dict.fromkeys(there, slice(None))
    if not all(np.array_equal(f.ids, reference.ids) for f in there.values()):
        common = set.intersection(*(set(map(tuple, f.ids.tolist())) for f in there.values()))
        kept = {key: np.array([tuple(i) in common for i in f.ids.tolist()], bool) for key, f in there.items()}
    first = next(iter(there))
    made = HeldOutSet(name, reference.ids[kept[first]], reference.counts[kept[first]], [])
    for key, figures in there.items():
        for metric, sums in figures.sums.items():
            made.sums[metric, key] = sums[kept[key]]
    return made


def _sources_of(ids: Array, name: str, heldout: Stage | None) -> list[str]:
    if heldout is None or not any(o.name == f"{name}.parquet" for o in heldout.manifest.outputs):
        return [""] * len(ids)
    table = heldout.storage.read_table(f"{name}.parquet", columns=["example_id", "source"])
    known = dict(zip(table["example_id"].to_pylist(), table["source"].to_pylist(), strict=True))
    as_bytes = np.ascontiguousarray(ids.astype(">u8")).tobytes()
    return [printable(known.get(as_bytes[i * 16 : i * 16 + 16]) or "") for i in range(len(ids))]


def values_of(made: HeldOutSet, metric: str, keys: Sequence[Key]) -> Array:
    """(N, len(keys)) sums."""
    return np.column_stack([made.sums[metric, key] for key in keys])
