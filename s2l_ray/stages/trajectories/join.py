"""Join one part's T snapshots. Anything missing, doubled, foreign or non-finite is an error, never filled in."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.artifacts.snapshots import TREND
from s2l_ray.data.example_id import ID_TYPE, array_to_hex, array_to_ids, ids_to_array
from s2l_ray.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]


class JoinError(DataError):
    """The snapshots do not fit together; says which ids and where."""


def trajectory_schema(num_snapshots: int) -> pa.Schema:
    return pa.schema(
        [
            ("example_id", ID_TYPE),
            ("source", pa.string()),
            ("num_response_tokens", pa.int32()),
            ("loss_nats", pa.list_(pa.float32(), num_snapshots)),
        ]
    )


def join_part(part: str, ids: Array, sources: pa.ChunkedArray, snapshots: list[pa.Table]) -> pa.Table:
    """→ one row per example, in the order of `ids` (n, 2), with its losses at all snapshots.

    An example whose responses are several sequences (rows of the same id, one after another) has the mean over all of
    their response tokens.

    Args:
        part: name of the part, for messages.
        snapshots: T tables of proxy.score.SCORE_SCHEMA, in the order of time; their rows in any order.

    Raises:
        JoinError
    """
    losses = np.empty((len(ids), len(snapshots)), dtype=np.float32)  # (n, T)
    counts: Array | None = None
    for t, table in enumerate(snapshots):
        where = f"{part}, snapshot {t}"
        order = _positions(ids, ids_to_array(table["example_id"]), where)
        losses[:, t] = table["loss_nats"].to_numpy()[order]
        these = table["num_response_tokens"].to_numpy()[order]
        if counts is not None and not np.array_equal(counts, these):
            wrong = ids[np.flatnonzero(counts != these)[:5]]
            raise JoinError(f"{where}: other numbers of response tokens than before for {_show(wrong)}")
        counts = these
    bad = np.flatnonzero(~np.isfinite(losses).all(axis=1))
    if len(bad):
        raise JoinError(f"{part}: {len(bad)} trajectories are not finite, of {_show(ids[bad[:5]])}")
    assert counts is not None
    first, counts, losses = _mean_over_sequences(ids, counts, losses)
    values = pa.FixedSizeListArray.from_arrays(pa.array(losses.reshape(-1)), len(snapshots))
    return pa.table(
        [array_to_ids(ids[first]), sources.combine_chunks().take(pa.array(first)), pa.array(counts), values],
        schema=trajectory_schema(len(snapshots)),
    )


def without_trend(table: pa.Table, mean_loss: float) -> pa.Table:
    """Losses that training computed in the course of an epoch → as if all were of one time.

    An example that comes late in an epoch meets a better model than one that comes early, and their difference would
    say more about the order than about them. So the trend is taken out: loss − what training as a whole had come to at
    that time + the epoch's mean. (Snapshots have no trend; all their losses are of the same weights.)

    Args:
        table: with the column artifacts.snapshots.TREND.
        mean_loss: of all examples in the epoch (nats).
    """
    losses, trend = (table[name].to_numpy().astype(np.float64) for name in ("loss_nats", TREND))
    level = pa.array((losses - trend + mean_loss).astype(np.float32))
    return table.drop_columns([TREND]).set_column(table.column_names.index("loss_nats"), "loss_nats", level)


def _mean_over_sequences(ids: Array, counts: Array, losses: Array) -> tuple[Array, Array, Array]:
    """Rows of one id (n, 2) → one row: (first rows (N,), counts (N,), losses (N, T)), weighted by response tokens."""
    is_first = np.ones(len(ids), dtype=bool)
    is_first[1:] = (ids[1:] != ids[:-1]).any(axis=1)
    first = np.flatnonzero(is_first)
    if len(first) == len(ids):
        return first, counts, losses
    totals = np.add.reduceat(counts, first)
    sums = np.add.reduceat(losses.astype(np.float64) * counts[:, None], first, axis=0)
    return first, totals.astype(np.int32), (sums / totals[:, None]).astype(np.float32)


def _positions(expected: Array, found: Array, where: str) -> Array:
    """Where in `found` each of `expected` stands; rows of one id in the order in which they stand."""
    if np.array_equal(expected, found):  # the order that the workers write
        return np.arange(len(expected))
    sorted_expected, order = (np.lexsort((ids[:, 1], ids[:, 0])) for ids in (expected, found))
    if not np.array_equal(expected[sorted_expected], found[order]):
        wanted, have = (Counter(map(tuple, ids.tolist())) for ids in (expected, found))
        doubled = sorted(i for i in have if have[i] > wanted[i] > 0)
        if doubled:
            raise JoinError(f"{where}: {len(doubled)} ids are doubled: {_show(_array(doubled[:5]))}")
        missing, foreign = sorted((wanted - have).elements()), sorted((have - wanted).elements())
        raise JoinError(
            f"{where}: {len(missing)} ids are missing ({_show(_array(missing[:5]))}), "
            f"{len(foreign)} are not of this part ({_show(_array(foreign[:5]))})"
        )
    positions = np.empty(len(expected), dtype=np.int64)
    positions[sorted_expected] = order
    return positions


def _array(ids: list[tuple[int, ...]]) -> Array:
    return np.array(ids, np.uint64).reshape(-1, 2)


def _show(ids: Array) -> str:
    return ", ".join(array_to_hex(ids)) or "none"
