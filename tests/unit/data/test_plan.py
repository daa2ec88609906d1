"""Every example exactly once an epoch, in an order that neither workers nor restarts change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.artifacts.points import PlanError, snapshot_steps
from s2l_ray.data.part_groups import group_parts
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.training_order import TrainPlan, balance_by_length, make_plan

part_rows = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def numbered(plan: TrainPlan, start_step: int):
    """Examples whose id is their number in the corpus."""
    starts = {}
    total = 0
    for part, rows in plan.parts:
        starts[part] = (total, rows)
        total += rows
    for window in plan.windows_from(start_step):
        numbers = np.concatenate([np.arange(starts[p][0], sum(starts[p])) for p in window.parts])
        ids = np.stack([numbers, numbers], axis=1).astype(np.uint64)
        one = np.ones(len(ids))
        yield Examples(ids, one.astype(np.int32), one.astype(bool), np.arange(len(ids) + 1))


def steps_of(plan: TrainPlan, start_step: int = 0) -> list[tuple[int, list[int]]]:
    return [(s, b.ids[:, 0].astype(int).tolist()) for s, b in plan.batches(start_step, numbered(plan, start_step))]


@pytest.mark.thorough
@given(part_rows, st.integers(1, 30), st.integers(1, 3), st.integers(1, 100), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_every_example_once_an_epoch(rows, batch, epochs, window, seed):
    parts = tuple(enumerate(rows))
    per_epoch = -(-sum(rows) // batch)
    plan = TrainPlan(parts, batch, epochs * per_epoch, seed, window)
    steps = steps_of(plan)
    assert [s for s, _ in steps] == list(range(plan.total_steps))
    for epoch in range(epochs):
        seen = [i for _, ids in steps[epoch * per_epoch : (epoch + 1) * per_epoch] for i in ids]
        assert sorted(seen) == list(range(sum(rows)))
        sizes = [len(ids) for _, ids in steps[epoch * per_epoch : (epoch + 1) * per_epoch]]
        assert sizes[:-1] == [batch] * (per_epoch - 1)


@pytest.mark.thorough
@given(part_rows, st.integers(1, 30), st.integers(1, 100), st.data())
@settings(max_examples=150, deadline=None)
def test_a_resumed_run_goes_on_with_the_same_batches(rows, batch, window, data):
    plan = TrainPlan(tuple(enumerate(rows)), batch, 2 * -(-sum(rows) // batch), 7, window)
    start = data.draw(st.integers(0, plan.total_steps - 1))
    assert steps_of(plan, start) == steps_of(plan)[start:]


def test_epochs_differ_and_seeds_repeat():
    plan = make_plan([(0, 50), (1, 50)], 10, 2, None, seed=3)
    steps = steps_of(plan)
    assert [i for _, b in steps[:10] for i in b] != [i for _, b in steps[10:] for i in b]
    assert steps == steps_of(make_plan([(0, 50), (1, 50)], 10, 2, None, seed=3))
    assert steps != steps_of(make_plan([(0, 50), (1, 50)], 10, 2, None, seed=4))


def test_changed_parts_are_noticed():
    plan = make_plan([(0, 50)], 10, 1, None, 0)
    short = next(numbered(plan, 0)).take(np.arange(40))
    with pytest.raises(RuntimeError, match="40 examples were read"):
        list(plan.batches(0, iter([short])))


@given(st.integers(2, 50), st.integers(1, 2000), st.booleans())
def test_snapshots_asked_are_snapshots_got(num, total, zero):
    if total - (0 if zero else 1) + 1 < num:
        with pytest.raises(PlanError, match="cannot be spread"):
            snapshot_steps(total, num, zero)
        return
    steps = snapshot_steps(total, num, zero)
    assert len(set(steps)) == num
    assert steps[0] == (0 if zero else 1)
    assert steps[-1] == total
    gaps = np.diff(steps)
    assert gaps.max() - gaps.min() <= 1


@given(st.lists(st.integers(1, 500), min_size=1, max_size=128), st.integers(1, 9))
def test_deal_gives_each_row_to_one_worker_and_balances(lengths, workers):
    lengths = np.array(lengths)
    hands = balance_by_length(lengths, workers)
    assert sorted(np.concatenate(hands).tolist()) == list(range(len(lengths)))
    loads = [int(lengths[h].sum()) for h in hands]
    assert max(loads) - min(loads) <= 2 * lengths.max()


@given(st.lists(st.integers(1, 100), min_size=1, max_size=50), st.integers(1, 200))
def test_grouped_parts_stay_in_order(rows, most):
    groups = group_parts(list(range(len(rows))), dict(enumerate(rows)), most)
    assert [p for g in groups for p in g] == list(range(len(rows)))
    assert all(len(g) == 1 or sum(rows[p] for p in g) <= most for g in groups)
