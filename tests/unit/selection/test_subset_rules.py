"""Which rows of a group are taken first, and what the selectors of the paper take."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.data import ranking
from s2l_ray.data.ranking import rank_within, sampling_keys
from s2l_ray.selection import Ordering, Selection, SelectionInputs, list_selectors, order_examples, resolve_options
from tests.support.algorithm_1 import algorithm_1, seeds
from tests.support.tiers import rest_thorough


def make_ids(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, size=(num, 2), dtype=np.uint64)


def make_inputs(num: int, num_clusters: int, num_sources: int, seed: int = 0) -> SelectionInputs:
    rng = np.random.default_rng(seed)
    clusters = np.minimum(rng.geometric(0.3, num) - 1, num_clusters - 1).astype(np.int32)
    sources = np.minimum(rng.geometric(0.5, num) - 1, num_sources - 1).astype(np.int32)
    names = [f"source-{chr(ord('a') + (7 * i) % 26)}" for i in range(num_sources)]  # not in alphabetical order
    return SelectionInputs(make_ids(num, seed), clusters, sources, names)


def order(selector: str, inputs: SelectionInputs, seed: int, stratify: bool = False) -> Ordering:
    options = resolve_options(selector, {"stratify": True} if stratify else {})
    return order_examples(selector, inputs, seed, options)


def select(selector: str, inputs: SelectionInputs, budget: int, seed: int, stratify: bool = False) -> Selection:
    return order(selector, inputs, seed, stratify).take(budget)


def chosen_ids(inputs: SelectionInputs, selection: Selection) -> set[tuple[int, int]]:
    return {(int(high), int(low)) for high, low in inputs.example_ids[selection.rows]}


# --- ranking --------------------------------------------------------------------------------------------------------


def test_keys_are_fixed_for_ever() -> None:
    """A changed value would change every user's subset: these are part of the format."""
    ids = np.array([[0, 0], [0, 1], [1, 0], [2**64 - 1, 2**63]], dtype=np.uint64)
    assert [hex(key) for key in sampling_keys(ids, 0).tolist()] == KEYS_OF_SEED_0


def test_keys_match_plain_integers() -> None:
    import hashlib

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    digest = hashlib.blake2b(b"s2l_ray/sampling-keys/5", digest_size=16).digest()
    first, second = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
    ids = make_ids(200)
    expected = [mix(((mix(high ^ first) ^ low) + second) % 2**64) for high, low in ids.tolist()]
    assert sampling_keys(ids, 5).tolist() == expected


def test_keys_are_uniform_even_for_counting_ids() -> None:
    for column in (0, 1):
        ids = np.zeros((20_000, 2), dtype=np.uint64)
        ids[:, column] = np.arange(20_000)
        keys = sampling_keys(ids, 0)
        assert len(np.unique(keys)) == 20_000
        for bit in range(64):
            ones = int(((keys >> np.uint64(bit)) & np.uint64(1)).sum())
            assert abs(ones - 10_000) < 5 * math.sqrt(5000), bit
        other = sampling_keys(ids, 1)
        assert abs(np.corrcoef(keys.astype(float), other.astype(float))[0, 1]) < 0.04


@pytest.mark.thorough
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=60), st.randoms())
def test_rank_is_by_key_then_id_and_ignores_row_order(rows: list[tuple[int, int]], shuffler: random.Random) -> None:
    """Few distinct keys, so that ids must break ties."""
    ids = make_ids(len(rows))
    ids[:, 0] %= np.uint64(3)  # equal high halves, so that low halves must decide
    groups = np.array([g for g, _ in rows], dtype=np.int32)
    keys = np.array([k for _, k in rows], dtype=np.uint64)
    expected = [
        sum(
            groups[j] == groups[i] and (keys[j], *ids[j].tolist()) < (keys[i], *ids[i].tolist())
            for j in range(len(rows))
        )
        for i in range(len(rows))
    ]
    assert rank_within(groups, keys, ids).tolist() == expected
    order = list(range(len(rows)))
    shuffler.shuffle(order)
    assert rank_within(groups[order], keys[order], ids[order]).tolist() == [expected[i] for i in order]


def test_rank_with_more_groups_than_16_bits_and_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "CHUNK_ROWS", 999)
    groups = np.random.default_rng(0).integers(0, 90_000, 5000)
    groups[:2000] = 70_000
    ids, keys = make_ids(5000), sampling_keys(make_ids(5000), 0)
    rank = rank_within(groups, keys, ids)
    for group in np.unique(groups)[:50].tolist() + [70_000]:
        members = np.flatnonzero(groups == group)
        assert np.array_equal(rank[members], np.argsort(np.argsort(keys[members])))


def test_repeated_ids_are_refused() -> None:
    ids = make_ids(100)
    ids[70] = ids[3]
    with pytest.raises(ValueError, match=f"1 example ids .*{int(ids[3, 0]):016x}{int(ids[3, 1]):016x}"):
        rank_within(np.arange(100) % 7, sampling_keys(ids, 0), ids)


def test_ranking_input_is_checked() -> None:
    ids = make_ids(5)
    assert rank_within(np.empty(0, np.int64), np.empty(0, np.uint64), make_ids(0)).tolist() == []
    with pytest.raises(ValueError, match=r"\(N, 2\) uint64"):
        sampling_keys(ids.astype(np.int64), 0)
    with pytest.raises(ValueError, match="the same length, not 4, 5 and 5"):
        rank_within(np.zeros(4, np.int64), sampling_keys(ids, 0), ids)


# --- selectors ------------------------------------------------------------------------------------------------------

CHOICES = [("s2l", False), ("s2l", True), ("random", False), ("random_per_source", False)]


@pytest.mark.parametrize(("selector", "stratify"), rest_thorough(CHOICES))
@settings(deadline=None, max_examples=50)
@given(num=st.integers(1, 80), num_clusters=st.integers(1, 12), num_sources=st.integers(1, 6), seed=seeds)
def test_every_selector_spends_exactly_nests_and_ignores_row_order(
    selector: str, stratify: bool, num: int, num_clusters: int, num_sources: int, seed: int
) -> None:
    inputs = make_inputs(num, num_clusters, num_sources, seed % 1000)
    ordering = order(selector, inputs, seed, stratify)
    permutation = np.random.default_rng(1).permutation(num)
    # The same examples in another order, and sources numbered in another order too, as another partitioning would.
    assert inputs.clusters is not None
    assert inputs.sources is not None
    shuffled = SelectionInputs(
        inputs.example_ids[permutation],
        inputs.clusters[permutation],
        (num_sources - 1 - inputs.sources[permutation]).astype(np.int32),
        inputs.source_names[::-1],
    )
    reordered = order(selector, shuffled, seed, stratify)
    smaller: set[tuple[int, int]] = set()
    for budget in range(1, num + 1):
        selection = ordering.take(budget)
        assert len(selection.rows) == budget
        assert (np.diff(selection.rows) > 0).all()
        assert sum(group["taken"] for group in selection.groups) == budget
        assert all(group["taken"] <= group["size"] for group in selection.groups)
        larger = chosen_ids(inputs, selection)
        assert smaller < larger
        smaller = larger
        again = reordered.take(budget)
        assert chosen_ids(shuffled, again) == larger
        assert again.groups == selection.groups


def test_s2l_takes_the_lowest_ranks_of_each_cluster() -> None:
    inputs = make_inputs(2000, 8, 3)
    assert inputs.clusters is not None
    selection = select("s2l", inputs, 300, seed=4)
    sizes = np.bincount(inputs.clusters)
    assert [g["taken"] for g in selection.groups] == algorithm_1(sizes.tolist(), 300)
    assert [(g["stratum"], g["cluster"], g["size"]) for g in selection.groups] == [
        (None, k, size) for k, size in enumerate(sizes.tolist())
    ]
    keys = sampling_keys(inputs.example_ids, 4)
    for k, group in enumerate(selection.groups):
        members = np.flatnonzero(inputs.clusters == k)
        lowest = members[np.argsort(keys[members])][: group["taken"]]
        mine = inputs.clusters[selection.rows] == k
        assert selection.rows[mine].tolist() == sorted(lowest.tolist())
        assert sorted(selection.rank[mine].tolist()) == list(range(group["taken"]))
        assert selection.rows[mine][selection.rank[mine] == 0] == lowest[0]
    json.dumps(selection.groups)


def test_stratified_s2l_balances_sources_and_then_clusters() -> None:
    inputs = make_inputs(3000, 6, 3)
    assert inputs.sources is not None
    assert inputs.clusters is not None
    selection = select("s2l", inputs, 600, seed=0, stratify=True)
    per_source = np.bincount(inputs.sources)
    taken = np.bincount(inputs.sources[selection.rows])
    assert per_source.min() > 200
    assert taken.tolist() == [200, 200, 200]
    for code, name in enumerate(inputs.source_names):
        within = np.bincount(inputs.clusters[inputs.sources == code])
        groups = [g for g in selection.groups if g["stratum"] == name]
        assert [g["taken"] for g in groups] == algorithm_1(within[within > 0].tolist(), 200)
    everywhere = select("s2l", inputs, 600, seed=0)
    assert not np.array_equal(everywhere.rows, selection.rows)


def test_random_per_source_is_water_filled() -> None:
    sources = np.repeat(np.arange(3, dtype=np.int32), [1000, 20, 400])
    inputs = SelectionInputs(make_ids(1420), None, sources, ["web", "books", "code"])
    selection = select("random_per_source", inputs, 321, seed=0)
    taken = {g["stratum"]: g["taken"] for g in selection.groups}
    assert taken == {"books": 20, "code": 150, "web": 151}
    assert [g["stratum"] for g in selection.groups] == ["books", "code", "web"]


def test_random_takes_the_lowest_keys() -> None:
    inputs = SelectionInputs(make_ids(1000))
    selection = select("random", inputs, 100, seed=3)
    lowest = np.argsort(sampling_keys(inputs.example_ids, 3))[:100]
    assert selection.rows.tolist() == sorted(lowest.tolist())
    [group] = selection.groups
    assert (group["stratum"], group["cluster"], group["size"], group["taken"]) == (None, None, 1000, 100)


@pytest.mark.thorough
def test_sampling_is_uniform_over_seeds() -> None:
    inputs = SelectionInputs(make_ids(30), np.repeat(np.arange(3, dtype=np.int32), 10))
    counts = np.zeros(30)
    for seed in range(1500):
        counts[select("s2l", inputs, 9, seed).rows] += 1
    assert abs(counts - 450).max() < 5 * math.sqrt(1500 * 0.3 * 0.7)


def test_budget_below_the_number_of_clusters_hits_small_and_large_alike() -> None:
    clusters = np.repeat(np.arange(20, dtype=np.int32), np.arange(1, 21))
    inputs = SelectionInputs(make_ids(len(clusters)), clusters)
    hits = np.zeros(20)
    for seed in range(500):
        selection = select("s2l", inputs, 5, seed)
        chosen = clusters[selection.rows]
        assert len(set(chosen.tolist())) == 5
        hits[chosen] += 1
    assert abs(hits - 125).max() < 5 * math.sqrt(500 * 0.25 * 0.75)


def test_selector_errors_say_what_to_do() -> None:
    bare = SelectionInputs(make_ids(10), np.zeros(10, np.int32))
    with pytest.raises(ValueError, match=r"unknown selector 's2'; known: .*random, .*s2l, s2l_robust"):
        select("s2", bare, 3, 0)
    with pytest.raises(ValueError, match=r"corpus\.source_column"):
        select("random_per_source", bare, 3, 0)
    with pytest.raises(ValueError, match=r"corpus\.source_column"):
        select("s2l", bare, 3, 0, stratify=True)
    with pytest.raises(ValueError, match=r"options\.random sets stratify, which the selector random does not have"):
        select("random", bare, 3, 0, stratify=True)
    with pytest.raises(ValueError, match="runs k-means"):
        select("s2l", SelectionInputs(make_ids(10)), 3, 0)
    for budget in (0, 11):
        with pytest.raises(ValueError, match=f"budget {budget} cannot be taken from 10"):
            select("random", bare, budget, 0)
    assert all(one.summary for one in list_selectors())


def test_selection_inputs_must_belong_together() -> None:
    ids = make_ids(4)
    with pytest.raises(ValueError, match=r"clusters must be \(4,\) integers"):
        SelectionInputs(ids, np.zeros(5, np.int32))
    with pytest.raises(ValueError, match="clusters has -1 in row 2"):
        SelectionInputs(ids, np.array([0, 0, -1, 0], np.int32))
    with pytest.raises(ValueError, match="code 1, but there are only 1"):
        SelectionInputs(ids, None, np.array([0, 0, 1, 0], np.int32), ["a"])
    with pytest.raises(ValueError, match="no sources"):
        SelectionInputs(ids, None, None, ["a"])


KEYS_OF_SEED_0 = ["0xde0ed9ec17009142", "0xe635c301ccfde513", "0x104e0529028a7444", "0x16cf3e70c4e5dbf6"]
