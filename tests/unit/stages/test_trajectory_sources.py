"""Losses that training computes anyway, as points of the trajectories: all of them, each once, whatever happens."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2l_ray.artifacts.points import PlanError, Point, plan_points
from s2l_ray.artifacts.snapshots import TRAINING, read_snapshot, snapshot_folder, weights_folder
from s2l_ray.config import load_config
from s2l_ray.config.load import ConfigError
from s2l_ray.config.schema import S2LConfig, TrajectoriesConfig
from s2l_ray.data.corpus_parts import part_name
from s2l_ray.data.epoch_losses import EpochLosses, completed_windows, split_off
from s2l_ray.data.example_id import array_to_hex, ids_to_array
from s2l_ray.data.token_parts import read_parts
from s2l_ray.data.training_order import TrainPlan
from s2l_ray.errors import InternalError
from s2l_ray.lm.load import load_model
from s2l_ray.stages.proxy.loop import run_worker
from s2l_ray.stages.proxy.record import RecordedLossesGone
from s2l_ray.stages.proxy.stage import _check_passes, _kept
from s2l_ray.stages.trajectories.join import join_part, without_trend
from s2l_ray.testing.local_worker import Died
from tests.support.recording import NUM_EXAMPLES, PARTS, STEPS_PER_EPOCH, RecordingWorker, recording_job

ROOT = Path(__file__).parents[3]


def trajectories(folder: Path, source: str = "hybrid") -> np.ndarray:
    """(N, T), joined as the stage joins them."""
    job = recording_job(folder, source)
    joined = []
    for part, _ in PARTS:
        name, tables = part_name(part), []
        for index in range(len(job.points)):
            snapshot = read_snapshot(job.out, index)
            assert snapshot is not None, index
            assert snapshot.epoch == job.points[index].epoch
            table = snapshot_folder(job.out, index).sub(snapshot.weights).read_table(name)
            tables.append(table if snapshot.epoch is None else without_trend(table, snapshot.mean_loss_nats))
        tokens = job.tokens.read_table(name, columns=["example_id", "source"])
        joined.append(join_part(name, ids_to_array(tokens["example_id"]), tokens["source"], tables))
    rows = [table["loss_nats"].combine_chunks().flatten().to_numpy().reshape(-1, len(job.points)) for table in joined]
    return np.concatenate(rows)


def run(folder: Path, dies_after: int = -1, source: str = "hybrid", **settings: Any) -> RecordingWorker:
    torch.set_num_threads(1)
    worker = RecordingWorker(folder, dies_after=dies_after)
    run_worker(recording_job(folder, source, **settings), worker)
    return worker


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(folder)
    return trajectories(folder)


@pytest.mark.thorough
def test_recorded_losses_are_the_models_own_each_example_once_an_epoch(tmp_path):
    """With a learning rate of nothing, the losses of both epochs are those of the untrained model, one by one."""
    run(tmp_path, source="training", learning_rate=1e-30)
    job = recording_job(tmp_path, "training")
    model = load_model(job.proxy, job.tokenizer, job.seed).eval()
    assert [point.epoch for point in job.points] == [0, 1]
    for index in (0, 1):
        folder = snapshot_folder(job.out, index).sub(TRAINING)
        for part, rows in PARTS:
            examples, table = read_parts(job.tokens, [part]), folder.read_table(part_name(part))
            assert table.num_rows == rows
            assert (ids_to_array(table["example_id"]) == examples.ids).all()
            for row, (start, end) in enumerate(zip(examples.offsets[:-1], examples.offsets[1:], strict=True)):
                tokens = torch.from_numpy(examples.tokens[start:end].astype(np.int64))[None]
                labels = torch.where(torch.from_numpy(examples.mask[start:end])[None], tokens, -100)
                with torch.no_grad():
                    own = model(input_ids=tokens, labels=labels).loss.item()
                assert table["loss_nats"][row].as_py() == pytest.approx(own, rel=1e-5)
                assert table["num_response_tokens"][row].as_py() == int((labels[0, 1:] != -100).sum())


@pytest.mark.thorough
def test_scores_are_the_same_whether_losses_are_recorded_or_not(tmp_path, undisturbed):
    """Recording changes nothing of the training: the last snapshot is that of a run without it."""
    job = recording_job(tmp_path, "hybrid")
    plain = TrajectoriesConfig.model_validate({"num_snapshots": 2, "tokens_per_batch": 1024})
    last = job.plan.total_steps
    object.__setattr__(job, "trajectories", plain)
    object.__setattr__(job, "points", (Point(1), Point(last)))
    run_worker(job, RecordingWorker(tmp_path))
    snapshot = read_snapshot(job.out, 1)
    assert snapshot is not None
    scored = [snapshot_folder(job.out, 1).sub(snapshot.weights).read_table(part_name(p)) for p, _ in PARTS]
    once = [ids_to_array(t["example_id"]) for t in scored]
    losses = np.concatenate([t["loss_nats"].to_numpy() for t in scored])
    doubled = {i for ids in once for i in array_to_hex(ids) if array_to_hex(ids).count(i) > 1}
    single = np.array([i not in doubled for ids in once for i in array_to_hex(ids)])
    joined_single = [i not in doubled for ids in once for i in dict.fromkeys(array_to_hex(ids))]
    np.testing.assert_array_equal(losses[single], undisturbed[joined_single, -1])


@pytest.mark.thorough
@pytest.mark.parametrize("dies_after", [3, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH])
def test_a_killed_worker_loses_nothing_and_doubles_nothing(tmp_path, undisturbed, dies_after):
    """Killed at any step: within a window, at its end, at an epoch's end, between an epoch's end and a checkpoint."""
    with pytest.raises(Died):
        run(tmp_path, dies_after)
    run(tmp_path)
    np.testing.assert_array_equal(trajectories(tmp_path), undisturbed)


@pytest.mark.thorough
def test_two_kills_in_a_row_and_a_lost_checkpoint(tmp_path, undisturbed):
    """The newest checkpoint is gone: what was recorded after the one before is recorded again, not kept."""
    for dies_after in (4, 8):
        with pytest.raises(Died):
            run(tmp_path, dies_after)
    newest = sorted((tmp_path / "checkpoints").glob("*/progress.json"))[-1]
    newest.unlink()
    run(tmp_path)
    np.testing.assert_array_equal(trajectories(tmp_path), undisturbed)


@pytest.mark.thorough
def test_another_course_of_the_training_leaves_nothing_behind(tmp_path, undisturbed):
    """Without checkpoints training starts over, and its epochs hold nothing of the earlier one."""
    with pytest.raises(Died):
        run(tmp_path, 7, learning_rate=0.3)
    for file in (tmp_path / "checkpoints").glob("*/*"):
        file.unlink()
    with pytest.raises(Died):
        run(tmp_path, 1)
    assert not list((tmp_path / "out").rglob(f"{TRAINING}/*.parquet"))
    run(tmp_path)
    np.testing.assert_array_equal(trajectories(tmp_path), undisturbed)


@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_damaged_parts_of_an_unfinished_epoch_are_named(tmp_path, damage):
    with pytest.raises(Died):
        run(tmp_path, STEPS_PER_EPOCH, checkpoint_every_steps=1)
    [victim] = (tmp_path / "out").rglob(f"{TRAINING}/{part_name(4)}")  # of the first window
    content = victim.read_bytes()
    victim.unlink()
    if damage == "altered":
        victim.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(RecordedLossesGone, match=rf"{victim.parent.name}/{victim.name}.* only another training can"):
        run(tmp_path)


@pytest.mark.slow  # tests/e2e/test_pipeline.py has two workers on Ray; here they die, and one goes on
def test_two_workers_record_what_one_does_and_one_goes_on_from_them(tmp_path, undisturbed):
    """The first epoch is two workers' alone; they die within a window of the second."""
    recording_job(tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = ["2", str(tmp_path), str(STEPS_PER_EPOCH + 2)]
    ranks = [
        subprocess.Popen([sys.executable, "-m", "tests.support.recording", str(rank), *arguments], env=environment)
        for rank in (0, 1)
    ]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    first = read_snapshot(recording_job(tmp_path).out, 0)
    assert first is not None
    assert first.num_examples == NUM_EXAMPLES
    run(tmp_path)
    np.testing.assert_allclose(trajectories(tmp_path), undisturbed, atol=2e-5)


@pytest.mark.thorough
def test_a_part_of_an_epoch_gives_no_point(tmp_path):
    worker = run(tmp_path, source="training", steps=2 * STEPS_PER_EPOCH + 3)
    assert [e["epoch"] for e in worker.events if e["event"] == "snapshot"] == [0, 1]
    assert trajectories(tmp_path, "training").shape[1] == 2


@given(
    st.sampled_from(["training", "hybrid"]), st.integers(1, 300), st.integers(1, 60), st.integers(1, 8), st.booleans()
)
def test_points_are_in_the_order_of_time_at_steps_of_their_epochs(source, total, per_epoch, scored, zero):
    hybrid = source == "hybrid"
    if hybrid and scored == 1:
        zero = False
    settings = {"source": source, "num_snapshots": scored if hybrid else None, "include_step_zero": hybrid and zero}
    config = TrajectoriesConfig.model_validate(settings)
    epochs = total // per_epoch
    if not epochs or epochs + config.num_scored < 2 or (hybrid and total + zero < scored):
        with pytest.raises(PlanError):
            plan_points(config, total, per_epoch)
        return
    try:
        points = plan_points(config, total, per_epoch)
    except PlanError:
        if not (hybrid and per_epoch <= scored):  # else a snapshot may stand at each of an epoch's steps
            raise
        return
    steps = [point.step for point in points]
    assert steps == sorted(set(steps))
    assert [p.epoch for p in points if p.epoch is not None] == list(range(epochs))
    assert sum(p.epoch is None for p in points) == config.num_scored
    assert all(p.epoch * per_epoch <= p.step < (p.epoch + 1) * per_epoch for p in points if p.epoch is not None)
    assert not hybrid or steps[-1] == total, "the trained proxy is scored"


def test_windows_end_where_their_last_example_was_met_and_missing_losses_are_errors():
    plan = TrainPlan(tuple(PARTS), 20, STEPS_PER_EPOCH, 0, window_rows=50)
    windows = plan.windows(0)
    assert len(windows) > 1
    ended = [w for step in range(STEPS_PER_EPOCH) for w in completed_windows(plan, windows, step)]
    assert ended == windows
    rng = np.random.default_rng(0)
    everything = EpochLosses(
        np.arange(NUM_EXAMPLES), rng.integers(0, 9, (NUM_EXAMPLES, 2)).astype(np.uint64),
        rng.random(NUM_EXAMPLES).astype(np.float32), np.ones(NUM_EXAMPLES, np.int32),
    )  # fmt: skip
    with pytest.raises(InternalError, match="examples and recorded"):
        split_off(plan, windows[0], everything.take(np.arange(1, NUM_EXAMPLES)))
    with pytest.raises(InternalError, match="examples and recorded"):
        split_off(plan, windows[0], EpochLosses.concatenate([everything, everything]))


def test_the_trend_of_an_epoch_is_taken_out_and_the_examples_differences_stay():
    rows = 4000
    plan = TrainPlan(((0, rows),), 32, 125, 0, window_rows=rows)
    rng = np.random.default_rng(1)
    own = rng.normal(0, 1, rows)
    falling = 3 * np.exp(-np.arange(rows) / 1000)
    order = plan.order_of(plan.windows(0)[0])
    losses = (own[order] + falling).astype(np.float32)
    met = EpochLosses(np.arange(rows), np.zeros((rows, 2), np.uint64), losses, np.ones(rows, np.int32))
    window, rest = split_off(plan, plan.windows(0)[0], met)
    assert not len(rest)
    assert np.corrcoef(window.losses, own)[0, 1] < 0.85, "there must be a trend for this to say anything"
    assert np.corrcoef(window.losses - window.trend, own)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["trajectories.source=training", "trajectories.num_snapshots=4"], "num_snapshots=4 would do nothing"),
        (["trajectories.source=training", "trajectories.num_snapshots=null", "trajectories.include_step_zero=true"],
         "include_step_zero=true would do nothing"),
        (["trajectories.num_snapshots=1"], "use 2 or more"),
        (["trajectories.source=hybrid", "trajectories.num_snapshots=1", "trajectories.include_step_zero=true"],
         "use 2 or more"),
        (["trajectories.source=training", "trajectories.num_snapshots=null", "proxy.epochs=1.9"],
         "proxy.epochs=1.9 has 1"),
        (["trajectories.source=hybrid", "proxy.epochs=0.5"], "proxy.epochs=0.5 has 0"),
        (["trajectories.source=hybrid", "trajectories.num_snapshots=2", "clusters.num_snapshots=5"],
         "more than the 2 epochs and 2 snapshots"),
        (["trajectories.source=loss"], "'snapshots', 'training' or 'hybrid'"),
    ],
)  # fmt: skip
def test_what_would_do_nothing_or_leave_nothing_is_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        load_config("quickstart", settings)


def test_each_source_has_its_own_default_and_its_own_key():
    def settings(*changes: str) -> dict[str, Any]:
        return load_config("quickstart", ("trajectories.num_snapshots=null", *changes)).trajectories.settings

    assert settings() == {"num_snapshots": 12, "include_step_zero": False, "tokens_per_batch": 4096}
    assert settings("trajectories.source=hybrid")["num_snapshots"] == 3
    training = settings("trajectories.source=training")
    assert training == {"num_snapshots": 0, "include_step_zero": False, "source": "training"}
    assert training == settings("trajectories.source=training", "trajectories.tokens_per_batch=8192")


# --- selectors that need a snapshot's weights -------------------------------------------------------------------------


def asking(*changes: str) -> S2LConfig:
    return load_config(
        "quickstart",
        (
            "trajectories.num_snapshots=null",
            "selection.selectors=[s2l,random,facility_location]",
            "target.subsets=[full]",
            *changes,
        ),
    )


def test_the_weights_of_the_first_snapshot_are_kept_unless_they_are_those_that_training_began_with():
    first = asking("selection.reference.snapshot=first")
    assert _kept(first, (Point(1), Point(5), Point(9))) == (0,)
    assert _kept(first, (Point(0), Point(5), Point(9))) == ()
    early = asking("selection.reference.snapshot=early", "selection.reference.early_share=0.3")
    assert _kept(early, (Point(1), Point(5), Point(9))) == (1,)
    assert _kept(asking(), (Point(1), Point(5), Point(9))) == ()


@pytest.mark.thorough
def test_digests_of_kept_weights_are_not_lost_to_the_snapshots_after_them(tmp_path):
    """Those of parts are the snapshots' own; without one the file would be read again for the manifest."""
    job = recording_job(tmp_path, "hybrid")
    index = next(i for i, point in enumerate(job.points) if point.epoch is None)
    kept = dataclasses.replace(job, out=job.out.recording(), kept=(index,))
    summary = run_worker(kept, RecordingWorker(tmp_path))
    noted = {file["name"]: file for file in summary["written"]}
    files = [entry.name for entry in job.out.list(weights_folder(index).rstrip("/"))]
    assert files
    assert all(noted[name]["digest"] == job.out.digest(name).digest for name in files)
    assert {name.split("/")[0] for name in noted} == {"model", "snapshots"}
    assert not any(name.endswith(".parquet") for name in noted)


def test_weights_in_the_middle_of_an_epoch_are_refused_and_not_taken_from_elsewhere():
    hybrid = (Point(2, 0), Point(5), Point(8, 1), Point(10))
    first = asking("trajectories.source=hybrid", "selection.reference.snapshot=first")
    with pytest.raises(PlanError, match=r"embedding@first .*source=hybrid .*epoch 1, .*snapshot=late, or .*=snapshots"):
        _check_passes(first, hybrid)
    _check_passes(asking("trajectories.source=hybrid"), hybrid)
    swept = load_config(
        "quickstart",
        ("trajectories.source=training", "trajectories.num_snapshots=null", "sweep.selectors=[facility_location]"),
    )
    with pytest.raises(PlanError, match=r"embedding@late .*epoch 2, which keeps no weights; use trajectories\.source="):
        _check_passes(swept, (Point(2, 0), Point(8, 1)))


@pytest.mark.parametrize(
    "selection",
    [
        ["selection.selectors=[s2l,random,facility_location]", "target.subsets=[full]"],
        ["selection.selectors=[s2l,random,ifd]", "target.subsets=[full]"],
        ["selection.guard.rules=[prompt_gain]"],
    ],
)
def test_a_pass_without_any_snapshot_is_refused(selection):
    with pytest.raises(ConfigError, match=r"source=training has no snapshot; use hybrid or snapshots"):
        load_config("quickstart", ["trajectories.source=training", "trajectories.num_snapshots=null", *selection])
    load_config("quickstart", ["trajectories.source=hybrid", "trajectories.num_snapshots=null", *selection])
