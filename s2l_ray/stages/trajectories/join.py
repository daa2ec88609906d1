"""Joins one part's T snapshots. Anything missing, duplicate, foreign or non-finite is an error, never filled in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.snapshots import TREND
from s2l_ray.data.example_id import ID_TYPE, array_to_hex, array_to_ids, ids_to_array
from s2l_ray.data.sequences import first_rows, mean_over_sequences
from s2l_ray.errors import DataError
from s2l_ray.selection.signals import MIN_PROBABILITY, SCALARS

Array = np.ndarray[Any, np.dtype[Any]]


class JoinError(DataError):
    """The snapshots do not match; the message says which ids and where."""


def trajectory_schema(num_snapshots: int, signals: Sequence[str] = ()) -> pa.Schema:
    """The schema of a part of the trajectories.

    Args:
        signals: columns besides the loss.
    """
    return pa.schema(
        [
            ("example_id", ID_TYPE),
            ("source", pa.string()),
            ("num_response_tokens", pa.int32()),
            *((name, pa.list_(pa.float32(), num_snapshots)) for name in ("loss_nats", *signals)),
        ]
    )


def join_part(part: str, ids: Array, sources: pa.ChunkedArray, snapshots: list[pa.Table]) -> pa.Table:
    """Join a part → one row per example, in the order of `ids` (n, 2), with its losses and signals at all snapshots.

    An example whose responses are several sequences (consecutive rows with the same id) gets the mean over all of their
    response tokens; for the minimum probability, the minimum.

    Args:
        part: name of the part, for messages.
        snapshots: T tables of artifacts.snapshots.SCORE_SCHEMA, in chronological order, with rows in any order. Signals
            missing from any of them, because an earlier version did the scoring, are left out.

    Raises:
        JoinError
    """
    there = [name for name in SCALARS if all(name in table.column_names for table in snapshots)]
    columns = {name: np.empty((len(ids), len(snapshots)), dtype=np.float32) for name in ("loss_nats", *there)}  # (n, T)
    counts: Array | None = None
    for t, table in enumerate(snapshots):
        where = f"{part}, snapshot {t}"
        order = _positions(ids, ids_to_array(table["example_id"]), where)
        for name, values in columns.items():
            values[:, t] = table[name].to_numpy()[order]
        these = table["num_response_tokens"].to_numpy()[order]
        if counts is not None and not np.array_equal(counts, these):
            wrong = ids[np.flatnonzero(counts != these)[:5]]
            raise JoinError(f"{where}: numbers of response tokens differ from earlier snapshots for {_show(wrong)}")
        counts = these
    for name, values in columns.items():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            what = "trajectories" if name == "loss_nats" else f"values of {name}"
            raise JoinError(f"{part}: {len(bad)} {what} are not finite, such as those of {_show(ids[bad[:5]])}")
    assert counts is not None
    first, totals = first_rows(ids), counts
    if len(first) < len(ids):
        totals = np.add.reduceat(counts, first).astype(np.int32)
        columns = {name: _of_examples(name, values, counts, first) for name, values in columns.items()}
    lists = [pa.FixedSizeListArray.from_arrays(pa.array(v.reshape(-1)), len(snapshots)) for v in columns.values()]
    return pa.table(
        [array_to_ids(ids[first]), sources.combine_chunks().take(pa.array(first)), pa.array(totals), *lists],
        schema=trajectory_schema(len(snapshots), there),
    )


def without_trend(table: pa.Table, mean_loss: float) -> pa.Table:
    """Detrend losses computed by training in the course of an epoch, as if all were computed at the same time.

    An example late in an epoch meets a better model than an early one, so their difference would say more about the
    order than about the examples. Therefore the trend is removed: loss − the mean training loss at that time + the
    epoch's mean. (Snapshots have no trend, because all their losses are computed with the same weights.)

    Args:
        table: rows with the column artifacts.snapshots.TREND.
        mean_loss: mean over all examples in the epoch (nats).
    """
    losses, trend = (table[name].to_numpy().astype(np.float64) for name in ("loss_nats", TREND))
    level = pa.array((losses - trend + mean_loss).astype(np.float32))
    return table.drop_columns([TREND]).set_column(table.column_names.index("loss_nats"), "loss_nats", level)


def _of_examples(name: str, values: Array, counts: Array, first: Array) -> Array:
    """Aggregate values of sequences (n, T) to examples (N, T): the minimum, or the mean over response tokens.

    Args:
        counts: (n,) numbers of response tokens.
        first: (N,) first row of each example.
    """
    if name == MIN_PROBABILITY:
        return np.minimum.reduceat(values, first, axis=0)
    return mean_over_sequences(values, counts, first).astype(np.float32)


def _positions(expected: Array, found: Array, where: str) -> Array:
    """The position in `found` of each row of `expected`; rows with the same id keep their order."""
    if np.array_equal(expected, found):  # the usual case: workers write in this order
        return np.arange(len(expected))
    sorted_expected, order = (np.lexsort((ids[:, 1], ids[:, 0])) for ids in (expected, found))
    if not np.array_equal(expected[sorted_expected], found[order]):
        wanted, have = (Counter(map(tuple, ids.tolist())) for ids in (expected, found))
        doubled = sorted(i for i in have if have[i] > wanted[i] > 0)
        if doubled:
            raise JoinError(f"{where}: {len(doubled)} ids are duplicates: {_show(_array(doubled[:5]))}")
        missing, foreign = sorted((wanted - have).elements()), sorted((have - wanted).elements())
        raise JoinError(
            f"{where}: {len(missing)} ids are missing ({_show(_array(missing[:5]))}), "
            f"{len(foreign)} do not belong to this part ({_show(_array(foreign[:5]))})"
        )
    positions = np.empty(len(expected), dtype=np.int64)
    positions[sorted_expected] = order
    return positions


def _array(ids: list[tuple[int, ...]]) -> Array:
    return np.array(ids, np.uint64).reshape(-1, 2)


def _show(ids: Array) -> str:
    return ", ".join(array_to_hex(ids)) or "none"
