"""The N × T matrix: whatever is missing, doubled, foreign or not finite is an error, in any order of rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.artifacts.snapshots import SCORE_SCHEMA
from s2l_ray.data.example_id import array_to_hex, array_to_ids
from s2l_ray.selection.signals import MIN_PROBABILITY, SCALARS
from s2l_ray.stages.trajectories.join import JoinError, join_part


def ids_of(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**63, (num, 2)).astype(np.uint64)


def snapshot(ids: np.ndarray, losses: np.ndarray, counts: np.ndarray | None = None, **signals: np.ndarray) -> pa.Table:
    num = np.full(len(ids), 7, np.int32) if counts is None else counts
    columns = [
        array_to_ids(ids),
        pa.array(np.zeros(len(ids), np.int32)),
        pa.array(losses.astype(np.float32)),
        pa.array(num),
    ]
    table = pa.table(columns, schema=SCORE_SCHEMA)
    for name, values in signals.items():
        table = table.append_column(name, pa.array(values.astype(np.float32)))
    return table


def sources(num: int) -> pa.ChunkedArray:
    return pa.chunked_array([["a"] * num])


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=80, deadline=None)
def test_losses_find_their_rows_whatever_the_order(num, num_snapshots, seed):
    rng = np.random.default_rng(seed)
    ids, losses = ids_of(num, seed), rng.random((num, num_snapshots)).astype(np.float32)
    tables = []
    for t in range(num_snapshots):
        order = rng.permutation(num)
        tables.append(snapshot(ids[order], losses[order, t]))
    joined = join_part("part-0", ids, sources(num), tables)
    assert joined["example_id"].to_pylist() == array_to_ids(ids).to_pylist()
    np.testing.assert_array_equal(np.array(joined["loss_nats"].to_pylist(), np.float32), losses)


def test_signals_are_joined_and_checked_like_losses():
    ids = ids_of(3)[[0, 1, 1, 2]]
    counts = np.array([5, 1, 3, 4], np.int32)
    signals = {name: np.array([0.1, 0.2, 0.6, 0.9]) * (1 + at) for at, name in enumerate(SCALARS)}
    order = [3, 1, 2, 0]
    moved = {name: values[order] for name, values in signals.items()}
    tables = [snapshot(ids, np.ones(4), counts, **signals), snapshot(ids[order], np.ones(4), counts[order], **moved)]
    joined = join_part("part-0", ids, sources(4), tables)
    for at, name in enumerate(SCALARS):
        of_two = 0.2 if name == MIN_PROBABILITY else (0.2 * 1 + 0.6 * 3) / 4
        expected = np.repeat([[0.1], [of_two], [0.9]], 2, axis=1) * (1 + at)
        np.testing.assert_allclose(np.array(joined[name].to_pylist()), expected, rtol=1e-6)
    tables[1] = snapshot(ids[order], np.ones(4), counts[order], **moved | {"el2n": np.array([1, np.inf, 1, 1])})
    with pytest.raises(JoinError, match=f"1 values of el2n are not finite, .* {array_to_hex(ids[1:2])[0]}"):
        join_part("part-0", ids, sources(4), tables)
    tables[1] = snapshot(ids[order], np.ones(4), counts[order])  # of an earlier version
    assert "el2n" not in join_part("part-0", ids, sources(4), tables).column_names


def test_an_example_of_several_sequences_has_one_trajectory():
    ids = ids_of(3)[[0, 1, 1, 1, 2]]
    counts, losses = np.array([5, 1, 2, 3, 4], np.int32), np.array([1.0, 6.0, 3.0, 2.0, 4.0])
    order = [4, 1, 2, 0, 3]
    tables = [snapshot(ids, losses, counts), snapshot(ids[order], 2 * losses[order], counts[order])]
    joined = join_part("part-0", ids, sources(5), tables)
    assert joined["example_id"].to_pylist() == array_to_ids(ids[[0, 1, 4]]).to_pylist()
    assert joined["num_response_tokens"].to_pylist() == [5, 6, 4]
    assert joined["loss_nats"].to_pylist() == [[1, 2], [3, 6], [4, 8]]  # (6·1 + 3·2 + 2·3) / 6 = 3
    with pytest.raises(JoinError, match="1 ids are missing"):
        join_part("part-0", ids, sources(5), [snapshot(ids[1:], losses[1:], counts[1:])])
    with pytest.raises(JoinError, match="1 ids are missing"):
        join_part("part-0", ids, sources(5), [snapshot(ids[[0, 1, 1, 2]], losses[:4], counts[:4])])
    with pytest.raises(JoinError, match="1 ids are duplicates"):
        join_part("part-0", ids, sources(5), [snapshot(ids[[0, 1, 1, 1, 1, 2]], np.ones(6))])


def broken(kind: str, ids: np.ndarray) -> tuple[pa.Table, str]:
    losses = np.ones(len(ids))
    if kind == "missing":
        return snapshot(ids[1:], losses[1:]), f"1 ids are missing \\({array_to_hex(ids[:1])[0]}"
    if kind == "doubled":
        return snapshot(np.concatenate([ids[:1], ids]), np.ones(len(ids) + 1)), "1 ids are duplicates"
    if kind == "doubled for a missing one":
        return snapshot(np.concatenate([ids[1:2], ids[1:]]), losses), "1 ids are duplicates"
    if kind == "foreign":
        return snapshot(np.concatenate([ids, ids_of(1, 99)]), np.ones(len(ids) + 1)), "1 do not belong to this part"
    if kind == "other counts":
        return snapshot(ids, losses, np.full(len(ids), 8, np.int32)), "numbers of response tokens differ"
    value = {"nan": np.nan, "inf": np.inf}[kind]
    losses[3] = value
    return snapshot(ids, losses), f"1 trajectories are not finite, such as those of {array_to_hex(ids[3:4])[0]}"


@pytest.mark.parametrize(
    "kind", ["missing", "doubled", "doubled for a missing one", "foreign", "other counts", "nan", "inf"]
)
def test_every_fault_is_loud(kind):
    ids = ids_of(10)
    table, message = broken(kind, ids)
    with pytest.raises(JoinError, match=message):
        join_part("part-0", ids, sources(10), [snapshot(ids, np.ones(10)), table])
