"""The table of held-out scores, from which all metrics of held-out sets are computed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2l_ray.data.example_id import ID_TYPE, array_to_ids
from s2l_ray.evaluation.metrics import Array, Metric, ScoredExamples, SetResult, scored_examples, summarise
from s2l_ray.storage.fingerprint import fingerprint

SCORES = "scores.parquet"
"""Name of the file in the folder of a held-out evaluation."""

_NAME = pa.dictionary(pa.int32(), pa.string())
SCORE_SCHEMA = pa.schema(
    [
        ("heldout_set", _NAME), ("example_id", ID_TYPE), ("source", _NAME), ("loss_nats", pa.float32()),
        ("num_response_tokens", pa.int32()), ("exact_match", pa.bool_()),
    ]
)  # fmt: skip
"""One row per sequence, ordered by set and then by example id."""


def score_table(name: str, ids: Array, sources: Array, losses: Array, counts: Array, exact: Array) -> pa.Table:
    """The rows of one set.

    Args:
        ids: (N, 2) uint64; sources: (N,) names; losses: (N,) nats per response token; counts: (N,) response tokens;
            exact: (N,) bool.
    """
    columns = [
        pa.array([name] * len(losses)).dictionary_encode(),
        array_to_ids(ids),
        pa.array(list(sources), pa.string()).dictionary_encode(),
        pa.array(losses),
        pa.array(counts),
        pa.array(exact),
    ]
    return pa.table(columns, names=SCORE_SCHEMA.names).cast(SCORE_SCHEMA)


def rows_by_set(table: pa.Table) -> dict[str, pa.Table]:
    """Held-out set → its rows, with the sets in the table's order."""
    names = table["heldout_set"].cast(pa.string())
    return {name: table.filter(pc.equal(names, name)) for name in pc.unique(names).to_pylist()}


def scored_of(rows: pa.Table) -> ScoredExamples:
    """One set's rows as arrays."""
    losses, counts, exact = (rows[name].to_numpy() for name in ("loss_nats", "num_response_tokens", "exact_match"))
    return scored_examples(losses, counts, exact, np.asarray(rows["source"].cast(pa.string()).to_pylist(), object))


def results_of(table: pa.Table, metrics: Iterable[Metric]) -> dict[str, SetResult]:
    """Held-out set → its metrics.

    Raises:
        MetricError: a metric fails.
    """
    metrics = list(metrics)
    return {name: summarise(scored_of(rows), metrics) for name, rows in rows_by_set(table).items()}


def scores_fingerprint(table: pa.Table) -> str:
    """Fingerprint of the scores' values."""
    columns = [
        [name, [i.hex() for i in rows["example_id"].to_pylist()], rows["loss_nats"].to_pylist(),
         rows["exact_match"].to_pylist()]
        for name, rows in rows_by_set(table).items()
    ]  # fmt: skip
    return fingerprint(columns)
