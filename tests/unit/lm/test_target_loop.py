"""What a target worker does, without Ray: which weights are exported, when it stops, what a death changes (nothing)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2l_ray.lm.heldout import SetScorer
from s2l_ray.stages.heldout_scores import AFTER, BEFORE
from s2l_ray.stages.target.evaluate import read_evaluation
from s2l_ray.stages.target.loop import fine_tune
from s2l_ray.storage.folder import Storage
from s2l_ray.testing.local_worker import Died, LocalWorkerContext
from tests.support.target_world import (
    World,
    exported,
    interrupted,
    job_of,
    macro_by_hand,
    macro_losses,
    macro_scored,
    macro_seen,
    weights,
    without_time,
)

# --- which weights ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overfitted(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], LocalWorkerContext]:
    """An undisturbed training that ends worse than it was in between, with keep_best."""
    out = tmp_path_factory.mktemp("overfitted")
    worker = LocalWorkerContext(out / "checkpoints")
    return out, fine_tune(job_of(world, out, keep_best=True), worker), worker


@pytest.mark.thorough
def test_keep_best_exports_the_weights_of_the_lowest_heldout_loss(world: World, overfitted):
    out, summary, _ = overfitted
    losses = macro_losses(out)
    assert list(losses) == list(range(5, 61, 5))
    best = min((loss, step) for step, loss in losses.items())[1]
    assert losses[60] > losses[best] + 0.1, "training must have hurt for this to say anything"
    assert (summary["exported_step"], summary["steps"]) == (best, 60)
    assert macro_by_hand(world, exported(out)) == pytest.approx(losses[best], abs=1e-4)
    longest = max(sum(mask) for mask in world.heldout.read_table("other.parquet")["response_mask"].to_pylist())
    assert read_evaluation(Storage.open(out), best)["longest"] == longest  # type: ignore[index]
    assert macro_scored(summary, AFTER) == pytest.approx(losses[best], abs=1e-6), "the exported weights were scored"


@pytest.mark.thorough
def test_without_keep_best_the_last_weights_are_exported(world: World, overfitted, tmp_path: Path):
    worker = LocalWorkerContext(tmp_path / "checkpoints")
    summary = fine_tune(job_of(world, tmp_path), worker)
    assert summary["exported_step"] == summary["steps"] == 60
    losses = macro_losses(overfitted[0])
    assert macro_seen(worker) == {step: loss for step, loss in losses.items() if step < 60}, "the curve"
    assert not (tmp_path / "evaluations").exists(), "nothing went by it: it is not part of the target"
    assert macro_by_hand(world, exported(tmp_path)) == pytest.approx(losses[60], abs=1e-4)
    assert macro_scored(summary, AFTER) == pytest.approx(losses[60], abs=1e-6)


@pytest.mark.thorough
def test_what_looks_on_changes_no_weight(world: World, tmp_path: Path):
    """So it is in no key: a curve, a sweep's scheduler, held-out sets that are scored at the end."""
    out = {every: tmp_path / str(every) for every in (5, None)}
    for every, folder in out.items():
        job = job_of(world, folder, 20, heldout=every is not None, evaluate_every_steps=every)
        fine_tune(job, LocalWorkerContext(folder / "checkpoints"))
    assert all(torch.equal(tensor, weights(out[5])[name]) for name, tensor in weights(out[None]).items())


@pytest.mark.thorough
def test_the_model_before_training_is_scored_too(world: World, tmp_path: Path):
    job = job_of(world, tmp_path, 3, model=str(world.base))
    summary = fine_tune(job, LocalWorkerContext(tmp_path / "checkpoints"))
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(world.base).eval()
    assert macro_scored(summary, BEFORE) == pytest.approx(macro_by_hand(world, base), abs=1e-4)
    assert macro_scored(summary, AFTER) == pytest.approx(macro_by_hand(world, exported(tmp_path)), abs=1e-4)
    alone = SetScorer("cpu")
    for which, scoring in job.scoring.items():
        scored = alone.run((which, scoring, "other"))
        assert scored["table"].equals(summary["scores"][which]), "a process of its own scores the same, to the bit"
        assert scored["peak_memory_bytes"] > 0


@pytest.mark.thorough
@pytest.mark.parametrize("keep_best", [True, False])
def test_patience_ends_the_training_after_so_many_evaluations_without_gain(
    world: World, overfitted, tmp_path: Path, keep_best: bool
):
    losses = macro_losses(overfitted[0])
    job = job_of(world, tmp_path, patience=2, keep_best=keep_best)
    summary = fine_tune(job, LocalWorkerContext(tmp_path / "checkpoints"))
    ours = macro_losses(tmp_path)
    assert ours == {step: losses[step] for step in ours}
    best = min((loss, step) for step, loss in ours.items())[1]
    assert summary["steps"] == max(ours) == best + 2 * 5 < 60
    assert summary["exported_step"] == (best if keep_best else summary["steps"])
    assert macro_by_hand(world, exported(tmp_path)) == pytest.approx(ours[summary["exported_step"]], abs=1e-4)


def test_nothing_held_out_is_trained_and_exported_all_the_same(world: World, tmp_path: Path):
    summary = fine_tune(
        job_of(world, tmp_path, total_steps=3, heldout=False), LocalWorkerContext(tmp_path / "checkpoints")
    )
    assert summary["exported_step"] == 3
    assert summary["scores"] == {}
    assert not (tmp_path / "evaluations").exists()
    exported(tmp_path)


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(
    "deaths",
    [
        [("train", 7)],
        [("train", 23), ("evaluation", 40)],
        [("train", 60)],
    ],
    ids=["before a checkpoint", "twice", "at the end"],
)
def test_a_death_changes_nothing(world: World, overfitted, tmp_path: Path, deaths: list[tuple[str, int]]):
    """Checkpoints are at 12, 24, 36, 48."""
    out, summary, undisturbed = overfitted
    ours, workers = interrupted(job_of(world, tmp_path, keep_best=True), tmp_path / "checkpoints", *deaths)
    assert without_time(ours) == without_time(summary)
    assert macro_losses(tmp_path) == macro_losses(out)
    assert all(torch.equal(tensor, weights(out)[name]) for name, tensor in weights(tmp_path).items())
    done = [e["step"] for worker in workers for e in worker.events if e["event"] == "evaluation"]
    unwritten = [step for at, step in deaths if at == "evaluation"]
    assert sorted(done) == sorted([*set(done), *unwritten]), "what was written before the death is not evaluated again"
    saved = {p["step"]: p["tally"] for worker in workers for p in worker.progress}
    for progress in undisturbed.progress:
        assert without_time({"tally": saved[progress["step"]]}) == without_time({"tally": progress["tally"]})


@pytest.mark.thorough
def test_a_notice_makes_a_checkpoint_where_none_is_due(world: World, overfitted, tmp_path: Path):
    job, checkpoints = job_of(world, tmp_path, keep_best=True), tmp_path / "checkpoints"
    first, second = (
        LocalWorkerContext(checkpoints, ("train", 18), notice_at=16),
        LocalWorkerContext(checkpoints, notice_at=16),
    )
    with pytest.raises(Died):
        fine_tune(job, first)
    assert [p["step"] for p in first.progress] == [12, 16]
    fine_tune(job, second)
    assert second.events[0] == {"event": "ready", "step": 16}
    assert [p["step"] for p in second.progress] == [24, 36, 48], "where it was restored, one is there"
    assert all(torch.equal(tensor, weights(overfitted[0])[name]) for name, tensor in weights(tmp_path).items())


@pytest.mark.thorough
@pytest.mark.parametrize("keep_best", [True, False])
def test_patience_counts_only_what_a_resumed_training_has_reached_again(world: World, tmp_path: Path, keep_best: bool):
    """It dies after the evaluation that ends it: resumed, it must stop there again, and not at its checkpoint."""
    settings: dict[str, Any] = {"patience": 3, "keep_best": keep_best}
    plain, other = tmp_path / "plain", tmp_path / "other"
    summary = fine_tune(job_of(world, plain, **settings), LocalWorkerContext(plain / "checkpoints"))
    settings["checkpoint_every_steps"] = summary["steps"] - 3 * 5 + 3
    ours, _ = interrupted(job_of(world, other, **settings), other / "checkpoints", ("evaluation", summary["steps"]))
    assert without_time(ours) == without_time(summary)
    assert macro_losses(other) == macro_losses(plain)
    assert all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(other).items())


def test_the_tally_is_what_the_plan_gives(world: World, overfitted):
    """Examples and tokens at every checkpoint and at the end: none skipped, none twice in an epoch."""
    _, summary, worker = overfitted
    job = job_of(world, Path("unused"))
    units = [w.parts for w in job.plan.windows_from(0)]
    sizes, tokens, seen = [0], [0], []
    for _, batch in job.plan.batches(0, worker.stream(world.tokens, units)):
        sizes.append(len(batch))
        tokens.append(len(batch.tokens))
        seen.append(batch.ids)
    per_epoch = job.plan.steps_per_epoch
    for start in range(0, 60, per_epoch):
        ids = np.concatenate(seen[start : start + per_epoch])
        assert len(np.unique(ids, axis=0)) == len(ids), "an example twice in an epoch"
        assert len(ids) == job.plan.num_examples or start + per_epoch > 60
    for progress in [*worker.progress, {"step": 60, "tally": summary["tally"]}]:
        step, counters = progress["step"], progress["tally"]
        assert counters["steps"] == step
        assert (counters["examples"], counters["tokens"]) == (sum(sizes[: step + 1]), sum(tokens[: step + 1]))
