"""Weights and stages of a subset in the training: order, shares, restarts, gradients."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2l_ray.data.curriculum import CurriculumPlan
from s2l_ray.data.example_id import array_to_ids
from s2l_ray.data.subset_marks import SubsetMarks
from s2l_ray.data.token_examples import Examples
from s2l_ray.data.training_order import TrainPlan
from s2l_ray.errors import DataError
from s2l_ray.lm.packing import choose_batching
from s2l_ray.lm.response_loss import ResponseLoss
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.tiny import random_examples, random_model

CPU = torch.device("cpu")


def made_parts(sizes: list[int], num_stages: int, seed: int) -> list[Examples]:
    """Parts of one-token examples with stages."""
    rng, parts, start = np.random.default_rng(seed), [], 0
    for size in sizes:
        ids = np.stack([np.arange(start, start + size)] * 2, axis=1).astype(np.uint64)
        stages = rng.integers(0, num_stages, size).astype(np.int8)
        ones = np.ones(size)
        parts.append(Examples(ids, ones.astype(np.int32), ones.astype(bool), np.arange(size + 1), stages=stages))
        start += size
    return parts


def stages_of(examples: Examples) -> Any:
    assert examples.stages is not None
    return examples.stages


def plan_of(parts: list[Examples], num_stages: int, batch: int, steps: int, cumulative: bool) -> CurriculumPlan:
    counts = tuple(tuple(np.bincount(stages_of(part), minlength=num_stages).tolist()) for part in parts)
    base = TrainPlan(tuple((n, len(part)) for n, part in enumerate(parts)), batch, steps, seed=3, window_rows=12)
    return CurriculumPlan(base, counts, cumulative)


def batches_of(plan: CurriculumPlan, parts: list[Examples], start: int = 0) -> list[tuple[int, list[int], set[int]]]:
    loaded = (Examples.concatenate([parts[p] for p in window.parts]) for window in plan.windows_from(start))
    found = []
    for step, batch in plan.batches(start, loaded):
        found.append((step, batch.ids[:, 0].tolist(), set(stages_of(batch).tolist())))
    return found


@pytest.mark.thorough
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 7), st.integers(1, 60),
    st.booleans(), st.integers(0, 100),
)  # fmt: skip
@settings(max_examples=60)
def test_a_curriculum_goes_through_its_stages_and_resumes_anywhere(sizes, num_stages, batch, steps, cumulative, seed):
    parts = made_parts(sizes, num_stages, seed)
    plan = plan_of(parts, num_stages, batch, steps, cumulative)
    found = batches_of(plan, parts)
    assert [step for step, _, _ in found] == list(range(steps))
    of_all = Counter(int(stage) for part in parts for stage in stages_of(part))
    for phase in plan.phases():
        mine = found[phase.first_step : phase.first_step + phase.plan.total_steps]
        assert set().union(*(stages for _, _, stages in mine)) <= set(phase.stages)
        exact = steps * of_all[phase.stages[-1]] / sum(of_all.values())
        assert abs(len(mine) - exact) <= 1
        per_pass = phase.plan.steps_per_epoch
        for at in range(0, len(mine) - per_pass + 1, per_pass):  # every example of the stage once a pass
            seen = [one for _, ids, _ in mine[at : at + per_pass] for one in ids]
            assert len(seen) == len(set(seen)) == sum(of_all[stage] for stage in phase.stages)
    for start in {0, steps // 3, steps // 2, steps - 1}:
        assert batches_of(plan, parts, start) == found[start:]


@pytest.mark.parametrize("cumulative", [False, True])
def test_a_window_loads_no_more_examples_than_without_stages(cumulative):
    parts = made_parts([40] * 50, 8, 0)
    plan = plan_of(parts, 8, 4, 4000, cumulative)
    plan = replace(plan, base=replace(plan.base, window_rows=400))
    windows = plan.windows_from(0)
    assert max(40 * len(window.parts) for window in windows) <= 1.5 * 400
    assert len(windows) > 8, "there must be several for this to say anything"


def test_stages_without_replay_are_trained_alone():
    parts = made_parts([20, 20], 3, 0)
    alone = [stages for _, _, stages in batches_of(plan_of(parts, 3, 4, 30, False), parts)]
    assert all(len(stages) == 1 for stages in alone)
    assert [min(stages) for stages in alone] == sorted(min(stages) for stages in alone)
    replayed = batches_of(plan_of(parts, 3, 4, 30, True), parts)
    assert set().union(*(stages for _, _, stages in replayed[-8:])) == {0, 1, 2}


def test_marks_find_their_examples_whatever_the_order(tmp_path):
    ids = np.array([[5, 1], [5, 9], [5, 3], [2, 7], [9, 0]], dtype=np.uint64)  # equal high halves
    weights, stages = np.array([1, 2, 3, 4, 5], np.float32), np.array([0, 1, 2, 3, 4], np.int8)
    table = {"example_id": array_to_ids(ids), "s2l_weight": pa.array(weights), "s2l_stage": pa.array(stages)}
    storage = Storage.open(str(tmp_path))
    storage.write_table("ids.parquet", pa.table(table))
    marks = SubsetMarks.read(storage, True, True)
    order = np.array([4, 1, 0, 3, 2, 1])
    examples = random_examples(6)
    examples = Examples(ids[order], examples.tokens, examples.mask, examples.offsets)
    [marked] = marks.attach([examples])
    assert marked.weights is not None
    assert marked.weights.tolist() == weights[order].tolist()
    assert stages_of(marked.take(np.array([2, 0]))).tolist() == [0, 4]
    for absent in ([5, 2], [10, 0], [0, 0], [5, 10]):
        with pytest.raises(DataError, match="1 examples are not in the subset"):
            marks.rows_of(np.array([[5, 3], absent], dtype=np.uint64))


@pytest.mark.parametrize("pack", [True, False])
def test_weights_multiply_each_examples_gradient(pack):
    model, examples = random_model("llama"), random_examples(6)
    loss = ResponseLoss(model)
    batching = choose_batching(model, loss, pad_id=0, device=CPU, pack=pack)

    def gradient(examples: Examples) -> tuple[float, Any]:
        model.zero_grad()
        total, _, _ = loss(batching.batch(examples, np.arange(len(examples))))
        total.backward()
        return total.item(), model.model.layers[0].mlp.up_proj.weight.grad.clone()

    weights = np.array([0.5, 3, 0, 1, 2, 0.25], np.float32)
    total, found = gradient(replace(examples, weights=weights))
    singles = [gradient(examples.take(np.array([row]))) for row in range(6)]
    assert total == pytest.approx(sum(w * t for w, (t, _) in zip(weights, singles, strict=True)), rel=1e-5)
    expected = sum(float(w) * g for w, (_, g) in zip(weights, singles, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    _, unweighted = gradient(examples)
    assert float((unweighted - expected).norm() / expected.norm()) > 0.1, "weights must matter"
