"""Join one part's T snapshots. Anything missing, doubled, foreign or non-finite is an error, never filled in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from s2l_ray.corpus.example_id import ID_TYPE, array_to_hex, array_to_ids, ids_to_array
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
    """→ one row per id of `ids` (n, 2), in that order, with its losses at all snapshots.

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
    values = pa.FixedSizeListArray.from_arrays(pa.array(losses.reshape(-1)), len(snapshots))
    return pa.table(
        [array_to_ids(ids), sources.combine_chunks(), pa.array(counts), values],
        schema=trajectory_schema(len(snapshots)),
    )


def _positions(expected: Array, found: Array, where: str) -> Array:
    """Where in `found` each of `expected` stands."""
    if np.array_equal(expected, found):  # the order that the workers write
        return np.arange(len(expected))
    order = np.lexsort((found[:, 1], found[:, 0]))
    ordered = found[order]
    doubled = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
    if len(doubled):
        raise JoinError(f"{where}: {len(doubled)} ids are doubled: {_show(ordered[doubled[:5]])}")
    wanted = {tuple(i) for i in expected.tolist()}
    have = {tuple(i) for i in found.tolist()}
    if wanted != have:
        missing, foreign = sorted(wanted - have), sorted(have - wanted)
        raise JoinError(
            f"{where}: {len(missing)} ids are missing ({_show(np.array(missing[:5], np.uint64).reshape(-1, 2))}), "
            f"{len(foreign)} are not of this part ({_show(np.array(foreign[:5], np.uint64).reshape(-1, 2))})"
        )
    rank_of_expected = np.empty(len(expected), dtype=np.int64)
    rank_of_expected[np.lexsort((expected[:, 1], expected[:, 0]))] = np.arange(len(expected))
    return order[rank_of_expected]


def _show(ids: Array) -> str:
    return ", ".join(array_to_hex(ids)) or "none"
